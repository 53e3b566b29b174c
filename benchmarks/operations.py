"""How many operations a graph has, ours beside what `torch.jit.trace` and `coremltools.convert` leave of the same model.

    python benchmarks/operations.py [--only bert-base] [--json FILE]

Layers, heads and the course of a graph are those of the published models; widths are small, since no operation depends on
them. Both for iOS 18, in float16, of one call of fixed shape without padding.
"""

import argparse
import json
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

TOKENS = 64


class Case(NamedTuple):
    """`auto`: transformers' class, `task`: ours; `options` of our build; `given`: what the tracer gets made for it, since what
    transformers 5 makes of masks and positions by itself does not convert with coremltools 9."""

    model_type: str
    config: dict[str, Any]
    auto: str
    task: str
    shape: tuple[int, ...]
    options: dict[str, Any]
    given: tuple[str, ...] = ()


_TEXT = {"hidden_size": 96, "intermediate_size": 64, "num_hidden_layers": 12, "num_attention_heads": 12}
_LENGTH = {"sequence_length": TOKENS, "attention_mask": False}
CASES = {
    "gpt2": Case(
        "gpt2",
        {"n_embd": 96, "n_layer": 12, "n_head": 12, "vocab_size": 99, "bos_token_id": 1, "eos_token_id": 1},
        "AutoModelForCausalLM",
        "text-generation",
        (1, TOKENS),
        _LENGTH,
        ("mask",),
    ),
    "bert-base": Case(
        "bert",
        _TEXT | {"vocab_size": 99},
        "AutoModel",
        "feature-extraction",
        (1, TOKENS),
        _LENGTH,
        ("no mask", "token_type_ids", "position_ids"),
    ),
    "TinyLlama": Case(
        "llama",
        {
            "hidden_size": 64 * 4,
            "intermediate_size": 64,
            "num_hidden_layers": 22,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "vocab_size": 99,
        },
        "AutoModelForCausalLM",
        "text-generation",
        (1, TOKENS),
        _LENGTH,
        ("mask", "position_ids"),
    ),
    "vit-base": Case(
        "vit", _TEXT, "AutoModel", "feature-extraction", (1, 3, 224, 224), {"image_size": 224, "postprocess": False}
    ),
    "resnet-50": Case(
        "resnet",
        {"hidden_sizes": [32, 64, 96, 128], "embedding_size": 16},
        "AutoModel",
        "feature-extraction",
        (1, 3, 224, 224),
        {"image_size": 224, "postprocess": False},
    ),
    "wav2vec2-base": Case(
        "wav2vec2",
        _TEXT | {"conv_dim": [16] * 7, "vocab_size": 32},
        "AutoModelForCTC",
        "ctc",
        (1, 16000),
        {"sequence_length": 16000, "attention_mask": False, "postprocess": False},
    ),
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", choices=CASES, metavar="MODEL", help=", ".join(CASES))
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    rows = {}
    for name in [options.only] if options.only else CASES:
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = counts(CASES[name], Path(folder))
    print(table(rows))
    if options.json:
        options.json.write_text(
            json.dumps({"command": "python benchmarks/operations.py", "operations": rows}, indent=2)
        )
    return 0 if all(row["traced"] is None or row["ours"] <= row["traced"] for row in rows.values()) else 1


def counts(case: Case, folder: Path) -> dict[str, int | None]:
    import torch
    import transformers

    import milbuild

    config = transformers.AutoConfig.for_model(case.model_type, **case.config)
    torch.manual_seed(0)
    auto = getattr(transformers, case.auto)
    model = auto.from_config(config, attn_implementation="eager").eval()
    model.save_pretrained(folder / "checkpoint")
    package = folder / "ours.mlpackage"
    milbuild.build(folder / "checkpoint", task=case.task, **case.options).save(package)
    return {"ours": operations(package), "traced": traced(case, model, folder / "traced.mlpackage")}


def traced(case: Case, model: Any, package: Path) -> int | None:
    """The operations of the traced model; None, and why on stderr, where it does not convert."""
    import coremltools as ct
    import numpy as np
    import torch

    class First(torch.nn.Module):
        """input -> the model's first output."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model
            if "mask" in case.given:
                self.register_buffer("attention_mask", torch.full((1, 1, TOKENS, TOKENS), -1e4).triu(1))
            if "no mask" in case.given:
                self.register_buffer("attention_mask", torch.zeros(1, 1, TOKENS, TOKENS))
            if "token_type_ids" in case.given:
                self.register_buffer("token_type_ids", torch.zeros(1, TOKENS, dtype=torch.int64))
            if "position_ids" in case.given:
                self.register_buffer("position_ids", torch.arange(TOKENS)[None])

        def forward(self, x: Any) -> Any:
            cache = {"use_cache": False} if "mask" in case.given else {}
            return self.model(x, **dict(self.named_buffers(recurse=False)), **cache)[0]

    text = len(case.shape) == 2 and case.shape[1] == TOKENS
    example = torch.zeros(case.shape, dtype=torch.int64) if text else torch.randn(case.shape)
    try:
        with torch.no_grad():
            graph = torch.jit.trace(First().eval(), example, check_trace=False, strict=False)  # type: ignore[no-untyped-call]
        converted = ct.convert(
            graph,
            inputs=[ct.TensorType("x", case.shape, np.int32 if text else np.float32)],
            minimum_deployment_target=ct.target.iOS18,
            compute_precision=ct.precision.FLOAT16,
            skip_model_load=True,
        )
    except Exception as error:  # noqa: BLE001 -- whatever a tracer may raise is a result here
        print(f"{case.model_type}: does not convert: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
        return None
    converted.save(str(package))
    return operations(package)


def operations(package: Path) -> int:
    """Those of the main function that are not constants."""
    from milbuild.package.reader import Package

    return sum(op.type != "const" for op in Package(package).function().operations)


def table(rows: dict[str, dict[str, int | None]]) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("coremltools", "torch", "transformers"))
    lines = [f"Operations that are not constants, iOS 18, float16; {versions}.", ""]
    lines += ["| model | ours | traced | traced / ours |", "|---|---:|---:|---:|"]
    for name, row in rows.items():
        ours, other = row["ours"], row["traced"]
        ratio = "" if other is None or not ours else f"{other / ours:.2f}"
        lines.append(f"| {name} | {ours} | {'does not convert' if other is None else other} | {ratio} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
