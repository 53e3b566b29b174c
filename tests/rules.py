"""Writes docs/lint.md from the rules: python -m tests.rules

What our own builds are told is explained there, and the tests hold the builds to it.
"""

import sys
from pathlib import Path

import milbuild
from milbuild.linting import RULES
from milbuild.linting.rules import SEVERITIES
from tests.tiny import TABLE

DOCUMENT = Path(__file__).parents[1] / "docs" / "lint.md"

BEGINNING = """# What lint knows

Written by `python -m tests.rules` from the rules in milbuild/linting; a test holds this page to them.

```
milbuild lint gpt2.mlpackage               # the rules of every unit
milbuild lint gpt2.mlpackage --unit ane    # and those of the Neural Engine; cpu, gpu, all
```

`milbuild lint` takes any ML Program, whoever made it, and reads it only. Exit code 0: no errors; 1: errors; 2: the package
could not be read. In Python: `milbuild.lint("gpt2.mlpackage", unit="ane")` gives the same as a report.

An *error* is refused by Core ML or gives wrong numbers; a *warning* costs speed or exactness, or may fail; a *note* is worth
knowing. Nobody publishes what the Neural Engine runs: a verdict on one unit is likely, with the rule and its source, and a
package without findings is not certified. What was "measured" was measured with coremltools 9.0 on Linux; nothing here was
seen in Core ML itself by us.

The report ends with estimates: the operations of each function, how many of them are likely not to run on the Neural Engine,
and how often a run changes over at least.

Silent faults of coremltools 9.0 are named B1 to B7. Of two that matter a package shows nothing: arrays that differ by less than
6e-8 are merged by const_deduplication (B5), and optional inputs lose their defaults when several functions are exported.
"""

# Findings of our own builds, and why they stay.
EXPLAINED = {
    "state-updates": "With `cache=state` each layer writes its slots into one state, in order; each read follows the write "
    "before it. One write at the end would keep all layers' new keys and values until then, and attention needs them "
    "at once.",
    "growing-cache": "With `cache=io` and a range for `context_length` the past grows: that is what was asked for.",
}
EXPLAINED_UNITS = {
    "ane-fused-attention": "The layout is the plain one, for the GPU and CPU; attention is one operation there from iOS 18 on.",
    "ane-linear": "The same: products are `linear`.",
    "ane-rank": "The same: tensors are (batch, tokens, width).",
    "ane-layout": "SegFormer goes between pictures and tokens in every stage.",
    "ane-integers": "Positions and masks are worked out from `position`, or from the mask, so that nobody outside has to.",
    "ane-operation": "With a mask or a past of any length, the slots that are filled are counted (`cumsum`), and a vector is "
    "taken out of a sequence by its place.",
    "ane-table-gather": "With a cache, cos and sin are looked up by position.",
    "ane-gather": "The last token's states are looked up by their place.",
    "ane-state-number": "Keys and values are two states, as swift-transformers has them; an encoder-decoder has four.",
    "gpu-state-number": "An encoder-decoder has the keys and values of its own tokens and those of the encoder.",
    "ane-state-width": "Heads of the tests' models are 6 to 10 wide; those of real ones are 64 or 128.",
    "ane-last-axis": "The tests' models are 24 wide, with 7 labels.",
    "ane-output-rows": "The tests' vocabulary has 61 tokens; one of 50,257 is no multiple of 32 either. Read by strides.",
    "ane-convolution": "Strides and kernels are the checkpoint's.",
    "ane-range": "A range of lengths is what was asked for; a list, or a fixed length, runs there.",
    "ane-listed-norm": "The plain layout has 3 axes; with one fixed length its norms are run.",
    "float32-island": "A label's probabilities are float32, which Core ML asks for; the length of a vector is worked out in "
    "float32, since squares of some dozens overflow float16.",
}


def document() -> str:
    lines = [BEGINNING, "## Our own builds\n"]
    lines += [
        "Every family, every cache, is linted by the tests: there are no errors for every unit. What else is said:\n"
    ]
    lines += [f"* `{name}`: {text}" for name, text in EXPLAINED.items()]
    lines += ["\nWith `--unit`, of the tests' small models:\n"]
    lines += [f"* `{name}`: {text}" for name, text in EXPLAINED_UNITS.items()]
    for severity in SEVERITIES:
        lines.append(f"\n## {severity.capitalize()}s\n")
        for rule in sorted(RULES.values(), key=lambda rule: rule.id):
            if rule.severity == severity:
                counts = f"{rule.where}{f'; {rule.targets}' if rule.targets else ''}; confidence {rule.confidence}"
                lines.append(f"### {rule.id}\n")
                lines.append(
                    f"{rule.sentence}\n\n*Fix.* {rule.fix}\n\n*Counts for* {counts}. *Source:* {rule.source}.\n"
                )
    return "\n".join(lines).rstrip() + "\n"


def build(model_type: str, task: str, cache: str, folder: Path) -> Path:
    """A small package of a family."""
    from tests.conftest import checkpoint

    options = dict(TABLE[model_type].options)
    if cache != "none" and TABLE[model_type].kind == "text":
        options = {"context_length": 16}
    elif cache != "none":
        options.pop("sequence_length", None)
    path = folder / "p.mlpackage"
    # An encoder has a cache where its configuration says that it is a decoder.
    flags = TABLE[model_type].flags.get("decoder", {}) if cache != "none" else {}
    milbuild.build(checkpoint(model_type, task, **flags), task=task, cache=cache, **options).save(path)
    return path


if __name__ == "__main__":
    DOCUMENT.write_text(document(), "utf-8")
    print(f"{DOCUMENT}: {len(RULES)} rules", file=sys.stderr)
