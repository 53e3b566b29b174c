"""What lint and inspect find in packages that `torch.jit.trace` and `coremltools.convert` make, and in ours of the same models.

    python benchmarks/survey.py

Writes docs/survey.md; takes some minutes. Layers, heads and vocabularies are those of the published models, widths are small,
weights random.
"""

import contextlib
import logging
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from operations import CASES, TOKENS, Case, convert, mended

DOCUMENT = Path(__file__).parents[1] / "docs" / "survey.md"
_TEXT, _PICTURE = {"input_ids": (1, TOKENS)}, {"pixel_values": (1, 3, 224, 224)}
_WIDTHS = {"hidden_size": 96, "intermediate_size": 64, "num_hidden_layers": 12, "num_attention_heads": 12}
_LENGTH = {"sequence_length": TOKENS, "attention_mask": False}
_PLAIN = {"postprocess": False}


class Entry(NamedTuple):
    """`types`: coremltools' types of inputs, where they are no plain tensors; `how`: what is special, in words; `attention`:
    transformers' own, where it is not written out."""

    case: Case
    target: str = "iOS18"
    how: str = ""
    types: Callable[[Any], dict[str, Any]] = lambda ct: {}
    attention: str = "eager"
    precision: str = "float16"


def _encoder(model_type: str, given: tuple[str, ...], auto: str = "AutoModel", **config: Any) -> Case:
    task = "fill-mask" if auto == "AutoModelForMaskedLM" else "feature-extraction"
    return Case(model_type, _WIDTHS | config, auto, task, _TEXT, _LENGTH, given)


def _picture(model_type: str, auto: str, task: str, size: int = 224, **config: Any) -> Case:
    inputs = {"pixel_values": (1, 3, size, size)}
    return Case(model_type, config, auto, task, inputs, {"image_size": size, **_PLAIN})


def _wide(name: str, **config: Any) -> Case:
    """A case of the count of operations, with a vocabulary of the published size."""
    return CASES[name]._replace(config=CASES[name].config | config)


_BERT = ("no mask", "token_type_ids", "position_ids")
_T5 = _wide("t5-small's decoder", vocab_size=32128)
ENTRIES = {
    "gpt2": Entry(_wide("gpt2", vocab_size=50257)),
    "gpt2, mask of -inf": Entry(_wide("gpt2", vocab_size=50257)._replace(given=("infinite mask",)), "iOS17", "masks of -inf"),
    "TinyLlama-1.1B": Entry(_wide("TinyLlama-1.1B", vocab_size=32000)),
    "TinyLlama of 4 layers, positions": Entry(
        _wide("TinyLlama-1.1B", vocab_size=32000, num_hidden_layers=4)._replace(
            inputs=_TEXT | {"position_ids": (1, TOKENS)}, given=("mask",)
        ), "iOS17", "position_ids as an input, from which cos and sin are made",
    ),
    "opt-125m": Entry(
        Case("opt", _WIDTHS | {"ffn_dim": 64, "word_embed_proj_dim": 96, "vocab_size": 50272}, "AutoModelForCausalLM",
             "text-generation", _TEXT, _LENGTH, ("mask", "position_ids"))
    ),
    "bert-base": Entry(_encoder("bert", _BERT), "iOS15"),
    "bert-base, padding": Entry(
        _encoder("bert", ("padding", "token_type_ids", "position_ids"))._replace(
            inputs=_TEXT | {"attention_mask": (1, TOKENS)}, options=_LENGTH | {"attention_mask": True}
        ), "iOS17", "an attention_mask as transformers 4 added it",
    ),
    "distilbert-base": Entry(
        Case("distilbert", {"dim": 96, "hidden_dim": 64, "n_layers": 6, "n_heads": 12}, "AutoModel", "feature-extraction",
             _TEXT, _LENGTH, ("no mask",)), "iOS16", "compute_precision FLOAT32", precision="float32",
    ),
    "roberta-base": Entry(_encoder("roberta", _BERT, "AutoModelForMaskedLM", vocab_size=50265), "iOS17"),
    "albert-base": Entry(_encoder("albert", _BERT, embedding_size=32)),
    "t5-small's encoder": Entry(_T5._replace(inputs=_TEXT, given=("no mask",), half="encoder")),
    "t5-small's decoder": Entry(_T5),
    "whisper-base's encoder": Entry(_wide("whisper-base's encoder", vocab_size=51865)),
    "wav2vec2-base": Entry(CASES["wav2vec2-base"]),
    "wav2vec2-base, any length": Entry(
        CASES["wav2vec2-base"]._replace(options=CASES["wav2vec2-base"].options | {"sequence_length": (400, 160000)}),
        "iOS17", "a RangeDim of samples",
        lambda ct: {"input_values": ct.TensorType("input_values", (1, ct.RangeDim(400, 160000, default=16000)))},
    ),
    "vit-base": Entry(
        CASES["vit-base"], "iOS18", "transformers' default attention, sdpa, which the converter writes out", attention="sdpa"
    ),
    "resnet-50": Entry(
        CASES["resnet-50"], "iOS15", "an image as input",
        lambda ct: {"pixel_values": ct.ImageType("pixel_values", (1, 3, 224, 224), scale=1 / 127.5, bias=[-1, -1, -1])},
    ),
    "convnext-tiny": Entry(
        _picture("convnext", "AutoModelForImageClassification", "image-classification",
                 depths=[3, 3, 9, 3], hidden_sizes=[16, 24, 32, 48], num_labels=1000), "iOS16", "",
    ),
    "mobilenet_v2_1.0_224": Entry(
        _picture("mobilenet_v2", "AutoModelForImageClassification", "image-classification", num_labels=1001), "iOS15"
    ),
    "segformer-b0": Entry(
        _picture("segformer", "AutoModelForSemanticSegmentation", "semantic-segmentation", 512, num_labels=150), "iOS16"
    ),
    "yolos-tiny": Entry(
        _picture("yolos", "AutoModelForObjectDetection", "object-detection", 512, hidden_size=96, intermediate_size=64,
                 num_hidden_layers=12, num_attention_heads=3, image_size=[512, 512]), "iOS18"
    ),
}  # fmt: skip


