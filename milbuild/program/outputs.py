"""From a task's scores to what its users read: what the pipelines of transformers do after the model, as operations.

A function takes transformers' outputs by their names and returns those of the package; their descriptions are here, too.
"""

import colorsys
import json
from collections.abc import Callable
from typing import Any

from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var, mil_list, types

from milbuild.errors import Error
from milbuild.layers.attention import HIDDEN
from milbuild.layers.image import resized
from milbuild.layers.linear import like
from milbuild.tasks import TASKS
from milbuild.weights.fields import Config

Outputs = dict[str, Any]

LABEL, PROBABILITIES, CLASS_LABELS = "classLabel", "probabilities", "classLabels"
SENTENCE = "sentence_embedding"

# The description of an output in a package, without its shape.
TEXTS = {
    "logits": "Scores before softmax.",
    "last_hidden_state": "Hidden states after the last layer's norm.",
    "encoder_last_hidden_state": "Hidden states after the encoder's last layer.",
    "melspectrogram_features": "The log-mel spectrogram of the audio.",
    "encoder_output_embeds": "Hidden states after the encoder's last layer.",
    "alignment_heads_weights": "Where in the audio the heads look that tell a word's time, on average.",
    "pooler_output": "The hidden state of the whole input, after the pooler.",
    "start_logits": "Scores of each token for beginning the answer, before softmax.",
    "end_logits": "Scores of each token for ending the answer, before softmax.",
    "start_scores": "Probability of each token to begin the answer.",
    "end_scores": "Probability of each token to end the answer.",
    "token_scores": "Probability of each label for each token.",
    "reconstruction": "The images as the model completes them.",
    "pred_boxes": "Boxes as fractions of the image: x and y of the centre, width, height.",
    "scores": "Probability of each label for each box.",
    "boxes": "Boxes in pixels of the image: left, top, right, bottom.",
    CLASS_LABELS: "The number of the most likely label of each pixel.",
    "frame_scores": "Probability of each label at each frame; several can be true at once.",
    "extract_features": "What the convolutions make of the audio, normalized, before the encoder.",
    "embeddings": "A vector of who speaks; the cosine of two says whether it is the same person.",
    SENTENCE: "One vector for the whole text.",
    LABEL: "The most likely label.",
    PROBABILITIES: "Probability of each label.",
}


def meanings(task: str, config: Config, checkpoint: Any) -> str:
    """What the indices of a task's scores mean, as a sentence of their description."""
    if TASKS[task].labelled:
        return f" Labels: {', '.join(labels(config))}."
    if task != "ctc":
        return ""
    found = {number: token for token, number in checkpoint.vocabulary.items() if type(number) is int}
    complete = found.keys() == set(range(config.vocab_size))
    return f" Tokens: {' '.join(found[i] for i in range(config.vocab_size))}" if complete else ""


def labels(config: Config) -> list[str]:
    """The labels by their index; one that occurs twice gets a number appended, such that it equals no other.

    Raises `Error` where an index has no label: transformers' pipelines fail on it, and another label would take its place.
    """
    count = config.num_labels
    if missing := [number for number in range(count) if number not in config.id2label]:
        raise Error(
            f"id2label in config.json has {count} labels and none for {', '.join(map(str, missing))}; it numbers them "
            f"{', '.join(map(str, sorted(config.id2label)))}",
            f"Number them from 0 to {count - 1}, in the order of the model's scores.",
        )
    named = [str(config.id2label[number]) for number in range(count)]
    found: list[str] = []
    for at, label in enumerate(named):
        spelled, number = label, named[:at].count(label) + 1
        while number > 1 and (spelled := f"{label} {number}") in {*named, *found}:
            number += 1
        found.append(spelled)
    return found


def text(name: str, task: str, config: Config) -> str:
    """The description of an output of a task."""
    if name != "logits" or not TASKS[task].classifies:
        return TEXTS[name]
    if config.problem_type == "regression":
        return "The values that the model estimates."
    if not _each_alone(task, config):
        return TEXTS[name]
    return "Scores before sigmoid: rank by these, since probabilities near 1 are rounded to the same number."


def preview(task: str, config: Config) -> dict[str, str]:
    """The metadata by which Xcode previews what a package makes of an image."""
    if task != "semantic-segmentation":
        return {}
    named = labels(config)
    # Colours as far apart as hues go, a golden section between neighbours.
    colors = [colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.65, 0.95) for i in range(len(named))]
    spelled = ["#" + "".join(f"{round(255 * value):02X}" for value in color) for color in colors]
    parameters = json.dumps({"labels": named, "colors": spelled})
    key = "com.apple.coreml.model.preview"
    return {f"{key}.type": "imageSegmenter", f"{key}.params": parameters}


def postprocessed(
    task: str,
    outputs: Outputs,
    config: Config,
    size: tuple[int, int] | None = None,
    attention_mask: Var | None = None,
) -> Outputs:
    """What a package gives instead of the model's own `outputs`; these themselves for tasks without postprocessing.

    `size` is the image's, (height, width). No answer begins or ends in what `attention_mask` (B, T) hides.
    """
    if size is not None and task in OF_IMAGES:
        return OF_IMAGES[task](outputs, size)
    if task == "question-answering":
        return _answer(outputs, attention_mask)
    return POSTPROCESSES[task](outputs, config) if task in POSTPROCESSES else outputs


