"""Writes docs/support.md from the tables that the tests run over: python -m tests.docs.support

A row stands there only if tests/tiny has it, and what it lists is what the tests compare with transformers.
"""

import sys
from pathlib import Path

from milbuild import architectures, tasks
from tests.tiny import TABLE

DOCUMENT = Path(__file__).parents[2] / "docs" / "support.md"

BEGINNING = """# What can be built, and what is proved of it

Written by `python -m tests.docs.support` from the tables that the tests use; a test compares this page with them.

Every row is compared with transformers' PyTorch model (eager, float32) on perturbed weights: in float32 within 1e-5 of
the output's range (2e-3 with a state), in float16 with a PSNR of at least 55 dB. That includes the output of every
module, text and audio of every task at fixed, listed and ranged lengths, and every cache in parts of several sizes
against one forward pass. Encoder-decoder models are tested as two functions of one package and as two packages, and
with greedy answers as transformers generates them. *Variations* are configurations that change the graph; each is
proved in both precisions, and they are also combined at random.

All of that is for iOS 18. For every other target, from iOS 15 to iOS 26, the same holds in both precisions for every
text model with every task (without a cache or padding, at a fixed, a listed and a ranged length), for one task of each
vision model, for wav2vec 2.0 with two tasks, and for T5, BART and Whisper as two packages. Configuration fields that no
graph honours are refused by name.

Caches: with `io`, keys and values are inputs and outputs; with `state`, they are Core ML states (iOS 18).
"""


def document() -> str:
    lines = [BEGINNING]
    for model_type, entry in sorted(architectures.SUPPORTED.items()):
        row = TABLE[model_type]
        lines += [f"## {model_type}\n", "| task | caches |", "|---|---|"]
        for task in entry.tasks:
            caches = ", ".join(f"`{cache}`" for cache in tasks.caches(task, entry.decoder))
            lines.append(f"| {task} | {caches} |")
        variations = ", ".join(name for name in row.flags if name != "plain")
        lines.append(f"\nVariations: {variations}.\n" if variations else "")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(document(), "utf-8")
    print(f"{DOCUMENT}: {len(architectures.SUPPORTED)} model types", file=sys.stderr)
