"""Writes docs/lint.md from the rules: python -m tests.docs.lint

The findings in milbuild's own builds are explained there, and the tests hold the builds to that.
"""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import milbuild
from milbuild import architectures, tasks
from milbuild.linting import RULES, lint_program
from milbuild.linting.rules import SEVERITIES
from milbuild.package import TARGETS
from milbuild.program.interfaces import INTERFACES
from milbuild.program.options import PRECISIONS
from tests.tiny import TABLE

DOCUMENT = Path(__file__).parents[2] / "docs" / "lint.md"

BEGINNING = """# What lint knows

Written by `python -m tests.docs.lint` from the rules in milbuild/linting; a test holds this page to them.

```
milbuild lint gpt2.mlpackage               # the rules that hold on every compute unit
milbuild lint gpt2.mlpackage --unit ane    # and those of the Neural Engine; or of cpu, gpu
milbuild lint gpt2.mlpackage --unit all    # and those of each of them
```

{always} rules hold on every compute unit; a build checks them, and so does `milbuild lint` without `--unit`. {more} more
are about one unit or two, and are checked only where it is named: no package says where it will run.

`milbuild lint` takes any ML Program, whoever built it, and only reads it. Exit code 0: no errors; 1: errors; 2: the package
could not be read. In Python: `milbuild.lint("gpt2.mlpackage", unit="ane")` gives the same as a report.

`milbuild.build` and `milbuild build` end with the rules that hold on every unit, for the program before it is saved.
An error stops the build; warnings are one `milbuild.LintWarning` in Python and a line each in the shell, and `Model.lint_report`
has the whole report. `lint=False` (`--no-lint`) builds without lint, and the package's metadata says so: `milbuild.lint: off`. No
weights are read for that: what only their values show (NaN, an infinite or zero constant in weight.bin, a weight that is
stored twice) is found by `milbuild lint` in the saved package; NaN and values that overflow float16 also while it is saved.

An *error* is refused by Core ML or gives wrong numbers; a *warning* costs speed or exactness, or may fail; a *note* is worth
knowing. Apple does not publish what the Neural Engine runs: a finding about one unit is likely, not certain, and
names its source; a package without findings is not certified. What was "measured" was measured with coremltools 9.0 on Linux,
nothing in Core ML itself.

The report ends with estimates: the operations of each function, how many of them are likely not to run on the Neural Engine,
and how often a run switches between units, at least.

Silent faults of coremltools 9.0 are named B1 to B7. Two that matter cannot be seen in a package: arrays that differ by less than
6e-8 are merged by const_deduplication (B5), and optional inputs lose their defaults when several functions are exported.
"""

# Findings of our own builds, and why they stay.
EXPLAINED = {
    "state-updates": "With `cache=state` each layer writes its slots into one state, in order; each read follows the write "
    "before it. One write at the end would keep all layers' new keys and values until then, and attention needs them "
    "at once.",
    "state-flexible": "A range or a list for `sequence_length` with a state is what was asked for; the build warns of its cost.",
    "growing-cache": "With `cache=io` and a range for `context_length` the past grows: that is what was asked for.",
}
EXPLAINED_UNITS = {
    "ane-fused-attention": "The layout is the plain one, for the GPU and CPU; attention is one operation there from iOS 18 on.",
    "ane-softmax-axis": "The same, before iOS 18, where attention is products and softmax.",
    "ane-linear": "The same: products are `linear`.",
    "ane-rank": "The same: tensors are (batch, tokens, width).",
    "ane-layout": "SegFormer goes between images and tokens in every stage.",
    "ane-integers": "Positions and masks are computed from `position`, or from the mask, so that no caller has to.",
    "ane-operation": "With a mask or a past of any length, the slots that are filled are counted (`cumsum`), and a vector is "
    "taken out of a sequence by its position.",
    "ane-table-gather": "With a cache, cos and sin are looked up by position.",
    "ane-gather": "The last token's states are looked up by their position.",
    "ane-state-number": "Keys and values are two states, as swift-transformers has them; an encoder-decoder has four.",
    "gpu-state-number": "An encoder-decoder has the keys and values of its own tokens and those of the encoder.",
    "ane-state-width": "Heads of the tests' models are 6 to 10 wide; those of real ones are 64 or 128.",
    "ane-last-axis": "The tests' models are 24 wide, with 7 labels.",
    "ane-output-rows": "The tests' vocabulary has 61 tokens; 50,257 is not a multiple of 32 either. Read by strides.",
    "ane-convolution": "Strides and kernels are the checkpoint's.",
    **dict.fromkeys(
        ("ane-computed-length", "ane-state-flexible", "ane-dynamic-slice"),
        "swift-transformers calls one function with states for a prompt of any length and then for each token, and says by the "
        "length of its mask what came before. That is for the GPU, where it runs such packages.",
    ),
    "ane-float32": "`precision=float32` was asked for.",
    "ane-range": "A range of lengths is what was asked for; a list, or a fixed length, runs there.",
    "ane-listed-norm": "The plain layout has 3 axes; with one fixed length its norms run.",
    "float32-island": "A label's probabilities are float32, which Core ML asks for; the length of a vector is computed in "
    "float32, since the sum of its squares can overflow float16.",
}


