"""Writes docs/performance.md: what the scripts in benchmarks/ print. Twenty minutes, on a machine that does nothing else.

python docs/record_performance.py
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "pictures" / "building.svg"
PAGE = """\
# What building and playing cost

Written by docs/record_performance.py: below each command stands what it printed. Checkpoints have the sizes, types and names of
the published models and random weights. Every run of a build is a process of its own, those of a table take turns, and figures
are medians. Seconds move between machines, and on one machine between hours: the ratios of one table are what counts.
How everything is measured stands in [benchmarks/README.md](../benchmarks/README.md).

## GPT-2, every way

`ours` builds and saves; `floor` is plain numpy that reads, casts, transposes and writes the same tensors and does nothing else
(benchmarks/floor.py); `traced` and `exported` are PyTorch's tracer and exporter with `coremltools.convert`; `ranged` takes 1 to
128 tokens; `state` keeps its cache in a state, and `prefill` has a second function for prompts.

{gpt2}

## Encoders and decoders

Of Whisper base the encoder, of T5 small the decoder. Whisper's `ours` works out the decoder's keys and values of what was heard
too, which tracing has in the decoder.

{small}

## Time and memory against size

Private memory (RssAnon) does not grow with the model; what the peak counts besides are pages of libraries. Time is bound by the
system's copying and the disk where a checkpoint does not fit into the memory.

{scaling}

![Seconds of CPU against gigabytes of the checkpoint](pictures/building.svg)

## Operations

{operations}

## Predictions in the runtime

{runtime}
"""
COMMANDS = {
    "gpt2": ["build.py", "gpt2"],
    "small": ["build.py", "bert-base", "vit-base", "whisper-base", "t5-small"],
    "scaling": ["build.py", "--scaling", "--plot", str(PICTURE.relative_to(ROOT))],
    "operations": ["operations.py"],
    "runtime": ["runtime.py", "--repeat", "5"],
}


def main() -> None:
    parts = {}
    for name, (script, *arguments) in COMMANDS.items():
        with tempfile.TemporaryFile("w+") as out:
            command = [sys.executable, f"benchmarks/{script}", *arguments]
            subprocess.run(command, check=True, cwd=ROOT, stdout=out)
            out.seek(0)
            printed = "\n".join(line.rstrip() for line in out.read().splitlines()).strip()
        parts[name] = f"    $ python benchmarks/{' '.join([script, *arguments])}\n\n{printed}"
        print(f"{name}: done", file=sys.stderr)
    (ROOT / "docs" / "performance.md").write_text(PAGE.format(**parts), "utf-8")


if __name__ == "__main__":
    main()