def _classifier(task: str) -> Callable[[Outputs, Any], Outputs]:
    """A label with the probabilities of all as Core ML's classifiers give them; a batch's as an array; a regression's
    values stay. Where each label is true or not by itself, the scores stay beside the probabilities."""

    def compute(outputs: Outputs, config: Config) -> Outputs:
        if config.problem_type == "regression":
            return outputs
        alone = _each_alone(task, config)
        scores = _chances(outputs["logits"], mb.sigmoid if alone else softmax, "label_probabilities")
        logits = {"logits": outputs["logits"]} if alone else {}
        if scores.shape[0] != 1:
            return {PROBABILITIES: scores, **logits}
        scores = mb.reshape(x=scores, shape=[-1], name="label_probabilities_flat")
        classes = mb.const(val=mil_list(labels(config)), name="labels")
        label, chances = mb.classify(probabilities=scores, classes=classes, name="classified")
        return {LABEL: label, PROBABILITIES: chances, **logits}

    return compute


def _frames(outputs: Outputs, config: Config) -> Outputs:
    """Each label by itself: several people may speak at once (transformers documents its models so)."""
    return {"frame_scores": mb.sigmoid(x=outputs["logits"], name="frame_scores")}


def _each_alone(task: str, config: Config) -> bool:
    """Whether labels are true or not each by itself (sigmoid), else one of them is (softmax), as transformers' pipelines choose
    (pipelines/*_classification.py): that for audio takes softmax of a single label, too."""
    single = config.num_labels == 1 and task != "audio-classification"
    return bool(config.problem_type == "multi_label_classification" or single)


def _chances(logits: Var, function: Callable[..., Var], name: str) -> Var:
    """In float32: float16 rounds the sigmoid of 9 and of 12 to the same 1, and things are ranked by it."""
    if logits.dtype != types.fp32:
        logits = mb.cast(x=logits, dtype="fp32", name=f"{name}_scores")
    return function(x=logits, name=name)


def _choice(outputs: Outputs, config: Config) -> Outputs:
    """The probabilities of a few that exclude each other."""
    return {PROBABILITIES: _chances(outputs["logits"], softmax, PROBABILITIES)}


def softmax(x: Var, name: str) -> Var:
    return mb.softmax(x=x, axis=-1, name=name)


def _each(*pairs: tuple[str, str]) -> Callable[[Outputs, Any], Outputs]:
    """Softmax of single outputs, under other names; the others stay."""

    def compute(outputs: Outputs, config: Config) -> Outputs:
        names = dict(pairs)
        return {
            names.get(name, name): softmax(var, names[name]) if name in names else var for name, var in outputs.items()
        }

    return compute


def _answer(outputs: Outputs, attention_mask: Var | None) -> Outputs:
    """Probabilities over the tokens that are no padding, as the pipeline for answers has them; which of these are the
    question's, only the tokenizer knows."""
    scores = {name.replace("logits", "scores"): var for name, var in outputs.items()}
    if attention_mask is not None:
        start = next(iter(scores.values()))
        seen = mb.cast(x=attention_mask, dtype="fp16" if start.dtype == types.fp16 else "fp32", name="answers_seen")
        away = mb.sub(x=seen, y=like(start, 1.0), name="answers_hidden")
        away = mb.mul(x=away, y=like(start, -HIDDEN), name="answers_away")
        scores = {name: mb.add(x=var, y=away, name=f"{name}_seen") for name, var in scores.items()}
    return {name: softmax(var, name) for name, var in scores.items()}


def _segmentation(outputs: Outputs, size: tuple[int, int]) -> Outputs:
    """The label of each of the image's own pixels: (B, labels, h, w) -> int32 (B, height, width)."""
    x = resized(outputs["logits"], size, "logits_of_pixels")
    return {CLASS_LABELS: mb.reduce_argmax(x=x, axis=1, keep_dims=False, name="labels_of_pixels")}


def _detection(outputs: Outputs, size: tuple[int, int]) -> Outputs:
    """Probabilities without that of no object, and boxes as corners in pixels."""
    scores = softmax(outputs["logits"], "probabilities_of_boxes")
    batch, boxes, labels = scores.shape
    scores = mb.slice_by_size(x=scores, begin=[0, 0, 0], size=[batch, boxes, labels - 1], name="scores_of_boxes")
    centre, extent = mb.split(x=outputs["pred_boxes"], num_splits=2, axis=-1, name="box_parts")
    half = mb.mul(x=extent, y=like(extent, 0.5), name="box_halves")
    corners = [mb.sub(x=centre, y=half, name="box_begins"), mb.add(x=centre, y=half, name="box_ends")]
    height, width = size
    pixels = like(extent, [width, height, width, height])
    x = mb.mul(x=mb.concat(values=corners, axis=-1, name="box_corners"), y=pixels, name="box_pixels")
    return {"scores": scores, "boxes": x}


OF_IMAGES: dict[str, Callable[[Outputs, tuple[int, int]], Outputs]] = {
    "semantic-segmentation": _segmentation,
    "object-detection": _detection,
}
POSTPROCESSES: dict[str, Callable[[Outputs, Any], Outputs]] = {
    **{name: _classifier(name) for name, task in TASKS.items() if task.classifies},
    "audio-frame-classification": _frames,
    "ctc": _each(("logits", "token_scores")),
    "token-classification": _each(("logits", "token_scores")),
    "fill-mask": _each(("logits", "token_scores")),
    "multiple-choice": _choice,
    "next-sentence-prediction": _choice,
}
