"""Writes docs/performance.md: what the scripts in benchmarks/ print, on a machine that does nothing else.

    python docs/record_performance.py [gpt2] [families] [scaling] [operations] [runtime]

The sections that are named are recorded, by default all, which takes half an hour; the page keeps its others.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "performance.md"
HEAD = """\
# What building and playing cost

Written by docs/record_performance.py: below each command stands what it printed. Checkpoints have the sizes, types and names of
the published models and random weights. Every run of a build is a process of its own, those of a table take turns, and figures
are medians. Seconds move between machines, and on one machine between hours: the ratios of one table are what counts.
How everything is measured stands in [benchmarks/README.md](../benchmarks/README.md).
"""
# Name -> (title, text, script and arguments, what stands behind it)
SECTIONS = {
    "gpt2": (
        "GPT-2, every way",
        "`ours` builds and saves; `floor` is plain numpy that reads, casts, transposes and writes the same tensors and does\n"
        "nothing else (benchmarks/floor.py); `traced` is PyTorch's tracer with `coremltools.convert`; `ranged` takes 1 to 128\n"
        "tokens; `state` keeps its cache in a state, and `prefill` has a second function for prompts.",
        "build.py gpt2 --cases ours,floor,traced,ranged,state,prefill --repeat 5",
        "",
    ),
    "families": (
        "Encoders and decoders",
        "Of Whisper base the encoder, of T5 small the decoder. Whisper's `ours` works out the decoder's keys and values of what\n"
        "was heard too, which tracing has in the decoder.",
        "build.py bert-base vit-base whisper-base t5-small",
        "",
    ),
    "scaling": (
        "Time and memory against size",
        "Private memory (RssAnon) does not grow with the model; what the peak counts besides are pages of libraries.",
        "build.py --scaling --plot docs/pictures/building.svg",
        "![Seconds of CPU against gigabytes of the checkpoint](pictures/building.svg)\n",
    ),
    "operations": ("Operations", "Ours beside what tracing leaves of the same model.", "operations.py", ""),
    "runtime": (
        "Predictions in the runtime",
        "Beside Hugging Face's eager model in float32, on the same threads.",
        "runtime.py --repeat 5",
        "",
    ),
}


def recorded(name: str) -> str:
    title, text, command, behind = SECTIONS[name]
    with tempfile.TemporaryFile("w+") as out:
        subprocess.run([sys.executable, *f"benchmarks/{command}".split()], check=True, cwd=ROOT, stdout=out)
        out.seek(0)
        printed = re.sub(r"\s*\n\s*\n\s*", "\n\n", re.sub(r" +\n", "\n", out.read())).strip()
    return f"## {title}\n\n{text}\n\n    $ python benchmarks/{command}\n\n{printed}\n" + (
        f"\n{behind}" if behind else ""
    )


def main() -> None:
    wanted = sys.argv[1:] or list(SECTIONS)
    if unknown := set(wanted) - SECTIONS.keys():
        raise SystemExit(f"there is no {', '.join(sorted(unknown))}\n{__doc__}")
    before = DOCUMENT.read_text("utf-8") if DOCUMENT.exists() else ""
    kept = {part.partition("\n")[0]: f"## {part.rstrip()}\n" for part in before.split("\n## ")[1:]}
    for name in wanted:
        kept[SECTIONS[name][0]] = recorded(name)
        # At once: what was recorded is not lost with what comes behind it.
        sections = [kept[title] for title, *_ in SECTIONS.values() if title in kept]
        DOCUMENT.write_text("\n".join([HEAD, *sections]), "utf-8")
        print(f"{name}: done", file=sys.stderr)


if __name__ == "__main__":
    main()