class Found(NamedTuple):
    """One package: what `inspect` and `lint` say of it."""

    model: str
    whose: str
    operations: int
    weights: int
    reports: dict[str | None, Any]


def main() -> int:
    import transformers

    warnings.filterwarnings("ignore")
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    sys.path.insert(0, str(DOCUMENT.parents[1]))  # for the table of small models
    from tests.docs import lint as rules

    found: list[Found] = []
    said: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, entry in ENTRIES.items():
            one, words = surveyed(name, entry, Path(scratch) / entry.case.model_type / str(len(found)))
            found += one
            said |= words
            print(f"{name}: {len(one)} packages {' '.join(words.values())}", file=sys.stderr)
    DOCUMENT.write_text(page(found, said, *rules.said("all")), "utf-8")
    return 0


def surveyed(name: str, entry: Entry, folder: Path) -> tuple[list[Found], dict[str, str]]:
    """The traced package and ours; and what has to be said of the conversion."""
    import coremltools as ct
    import torch
    import transformers

    import milbuild

    case, said = entry.case, {}
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(case.model_type, **case.config)
    model = getattr(transformers, case.auto).from_config(config, attn_implementation=entry.attention).eval()
    model.save_pretrained(folder / "checkpoint")
    options = {
        "minimum_deployment_target": ct.target[entry.target],
        "compute_precision": ct.precision[entry.precision.upper()],
    }
    packages = {}
    for context in (contextlib.nullcontext(), mended()):
        try:
            with context:
                convert(case, model, folder / "traced.mlpackage", entry.types(ct), **options)
            packages["traced"] = folder / "traced.mlpackage"
            break
        except Exception as error:  # noqa: BLE001 -- whatever a converter may raise is a result here
            what = f"{type(error).__name__}: {str(error).strip().splitlines()[0].rstrip('.')}"
            said[name] = f"{said[name]} With that mended: {what}." if name in said else f"{what}."
    if name in said and packages:
        said[name] += " With that mended it does."
    half = {"encoder": {"function": "encode"}, "decoder": {"function": "decode"}}.get(case.half, {})
    packages["ours"] = folder / "ours.mlpackage"
    given = case.options | half | {"target": entry.target, "precision": entry.precision}
    milbuild.build(folder / "checkpoint", task=case.task, **given).save(packages["ours"])
    if "padding" in case.given:
        shares = ", ".join(f"{whose} {nan(package):.0%}" for whose, package in packages.items())
        said["NaN"] = (
            f"`{name}`, with nothing hidden by its mask, in milbuild's runtime: {shares} of the outputs are NaN."
        )
    return [looked(name, whose, package) for whose, package in packages.items()], said


def looked(name: str, whose: str, package: Path) -> Found:
    from milbuild.inspection import inspect
    from milbuild.linting import lint

    seen = inspect(package)
    operations = sum(function.total for function in seen.functions.values())
    return Found(name, whose, operations, seen.weights, {unit: lint(package, unit) for unit in (None, "all")})


def nan(package: Path) -> float:
    """The share of a text encoder's first output that is NaN."""
    import numpy as np

    from milbuild import runtime

    ones = np.ones((1, TOKENS), np.int32)
    first = next(iter(runtime.load(package).predict({"input_ids": ones, "attention_mask": ones}).values()))
    return float(np.isnan(first).mean())


