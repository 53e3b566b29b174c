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
# What building and running cost

Written by docs/record_performance.py: each command is followed by its output. The checkpoints have random weights, and
the sizes, types and names of the published models. Every build runs in its own process, the variants in a table take
turns, and figures are medians. Seconds differ between machines, and on one machine from hour to hour, so look at the
ratios within a table. [benchmarks/README.md](../benchmarks/README.md) explains how everything is measured.
"""
# Name -> (title, text, script and arguments, what stands behind it)
SECTIONS = {
    "gpt2": (
        "GPT-2 in every variant",
        "`ours` builds and saves. `floor` is plain numpy that reads, casts, transposes and writes the same tensors and does\n"
        "nothing else (benchmarks/floor.py). `traced` is PyTorch's tracer followed by `coremltools.convert`. `ranged` takes\n"
        "1 to 128 tokens. `state` keeps its cache in a state, and `prefill` has a second function for prompts.",
        "build.py gpt2 --cases ours,floor,traced,ranged,state,prefill --repeat 5",
        "",
    ),
    "families": (
        "Encoders and decoders",
        "For Whisper base, the encoder; for T5 small, the decoder. In Whisper, `ours` also computes the decoder's keys and\n"
        "values of cross-attention, which tracing leaves to the decoder.",
        "build.py bert-base vit-base whisper-base t5-small",
        "",
    ),
    "scaling": (
        "Time and memory against size",
        "Private memory (RssAnon) doesn't grow with the model; the rest of the peak is pages of libraries.",
        "build.py --scaling --plot docs/images/building.svg",
        "![Seconds of CPU against gigabytes of the checkpoint](images/building.svg)\n",
    ),
    "operations": (
        "Operations",
        "Our graphs compared with what tracing produces from the same model.",
        "operations.py",
        "",
    ),
    "runtime": (
        "Predictions in the runtime",
        "Compared with Hugging Face's eager model in float32, on the same number of threads.",
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