def document() -> str:
    always = sum(not rule.units for rule in RULES.values())
    beginning = BEGINNING.replace("{always}", str(always)).replace("{more}", str(len(RULES) - always))
    lines = [beginning, "## Warnings of our own builds, and why\n"]
    lines += [
        "The tests lint every model type with every task, cache, interface, target and precision. Without `--unit` there are no "
        "errors, and only these findings:\n"
    ]
    lines += [f"* `{name}` ({RULES[name].severity}): {text}" for name, text in EXPLAINED.items()]
    lines += [
        "\nWith `--unit`, of the tests' small models ([the survey](survey.md) counts them, and has larger ones):\n"
    ]
    lines += [f"* `{name}` ({RULES[name].severity}): {text}" for name, text in EXPLAINED_UNITS.items()]
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


def pairs() -> list[tuple[str, str]]:
    """Every model type with every task."""
    return [(model_type, task) for model_type, entry in architectures.SUPPORTED.items() for task in entry.tasks]


def matrix(model_type: str, task: str) -> list[dict[str, Any]]:
    """What a family can be built with for a task: cache, interface, target, precision, for texts lengths of every kind, of an
    encoder-decoder its functions in one package and in two."""
    kind, apart = TABLE[model_type].kind, tasks.TASKS[task].two_functions
    found = []
    for cache in tasks.caches(task, architectures.SUPPORTED[model_type].decoder):
        for name, interface in INTERFACES.items():
            if cache not in interface.caches or (interface.tasks and task not in interface.tasks):
                continue
            if interface.ranged and cache == "state" and apart:  # it has no encoder beside its decoder
                continue
            for target, version in TARGETS.items():
                functions: list[Any] = [None, "encode", "decode"] if apart else [None]
                if version < 9:  # neither a state nor several functions
                    functions = functions[1:] if apart else functions
                if interface.packages:
                    functions = list(interface.packages)
                if (cache == "state" and version < 9) or (interface.packages and version < 7):
                    continue
                given = [{"cache": cache, "interface": name, "target": target, "function": f} for f in functions]
                if (
                    kind == "text" and cache == "none" and name == "milbuild"
                ):  # without a cache the others differ in names
                    unmasked = {"attention_mask": False, "token_type_ids": False}
                    lengths = [
                        {"sequence_length": 7},
                        {"sequence_length": (4, 9)},
                        {"sequence_length": [4, 9], **unmasked},
                    ]
                    given = [each | length for each in given for length in lengths]
                if kind == "text" and cache != "none" and version >= 9 and not interface.ranged:
                    given += [each | {"prefill_length": 4} for each in given]
                found += [each | {"precision": p} for each in given for p in PRECISIONS]
    return found


def built(model_type: str, task: str, cache: str = "none", **given: Any) -> milbuild.Model:
    """A small model of a family, without lint."""
    from tests.conftest import checkpoint

    if given.get("interface") == "whisperkit":
        from tests.test_whisperkit import spoken

        return milbuild.build(spoken(), task=task, cache=cache, lint=False, **given)
    tiny, more = TABLE[model_type], dict(TABLE[model_type].options)
    if cache != "none" and tiny.kind == "text":
        more = {"context_length": 16}
    elif cache != "none":
        more.pop("sequence_length", None)
    # An encoder has a cache where its configuration says that it is a decoder.
    flags = tiny.flags.get("decoder", {}) if cache != "none" else {}
    return milbuild.build(checkpoint(model_type, task, **flags), task=task, cache=cache, lint=False, **more | given)


def said(unit: str) -> tuple[int, Counter[str]]:
    """How many small models there are, of every family with every task and cache, and of how many each rule is broken."""
    entries = [
        (*pair, cache) for pair in pairs() for cache in tasks.caches(pair[1], architectures.SUPPORTED[pair[0]].decoder)
    ]
    found: Counter[str] = Counter()
    for entry in entries:
        report = lint_program(built(*entry).get_spec(), "ours", unit)
        found.update({finding.rule.id for finding in report.findings})
    return len(entries), found


if __name__ == "__main__":
    DOCUMENT.write_text(document(), "utf-8")
    print(f"{DOCUMENT}: {len(RULES)} rules", file=sys.stderr)