def page(found: list[Found], said: dict[str, str], small: int, rules_of_small: Counter[str]) -> str:
    from milbuild.linting import RULES
    from milbuild.linting.rules import SEVERITIES

    versions = ", ".join(f"{name} {version(name)}" for name in ("coremltools", "torch", "transformers"))
    traced = sum(each.whose == "traced" for each in found)
    lines = [BEGINNING.format(traced=traced, models=len(ENTRIES), versions=versions)]
    lines += ["| model | package | operations | weights MB | no unit | each unit | off the Neural Engine | switches |"]
    lines += ["|---|---|---:|---:|---:|---:|---:|---:|"]
    for each in found:
        counts = [
            " / ".join(str(len({f.rule.id for f in report.findings if f.rule.severity == s})) for s in SEVERITIES)
            for report in each.reports.values()
        ]
        functions = each.reports[None].functions.values()
        off, switches = (sum(getattr(f, name) for f in functions) for name in ("elsewhere", "switches"))
        lines.append(
            f"| {each.model} | {each.whose} | {each.operations} | {each.weights / 1e6:.1f} | {counts[0]} | {counts[1]} "
            f"| {off} | {switches} |"
        )
    lines += ["", "Targets, and what is special:\n"]
    lines += [f"* `{name}`: {entry.target}{', ' if entry.how else ''}{entry.how}" for name, entry in ENTRIES.items()]
    lines += ["\nWhat did not convert unchanged:\n", *(f"* `{n}`: {text}" for n, text in said.items() if n != "NaN")]
    lines += ["\n## By rule\n", f"The number of packages that break each rule: {traced} traced, our {len(ENTRIES)} above, "
              f"and the tests' {small} small ones (every model type, task and cache).\n"]  # fmt: skip
    lines += ["| rule | severity | unit | traced | ours | small | for example |", "|---|---|---|---:|---:|---:|---|"]
    for rule in sorted(RULES.values(), key=lambda rule: (SEVERITIES.index(rule.severity), rule.id)):
        having = [(e, f) for e in found for f in e.reports["all"].findings if f.rule is rule]
        counts_ = [len({e.model for e, _ in having if e.whose == whose}) for whose in ("traced", "ours")]
        if having or rules_of_small[rule.id]:
            example = "only in small ones"
            if having:
                each, finding = having[0]
                example = (
                    f"{each.model}, {each.whose}: `{finding.place.operation or finding.place.function}`: {finding.what}"
                )
            unit = " ".join(rule.units) or "every"
            cells = (*counts_, rules_of_small[rule.id], example.replace("|", " "))
            lines.append(
                f"| [{rule.id}](lint.md#{rule.id}) | {rule.severity} | {unit} | {' | '.join(map(str, cells))} |"
            )
    return "\n".join([*lines, "", READING.format(nan=said.get("NaN", ""))])


BEGINNING = """# What lint finds in traced packages, and in ours

Written by `python benchmarks/survey.py`, which produced every number here. {models} models of
transformers, of which {traced} were converted by `torch.jit.trace` and `coremltools.convert`, and all by milbuild, with
{versions}.
Layers, heads and vocabularies are the published ones; widths are small and weights random, so sizes can only be compared
with each other.

*no unit* and *each unit* count the rules that are broken, not how often: errors / warnings / notes, without a unit and
with `--unit all`. *Off the Neural Engine* and *switches* are lint's estimates ([what lint knows](lint.md)).
"""

READING = """## How to read it

* **The error is real.** {nan} coremltools turns the lowest float32, which hides padding, into -inf, and 0 times -inf is
  NaN.
* **RMS norms.** transformers computes those of Llama and T5 in float32, whatever the other precision is. The tracer
  loses that, and their squares are summed in float16. Whether one overflows depends on the checkpoint's activations,
  which random weights do not show. coremltools writes out the group norm of wav2vec 2.0, whose squares are of
  deviations. Our norms scale first.
* **-inf in an additive mask** is not a fault in itself: no row here is masked entirely. It is a warning because of the
  Neural Engine's softmax, as reported by others.
* **Epsilons and guarded gathers** are notes: small costs and small differences, in most of the traced text models.
* **Our packages have warnings for the Neural Engine, too**: they have the plain layout, attention is one operation from
  iOS 18 on, and the scores of a whole vocabulary are one axis. That suits the GPU and CPU.
  [Why they stay](lint.md#warnings-of-our-own-builds-and-why).
* **Fewer findings don't prove** that a package is better: a rule counts what is known to matter, according to its
  source; nothing here ran in Core ML. Operations that are "off" are of types that others have seen run elsewhere.
  `milbuild validate` and a device decide.
* **Small models** are 24 wide with 61 tokens: what the rules say about their last axes and the width of their states
  does not apply to real ones.
"""


if __name__ == "__main__":
    sys.exit(main())
