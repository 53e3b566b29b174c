"""One file a family, named by its model_type. Nothing is imported before it is asked for.

SUPPORTED maps a model_type to its class and its tasks; an alias (the same graph under another model_type) is a line,
nothing else. The tasks stand here so that `milbuild list` need not import a family; a test holds them to the families.
"""

import importlib
import inspect
from collections.abc import Collection
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NamedTuple

from milbuild.errors import Error

if TYPE_CHECKING:
    from milbuild.architectures.family import Family

DECODER = ("feature-extraction", "text-generation", "text-classification", "token-classification", "question-answering")


# Fields that configurations of all families share and that change no graph, each with the reason.
UNUSED_CONFIG = {
    "architectures": "names the class the checkpoint was saved from; tasks.guess reads it",
    "bos_token_id": "for whoever writes the prompt",
    "chunk_size_feed_forward": "computes the same in pieces",
    "dtype": "the type the weights were saved in; the tensors say it themselves",
    "eos_token_id": "for whoever generates",
    "id2label": "names of labels; their number is num_labels",
    "initializer_range": "training",
    "is_encoder_decoder": "follows from the model_type",
    "label2id": "names of labels",
    "output_hidden_states": "which results transformers returns beside its own",
    "problem_type": "training: which loss",
    "return_dict": "the form in which transformers returns results",
    "transformers_version": "who saved it",
    "use_cache": "the cache is an option of the build",
}


class Entry(NamedTuple):
    """`where` is "file:Class"; `decoder`: it looks backwards only, so that its hidden states can be cached too."""

    where: str
    tasks: tuple[str, ...]
    decoder: bool = False


_ENCODER = (
    "feature-extraction",
    "fill-mask",
    "text-classification",
    "multiple-choice",
    "token-classification",
    "question-answering",
)

_IMAGES = ("image-classification", "feature-extraction")
_SPEECH = ("feature-extraction", "ctc", "audio-classification")

SUPPORTED = {
    "albert": Entry("albert:Albert", _ENCODER),
    "bart": Entry(
        "bart:Bart",
        ("text2text-generation", "feature-extraction", "fill-mask", "text-classification", "question-answering"),
    ),
    "bert": Entry("bert:Bert", (*_ENCODER, "text-generation", "next-sentence-prediction")),
    "convnext": Entry("convnext:ConvNext", _IMAGES),
    "distilbert": Entry("distilbert:DistilBert", _ENCODER),
    "gemma3_text": Entry("gemma3_text:Gemma3", DECODER[:3], decoder=True),
    "gpt2": Entry("gpt2:GPT2", DECODER, decoder=True),
    "gpt_neox": Entry("gpt_neox:GPTNeoX", DECODER, decoder=True),
    "hubert": Entry("hubert:Hubert", _SPEECH),
    "llama": Entry("llama:Llama", DECODER, decoder=True),
    "mistral": Entry("mistral:Mistral", DECODER, decoder=True),
    "mobilenet_v2": Entry("mobilenet_v2:MobileNetV2", (*_IMAGES, "semantic-segmentation")),
    "opt": Entry("opt:OPT", (*DECODER[:3], "question-answering"), decoder=True),
    "qwen2": Entry("qwen2:Qwen2", DECODER, decoder=True),
    "qwen3": Entry("qwen3:Qwen3", DECODER, decoder=True),
    "resnet": Entry("resnet:ResNet", _IMAGES),
    "roberta": Entry("roberta:Roberta", (*_ENCODER, "text-generation")),
    "segformer": Entry("segformer:Segformer", ("semantic-segmentation", "image-classification", "feature-extraction")),
    "smollm3": Entry("smollm3:SmolLM3", DECODER, decoder=True),
    "t5": Entry(
        "t5:T5",
        (
            "text2text-generation",
            *("feature-extraction", "text-encoding"),
            *("text-classification", "token-classification", "question-answering"),
        ),
    ),
    "vit": Entry("vit:ViT", (*_IMAGES, "masked-im")),
    "wav2vec2": Entry("wav2vec2:Wav2Vec2", (*_SPEECH, "audio-frame-classification", "audio-xvector")),
    "whisper": Entry("whisper:Whisper", ("speech-seq2seq", "feature-extraction", "audio-classification")),
    "xlm-roberta": Entry("roberta:Roberta", (*_ENCODER, "text-generation")),
    "yolos": Entry("yolos:Yolos", ("object-detection", "feature-extraction")),
}


def find(model_type: str) -> type["Family"]:
    """The family of a model_type. Raises `Error` with the nearest known ones."""
    if model_type not in SUPPORTED:
        near = get_close_matches(model_type, SUPPORTED, n=3, cutoff=0.5)
        known = (
            f"The nearest known: {', '.join(near)}." if near else f"Known model types: {', '.join(sorted(SUPPORTED))}."
        )
        raise Error(
            f"no graph is written for the model_type {model_type!r}",
            f"{known} `milbuild list` shows all with their tasks.",
        )
    file, name = SUPPORTED[model_type].where.split(":")
    return getattr(importlib.import_module(f"milbuild.architectures.{file}"), name)  # type: ignore[no-any-return]


def takes(family: type["Family"]) -> tuple[str, ...]:
    """The inputs of a family, by transformers' names: what its `encode` takes if it has an encoder and a decoder, else its
    `hidden_states`. The first says of what kind it is: text (input_ids), images (pixel_values) or audio (input_values,
    input_features)."""
    method = family.encode or family.hidden_states
    return tuple(inspect.signature(method).parameters)[1:]


def parts(family: type["Family"], task: str, function: str) -> tuple[str, ...]:
    """Which of "encoder" and "decoder" a function of the package runs, `mel` what the first does before its network; none of
    a family that is one whole."""
    if family.encode is None:
        return ()
    if function in ("mel", "encode") or task in family.encoder_tasks:
        return ("encoder",)
    return ("encoder", "decoder") if function == "main" else ("decoder",)


def elsewhere(family: Any, parts: Collection[str]) -> tuple[str, ...]:
    """Patterns of the tensors that a package does not need which runs these `parts` alone ("encoder", "decoder"); none of a
    family that is one whole. Keys and values of cross-attention are the encoder's: they are made once for a whole answer."""
    if family.encode is None:
        return ()
    cross = rf"decoder\..*\.{family.cross_attn[1]}\.({'|'.join(family.qkv[1:])})\..*"
    return (() if "encoder" in parts else (r"encoder\..*", cross)) + (() if "decoder" in parts else (r"decoder\..*",))
