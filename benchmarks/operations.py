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
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

TOKENS = 64


class Case(NamedTuple):
    """`auto`: transformers' class, `task`: ours; `inputs`: their names in `forward` and shapes, one or several, ids and masks
    being those whose names end so; `options` of our build; `given`: what the tracer gets made for it, since what transformers
    5 makes of masks and positions by itself does not convert with coremltools 9. `half`: the encoder or the decoder alone."""

    model_type: str
    config: dict[str, Any]
    auto: str
    task: str
    inputs: dict[str, tuple[int, ...]]
    options: dict[str, Any]
    given: tuple[str, ...] = ()
    half: str = ""


class Row(NamedTuple):
    """How many operations; `traced` is None where tracing's graph does not convert. `mended`: it does with coremltools mended."""

    ours: int
    traced: int | None
    mended: bool


_TOKENS = {"input_ids": (1, TOKENS)}
_PICTURE = {"pixel_values": (1, 3, 224, 224)}
_TEXT = {"hidden_size": 96, "intermediate_size": 64, "num_hidden_layers": 12, "num_attention_heads": 12}
_LENGTH = {"sequence_length": TOKENS, "attention_mask": False}
_WHISPER = {
    "d_model": 96,
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 8,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "pad_token_id": 1,
    "eos_token_id": 1,
    "bos_token_id": 1,
    "decoder_start_token_id": 1,
    "begin_suppress_tokens": None,
}
CASES = {
    "gpt2": Case(
        "gpt2",
        {"n_embd": 96, "n_layer": 12, "n_head": 12, "vocab_size": 99, "bos_token_id": 1, "eos_token_id": 1},
        "AutoModelForCausalLM",
        "text-generation",
        _TOKENS,
        _LENGTH,
        ("mask",),
    ),
    "bert-base": Case(
        "bert",
        _TEXT | {"vocab_size": 99},
        "AutoModel",
        "feature-extraction",
        _TOKENS,
        _LENGTH,
        ("no mask", "token_type_ids", "position_ids"),
    ),
    "TinyLlama-1.1B": Case(
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
        _TOKENS,
        _LENGTH,
        ("mask", "position_ids"),
    ),
    "vit-base": Case(
        "vit", _TEXT, "AutoModel", "feature-extraction", _PICTURE, {"image_size": 224, "postprocess": False}
    ),
    "resnet-50": Case(
        "resnet",
        {"hidden_sizes": [32, 64, 96, 128], "embedding_size": 16},
        "AutoModel",
        "feature-extraction",
        _PICTURE,
        {"image_size": 224, "postprocess": False},
    ),
    "wav2vec2-base": Case(
        "wav2vec2",
        _TEXT | {"conv_dim": [16] * 7, "vocab_size": 32},
        "AutoModelForCTC",
        "ctc",
        {"input_values": (1, 16000)},
        {"sequence_length": 16000, "attention_mask": False, "postprocess": False},
    ),
    "t5-small's decoder": Case(
        "t5",
        {"d_model": 96, "d_kv": 64, "d_ff": 64, "num_layers": 6, "num_heads": 8, "vocab_size": 99},
        "AutoModelForSeq2SeqLM",
        "text2text-generation",
        {"decoder_input_ids": (1, TOKENS), "encoder_outputs": (1, TOKENS, 96)},
        _LENGTH | {"context_length": TOKENS},
        ("decoder mask",),
        half="decoder",
    ),
    "whisper-base's encoder": Case(
        "whisper",
        _WHISPER | {"encoder_layers": 6, "decoder_layers": 6, "vocab_size": 99},
        "AutoModelForSpeechSeq2Seq",
        "speech-seq2seq",
        {"input_features": (1, 80, 3000)},
        {"postprocess": False},
        half="encoder",
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
        found = {name: row._asdict() for name, row in rows.items()}
        options.json.write_text(
            json.dumps({"command": "python benchmarks/operations.py", "operations": found}, indent=2)
        )
    return 0 if all(row.traced is None or row.ours <= row.traced for row in rows.values()) else 1


def counts(case: Case, folder: Path) -> Row:
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
    ours, other = operations(package, case.half), traced(case, model, folder / "traced.mlpackage")
    if other is not None:
        return Row(ours, other, False)
    with mended():
        other = traced(case, model, folder / "mended.mlpackage")
    return Row(ours, other, other is not None)


@contextmanager
def mended() -> Iterator[None]:
    """coremltools 9's conversion of torch's `int` and `bool` calls int() on arrays of one element and one axis, which numpy
    2.4 refuses (`only 0-dimensional arrays can be converted to Python scalars`); here the element is taken out first."""
    import numpy as np
    from coremltools.converters.mil.frontend.torch import ops

    cast = ops._cast

    def of_element(context: Any, node: Any, dtype: Any, name: str) -> None:
        class Scalar:
            """A stand-in for `dtype`: the value is no instance of it, so it is called."""

            def __new__(cls, value: Any) -> Any:
                return dtype(np.asarray(value).item())

        cast(context, node, Scalar, name)

    with mock.patch.object(ops, "_cast", of_element):
        yield


def traced(case: Case, model: Any, package: Path) -> int | None:
    """The operations of the traced model; None, and why on stderr, where it does not convert."""
    try:
        convert(case, model, package)
    except Exception as error:  # noqa: BLE001 -- whatever a tracer may raise is a result here
        print(f"{case.model_type}: does not convert: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
        return None
    return operations(package)


def convert(case: Case, model: Any, package: Path, types: dict[str, Any] | None = None, **options: Any) -> None:
    """Traces a model and saves what coremltools makes of it; `types` stand for those of inputs, `options` are the converter's."""
    converted(case, trace(*wrapped(case, model)), types, **options).save(str(package))


def trace(module: Any, example: tuple[Any, ...]) -> Any:
    import torch

    with torch.no_grad():
        return torch.jit.trace(module, example, check_trace=False, strict=False)  # type: ignore[no-untyped-call]


def converted(case: Case, graph: Any, types: dict[str, Any] | None = None, **options: Any) -> Any:
    """coremltools' model of a traced or exported one."""
    import coremltools as ct

    settings = {"minimum_deployment_target": ct.target.iOS18, "compute_precision": ct.precision.FLOAT16}
    inputs = list((input_types(case) | (types or {})).values())
    return ct.convert(graph, inputs=inputs, skip_model_load=True, **settings | options)


def input_types(case: Case) -> dict[str, Any]:
    """coremltools' types of the inputs."""
    import coremltools as ct
    import numpy as np

    return {
        name: ct.TensorType(name, shape, np.int32 if name.endswith(("ids", "mask")) else np.float32)
        for name, shape in case.inputs.items()
    }


def wrapped(case: Case, model: Any) -> tuple[Any, tuple[Any, ...]]:
    """(the model, or the half of it, as a module that can be traced, its example inputs)."""
    import torch

    class First(torch.nn.Module):
        """inputs -> the model's first output."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model.get_encoder() if case.half == "encoder" else model
            if "decoder mask" in case.given:
                self.register_buffer("decoder_attention_mask", torch.full((1, 1, TOKENS, TOKENS), -1e4).triu(1))
            if "mask" in case.given:
                self.register_buffer("attention_mask", torch.full((1, 1, TOKENS, TOKENS), -1e4).triu(1))
            if "infinite mask" in case.given:
                self.register_buffer("attention_mask", torch.full((1, 1, TOKENS, TOKENS), -torch.inf).triu(1))
            if "no mask" in case.given:
                self.register_buffer("attention_mask", torch.zeros(1, 1, TOKENS, TOKENS))
            if "token_type_ids" in case.given:
                self.register_buffer("token_type_ids", torch.zeros(1, TOKENS, dtype=torch.int64))
            if "position_ids" in case.given:
                self.register_buffer("position_ids", torch.arange(TOKENS)[None])

        def forward(self, *inputs: Any) -> Any:
            cache = {"use_cache": False} if {"mask", "infinite mask", "decoder mask"} & set(case.given) else {}
            named = dict(zip(case.inputs, inputs, strict=True))
            if "encoder_outputs" in named:
                named["encoder_outputs"] = (named["encoder_outputs"],)
            if "padding" in case.given:
                hidden = 1 - named["attention_mask"][:, None, None].float()
                named["attention_mask"] = hidden * torch.finfo(torch.float32).min
            return self.model(**named, **dict(self.named_buffers(recurse=False)), **cache)[0]

    example = tuple(
        torch.ones(shape, dtype=torch.int64) if name.endswith(("ids", "mask")) else torch.randn(shape)
        for name, shape in case.inputs.items()
    )
    return First().eval(), example


def operations(package: Path, half: str = "") -> int:
    """Those that are not constants, of all functions; of one half of an encoder-decoder its own. The keys and values that our
    `encode` makes of the encoder's states are the decoder's: tracing has them there."""
    from milbuild.package.reader import Package

    read = Package(package)
    found = {
        name: [op.name for op in read.function(name).operations if op.type != "const"] for name in read.function_names
    }
    if not half or "encode" not in found:
        return sum(map(len, found.values()))
    cross = [name for name in found["encode"] if "decoder_cross_" in name or name.startswith("cross_")]
    return len(found["encode"]) - len(cross) if half == "encoder" else len(found["decode"]) + len(cross)


def table(rows: dict[str, Row]) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("coremltools", "torch", "transformers", "numpy"))
    lines = [f"Operations that are not constants, iOS 18, float16; {versions}.", ""]
    lines += ["| model | ours | traced | traced / ours |", "|---|---:|---:|---:|"]
    for name, row in rows.items():
        other = "does not convert" if row.traced is None else f"{row.traced}{'*' if row.mended else ''}"
        ratio = "" if row.traced is None else f"{row.traced / row.ours:.2f}"
        lines.append(f"| {name} | {row.ours} | {other} | {ratio} |")
    if any(row.mended for row in rows.values()):
        lines += [
            "",
            "\\* does not convert as coremltools comes: its `int` operation fails with this numpy; counted with that mended.",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
