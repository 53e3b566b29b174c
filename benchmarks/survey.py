"""What lint and inspect find in packages that `torch.jit.trace` and `coremltools.convert` make, and in ours of the same models.

    python benchmarks/survey.py [--only MODEL]

Writes docs/survey.md. Layers, heads and vocabularies are those of the published models, widths are small, weights random.
"""

import argparse
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
    """`types`: coremltools' types of inputs, where they are no plain tensors; `how`: what is special, in words."""

    case: Case
    target: str = "iOS18"
    how: str = ""
    types: Callable[[Any], dict[str, Any]] = lambda ct: {}


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
             _TEXT, _LENGTH, ("no mask",)), "iOS16"
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
    "vit-base": Entry(CASES["vit-base"], "iOS17"),
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


def main(arguments=None):
    import transformers, torch, time
    import coremltools as ct
    warnings.filterwarnings("ignore")
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error(); transformers.logging.disable_progress_bar()
    out = Path(sys.argv[1])
    names = sys.argv[2:] or ENTRIES
    for name in names:
        e = ENTRIES[name]; case = e.case
        t = time.time()
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(case.model_type, **case.config)
        model = getattr(transformers, case.auto).from_config(config, attn_implementation="eager").eval()
        model.save_pretrained(out / name / "c")
        try:
            try:
                convert(case, model, out / name / "traced.mlpackage", e.types(ct), minimum_deployment_target=ct.target[e.target])
                how = ""
            except Exception as er:
                print(name, "first", type(er).__name__, str(er)[:150])
                with mended():
                    convert(case, model, out / name / "traced.mlpackage", e.types(ct), minimum_deployment_target=ct.target[e.target])
                how = "mended"
            print(name, "converts", how, round(time.time() - t, 1), flush=True)
        except Exception as er:
            print(name, type(er).__name__, str(er)[:300], round(time.time() - t, 1), flush=True)
        import milbuild
        try:
            half = {"encoder": {"function": "encode"}, "decoder": {"function": "decode"}}.get(case.half, {})
            milbuild.build(out / name / "c", task=case.task, target=e.target, **case.options, **half).save(out / name / "ours")
        except Exception as er:
            print("OURS", name, er)

main()
