"""What the runtime takes to play a package, against Hugging Face's eager model in float32 on the same threads.

    python benchmarks/runtime.py [--repeat 7] [--threads N] [--json FILE]

Random weights of published configurations (benchmarks/checkpoints.py). GPT-2: a prefill of 64 and of 512 tokens, and 64 tokens
decoded one by one behind a prompt of 64, with a state. BERT base at 128 tokens, ViT base at 224 pixels, Whisper base's encoder at
30 seconds. BERT base once more at 64 tokens, through a package that torch.jit.trace and coremltools made. The three competitors
of a row take turns within one process; the table shows medians of the processor's time, and the ratio to Hugging Face's. In
brackets the time that passed: as much where one thread is busy, half where two are, whether with work or with waiting for some.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["TQDM_DISABLE"] = "1"

import checkpoints
import numpy as np
import torch

PROMPT, DECODED = 64, 64
PRECISIONS = ("float32", "declared")

Case = dict[str, Callable[[], Any]]
Row = dict[str, tuple[float, float]]  # competitor -> milliseconds of the processor, and those that passed


class Timer:
    """Seconds since it was made: of the processor, and those that passed."""

    def __init__(self) -> None:
        self.started = time.process_time(), time.perf_counter()

    def read(self) -> tuple[float, float]:
        return time.process_time() - self.started[0], time.perf_counter() - self.started[1]


def token_ids(count: int, vocabulary: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, vocabulary, (1, count)).astype(np.int32)


def gpt2(folder: Path) -> dict[str, Case]:
    from transformers import GPT2LMHeadModel

    import milbuild
    from milbuild import runtime

    checkpoints.make("gpt2", folder / "checkpoint")
    eager = GPT2LMHeadModel.from_pretrained(folder / "checkpoint", attn_implementation="eager").eval()
    cases: dict[str, Case] = {}
    for count in (64, 512):
        path = folder / f"prefill{count}.mlpackage"
        milbuild.build(folder / "checkpoint", sequence_length=count).save(path)
        ids = token_ids(count, eager.config.vocab_size)
        tokens = torch.from_numpy(ids).long()
        case: Case = {"Hugging Face": lambda tokens=tokens: eager(tokens, use_cache=False).logits}
        for precision in PRECISIONS:
            model = runtime.load(path, precision=precision)
            case[precision] = lambda model=model, ids=ids: model.predict({"input_ids": ids})
        cases[f"GPT-2, prefill of {count} tokens"] = case

    path = folder / "decode.mlpackage"
    milbuild.build(folder / "checkpoint", cache="state", context_length=PROMPT + DECODED, prefill_length=PROMPT).save(
        path
    )
    ids = token_ids(PROMPT, eager.config.vocab_size)

    def decode_eager() -> tuple[float, float]:
        output = eager(torch.from_numpy(ids).long(), use_cache=True)
        cache, token = output.past_key_values, output.logits[:, -1:].argmax(-1)
        timer = Timer()
        for _ in range(DECODED):
            output = eager(token, past_key_values=cache, use_cache=True)
            token = output.logits[:, -1:].argmax(-1)
        return timer.read()

    def decode(model: Any, prefill: Any) -> tuple[float, float]:
        state = model.make_state()
        logits = prefill.predict({"input_ids": ids, "position": [0]}, state)["logits"]
        token = logits[:, -1:].argmax(-1)
        timer = Timer()
        for at in range(PROMPT, PROMPT + DECODED):
            token = model.predict({"input_ids": token, "position": [at]}, state)["logits"].argmax(-1)
        return timer.read()

    case = {"Hugging Face": decode_eager}
    for precision in PRECISIONS:
        model, prefill = (runtime.load(path, name, precision) for name in ("main", "prefill"))
        case[precision] = lambda model=model, prefill=prefill: decode(model, prefill)
    cases[f"GPT-2, {DECODED} tokens decoded"] = case
    return cases


def encoders(folder: Path) -> dict[str, Case]:
    import transformers

    import milbuild
    from milbuild import runtime

    wanted = {
        "BERT base, 128 tokens": ("bert-base", {"sequence_length": 128, "attention_mask": False}, {"input_ids": (1, 128)}),
        "ViT base, 224 x 224": ("vit-base", {"image_size": 224, "postprocess": False}, {"pixel_values": (1, 3, 224, 224)}),
        "Whisper base's encoder, 30 s": (
            "whisper-base", {"task": "speech-seq2seq", "function": "encode", "postprocess": False},
            {"input_features": (1, 80, 3000)},
        ),
    }  # fmt: skip
    cases: dict[str, Case] = {}
    random = np.random.default_rng(0)
    for label, (name, options, shapes) in wanted.items():
        checkpoints.make(name, folder / name)
        path = folder / f"{name}.mlpackage"
        milbuild.build(folder / name, **{"task": "feature-extraction"} | options).save(path)
        eager = transformers.AutoModel.from_pretrained(folder / name, attn_implementation="eager").eval()
        eager = eager.get_encoder() if name == "whisper-base" else eager
        given = {
            key: token_ids(shape[1], 30522) if key == "input_ids" else random.standard_normal(shape).astype(np.float32)
            for key, shape in shapes.items()
        }
        tensors = {key: torch.from_numpy(value) for key, value in given.items()}
        tensors = {key: value if value.is_floating_point() else value.long() for key, value in tensors.items()}
        case: Case = {"Hugging Face": lambda eager=eager, tensors=tensors: eager(**tensors)[0]}
        for precision in PRECISIONS:
            model = runtime.load(path, precision=precision)
            case[precision] = lambda model=model, given=given: model.predict(given)
        cases[label] = case
    return cases


def bert(folder: Path) -> dict[str, Case]:
    import coremltools as ct
    from transformers import BertConfig, BertModel

    from milbuild import runtime

    class Hidden(torch.nn.Module):
        """token ids -> hidden states. The mask is ready-made: with transformers 5 its making does not convert."""

        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.model = model
            self.register_buffer("mask", torch.zeros((1, 1, PROMPT, PROMPT)))
            self.register_buffer("types", torch.zeros((1, PROMPT), dtype=torch.int64))
            self.register_buffer("positions", torch.arange(PROMPT)[None])

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            arguments = {"token_type_ids": self.types, "position_ids": self.positions, "attention_mask": self.mask}
            hidden: torch.Tensor = self.model(input_ids, **arguments).last_hidden_state
            return hidden

    torch.manual_seed(0)
    config = BertConfig(attn_implementation="eager")
    eager = BertModel(config, add_pooling_layer=False).eval()
    ids = token_ids(PROMPT, config.vocab_size)
    graph = torch.jit.trace(Hidden(eager), torch.from_numpy(ids).long(), check_trace=False)
    path = folder / "bert.mlpackage"
    ct.convert(
        graph,
        inputs=[ct.TensorType("input_ids", ids.shape, np.int32)],
        outputs=[ct.TensorType("hidden")],
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT16,
        skip_model_load=True,
    ).save(str(path))
    case: Case = {"Hugging Face": lambda: eager(torch.from_numpy(ids).long()).last_hidden_state}
    for precision in PRECISIONS:
        model = runtime.load(path, precision=precision)
        case[precision] = lambda model=model: model.predict({"input_ids": ids})
    return {f"BERT base, traced, {PROMPT} tokens": case}


def measure(case: Case, repeat: int) -> Row:
    """Medians of each competitor, who take turns. One that times a part of itself returns a timer's reading."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in case}
    for turn in range(repeat + 1):
        for name, run in case.items():
            timer = Timer()
            with torch.no_grad():
                own = run()
            reading = own if isinstance(own, tuple) else timer.read()
            if turn:  # the first round only warms up
                taken[name].append(reading)
    medians = {
        name: [1e3 * statistics.median(each) for each in zip(*times, strict=True)] for name, times in taken.items()
    }
    return {name: (cpu, wall) for name, (cpu, wall) in medians.items()}


def table(rows: dict[str, Row]) -> str:
    lines = [
        "| ms of CPU (and of wall time) | Hugging Face, float32 | runtime, float32 | ratio | runtime, declared float16 | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        cells = ["{:.1f} ({:.1f})".format(*row["Hugging Face"])]
        for precision in PRECISIONS:
            cells += ["{:.1f} ({:.1f})".format(*row[precision]), f"{row[precision][0] / row['Hugging Face'][0]:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Times the runtime against Hugging Face's eager model.")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=("gpt2", "encoders", "bert"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, make in {"gpt2": gpt2, "encoders": encoders, "bert": bert}.items():
            if arguments.only in (None, name):
                with torch.no_grad():
                    cases = make(Path(folder))
                rows |= {label: measure(case, arguments.repeat) for label, case in cases.items()}
    print(table(rows))
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "coremltools", "numpy"))
    print(f"\n{arguments.threads} threads, {platform.machine()}, {platform.system()}; {packages}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
