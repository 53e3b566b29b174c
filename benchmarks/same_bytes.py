"""SHA-256 sums of builds of every kind: whether a change of the code changed what it writes.

    python benchmarks/same_bytes.py --record before.json
    python benchmarks/same_bytes.py --against before.json

Each build has three sums: of its program, of its interface (inputs, outputs and states with their descriptions), and of
weight.bin. The metadata is left out: it names versions. Checkpoints are those of the tests, of one seed, so the sums are
compared on one machine with the same libraries. Exit code 1: some build differs.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import milbuild
from milbuild import architectures
from tests.conftest import checkpoint
from tests.tiny import TABLE, VISION

# Of the checkpoints for images, so that they take an image input.
PROCESSOR = {
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}
STATE = {"cache": "state", "context_length": 29}
# name -> (model_type, task, options); besides, each model type is built for its first task with its row's options.
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "float32": ("gpt2", "text-generation", {"sequence_length": 7, "precision": "float32"}),
    "ranged": ("gpt2", "text-generation", {"sequence_length": (1, 29)}),
    "listed": ("llama", "text-generation", {"sequence_length": [1, 7, 29]}),
    "io": ("gpt2", "text-generation", {"cache": "io"}),
    "io that grows": ("mistral", "text-generation", {"cache": "io", "context_length": (1, 29)}),
    "state": ("gpt2", "text-generation", STATE),
    "state and prefill": ("llama", "text-generation", STATE | {"prefill_length": 7, "logits": "last"}),
    "state with a ring": ("gemma3_text", "text-generation", STATE | {"prefill_length": 7}),
    "swift-transformers": ("qwen2", "text-generation", {"cache": "state", "interface": "swift-transformers"}),
    "iOS 15": ("bert", "fill-mask", {"sequence_length": 11, "target": "iOS15"}),
    "batch": ("roberta", "text-classification", {"sequence_length": 11, "batch_size": 3}),
    "sentence vector": ("bert", "feature-extraction", {"sequence_length": 11, "pooling": "mean", "normalize": True}),
    "classifier": ("distilbert", "text-classification", {"sequence_length": 11}),
    "answers": ("bert", "question-answering", {"sequence_length": 11}),
    "image classifier": ("vit", "image-classification", {}),
    "boxes": ("yolos", "object-detection", {}),
    "ctc": ("wav2vec2", "ctc", {"sequence_length": 431}),
    "answer, io": ("t5", "text2text-generation", {"sequence_length": 7, "cache": "io", "context_length": 13}),
    "answer, state": ("bart", "text2text-generation", {"sequence_length": 7, "cache": "state", "context_length": 13}),
}  # fmt: skip


def sums(model: milbuild.Model) -> dict[str, str]:
    """SHA-256 of a model's program, interface and weights."""
    spec = model.get_spec()
    interface = type(spec.description)()
    interface.CopyFrom(spec.description)
    interface.ClearField("metadata")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.mlpackage"
        model.save(path)
        weights = (path / "Data/com.apple.CoreML/weights/weight.bin").read_bytes()
    parts = {
        "program": spec.mlProgram.SerializeToString(deterministic=True),
        "interface": interface.SerializeToString(deterministic=True),
        "weights": weights,
    }
    return {name: hashlib.sha256(part).hexdigest() for name, part in parts.items()}


def builds() -> dict[str, dict[str, str]]:
    """The sums of every build by its name."""
    kinds = {
        model_type: (model_type, architectures.SUPPORTED[model_type].tasks[0], tiny.options)
        for model_type, tiny in TABLE.items()
    }
    found = {}
    for name, (model_type, task, options) in (kinds | KINDS).items():
        tiny, folder = TABLE[model_type], checkpoint(model_type, task)
        if tiny.kind == VISION:
            (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
            options = {"image_size": tiny.size} | options
        found[name] = sums(milbuild.build(folder, task=task, lint=False, **options))
        print(f"{name}: {' '.join(f'{part} {value[:12]}' for part, value in found[name].items())}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", metavar="FILE", type=Path, help="write the sums there")
    parser.add_argument("--against", metavar="FILE", type=Path, help="compare them with those in there")
    arguments = parser.parse_args()
    before = json.loads(arguments.against.read_text()) if arguments.against else {}
    found = builds()
    if arguments.record:
        arguments.record.write_text(json.dumps(found, indent=2) + "\n")
    differing = [
        f"{name}: {', '.join(part for part in parts if before[name][part] != parts[part])}"
        for name, parts in found.items()
        if before.get(name, parts) != parts
    ]
    gone = sorted(before.keys() - found.keys())
    if differing or gone:
        sys.exit("\n".join(["these differ:", *differing, *(f"{name}: is built no more" for name in gone)]))
    print(f"{len(found)} builds" + (", all as before" if before else ""))


if __name__ == "__main__":
    main()
