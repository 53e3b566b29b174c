"""How far an output is from transformers': errors over its scale, and what a user of the output would notice."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from milbuild.errors import Error

BLOCK = 1 << 22  # numbers that are compared at a time
TOP = 5
BOXES = ("boxes", "pred_boxes")
SHARES = ("probabilities", "token_scores", "start_scores", "end_scores")
UNIT = ("probabilities", "token_scores", "start_scores", "end_scores", "scores", "frame_scores", "pred_boxes")  # 0 to 1

# The bar for a package in float16: a correct graph clears it on the runtime with room to spare.
MIN_PSNR = 55.0
# A number of magnitude m is rounded to float16 by up to 2^-11 m. That must pass, so a scale is at least this share of m.
MAGNITUDE = 2.0**-11 * 10 ** (MIN_PSNR / 20)
# The least range of an output of a head, in standard deviations of sums of its terms with random signs.
DEVIATIONS = 2.0


@dataclass(frozen=True)
class Row:
    """One output of one case on one backend.

    `max_abs` is the largest difference, `max_rel` the same over `scale`, `psnr` the root mean square of the differences in dB
    below it, `cosine` that of the angle between both. What a user would notice is None where the output has nothing of the
    kind: `agreement`, the share of rows whose best class is the same; `top5`, the share of the five best classes that are in
    both; `kl`, the divergence of the package's distribution from the reference's (nats, mean); `iou`, the mean overlap of
    boxes or of the areas of labels. `left_out` rows (padding) are not compared. `rounding` is what keys and values in
    float16, as a state holds them, do to the reference: the largest difference over `scale`; such a row was compared with a
    reference that rounds them.
    """

    case: str
    backend: str
    output: str
    max_abs: float
    max_rel: float
    psnr: float
    cosine: float
    agreement: float | None = None
    top5: float | None = None
    kl: float | None = None
    iou: float | None = None
    left_out: int = 0
    scale: float = 1.0
    rounding: float = 0.0


def scale(output: str, expected: np.ndarray, terms: float = 0.0) -> float:
    """What errors of an output are measured over: its range in the reference, which a few nearly equal numbers do not have.

    So it is at least what float16's rounding of the magnitude asks for (`MAGNITUDE`), and the range that the output would
    have if the terms it is summed of did not cancel: of random signs they give a normal distribution, whose deviation is
    `terms` (`reference.terms`), and so many of its numbers the range of `deviations`. What is between 0 and 1 is measured
    over 1 at most.
    """
    if not expected.size:
        return 1.0
    found = max(float(np.ptp(expected)), MAGNITUDE * float(np.abs(expected).max()), deviations(expected.size) * terms)
    return min(found, 1.0) if output in UNIT else found


def deviations(count: int) -> float:
    """The range of `count` normally distributed numbers that is expected, in standard deviations (Blom); 2 at least."""
    return max(DEVIATIONS, 2 * NormalDist().inv_cdf((count - 0.375) / (count + 0.25)))


def measure(
    case: str,
    backend: str,
    output: str,
    expected: np.ndarray,
    value: np.ndarray,
    left_out: int = 0,
    terms: float = 0.0,
) -> Row:
    """The figures of one output. Raises `Error` where the shapes differ: then package and checkpoint do not match."""
    if expected.shape != value.shape:
        raise Error(
            f"the package and the checkpoint do not match: {output} has the shape {value.shape} in the package "
            f"and {expected.shape} in transformers",
            "Validate a package with the checkpoint it was built from.",
        )
    agreement = top5 = kl = iou = None
    if output in BOXES:
        iou = float(_overlaps(output, expected, value).mean()) if expected.size else None
    elif _chooses(output) and expected.ndim > 1 and expected.shape[-1] > 1:
        agreement, top5, kl = _choices(expected, value, output.endswith("logits"))
    over = scale(output, expected, terms)
    return Row(case, backend, output, *distance(expected, value, over), agreement, top5, kl, iou, left_out, over)


def measure_labels(
    case: str, backend: str, output: str, scores: np.ndarray, labels: np.ndarray, terms: float = 0.0
) -> Row:
    """The same of a label for each pixel (B, ...), against the reference's scores of every label (B, classes, ...).

    The reference's score of each chosen label is compared with its best one: two that are as good as equal may change places
    by rounding, and the labels' numbers say nothing of how far apart they are.
    """
    if labels.shape != (scores.shape[0], *scores.shape[2:]):
        return measure(case, backend, output, scores[:, 0], labels)  # which says so
    chosen = np.take_along_axis(scores, labels[:, None].astype(np.int64), axis=1)[:, 0]
    best = scores.argmax(axis=1)
    areas = []
    for label in np.unique(best):
        ours, theirs = labels == label, best == label
        areas.append(float((ours & theirs).sum() / (ours | theirs).sum()))
    over = scale(output, scores, terms)
    figures = distance(scores.max(axis=1), chosen, over)
    same = float((best == labels).mean())
    return Row(case, backend, output, *figures, agreement=same, iou=float(np.mean(areas)), scale=over)


def distance(expected: np.ndarray, value: np.ndarray, over: float) -> tuple[float, float, float, float]:
    """(largest difference, the same over a scale, PSNR in dB over it, cosine) of two arrays of one shape."""
    worst, squares, both, ours, theirs = 0.0, 0.0, 0.0, 0.0, 0.0
    for one, other in _blocks(expected.reshape(-1), value.reshape(-1)):
        error = np.abs(one - other)
        worst = max(worst, float(error.max())) if np.isfinite(error).all() else math.inf
        if math.isinf(worst):
            return math.inf, math.inf, -math.inf, 0.0
        squares += float(error @ error)
        both, ours, theirs = both + float(one @ other), ours + float(other @ other), theirs + float(one @ one)
    span = over or 1.0  # of nothing but zeros
    rms = math.sqrt(squares / max(1, expected.size))
    psnr = math.inf if rms == 0 else 20 * math.log10(span / rms)
    cosine = both / math.sqrt(ours * theirs) if ours and theirs else float(ours == theirs)
    return worst, worst / span, psnr, min(1.0, cosine)


def _blocks(expected: np.ndarray, value: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Both along their first axis in pieces of float64, which of whole scores of a long text would fill the memory."""
    width = max(1, expected[:1].size)
    step = max(1, BLOCK // width)
    places = range(0, len(expected), step)
    return ((expected[at : at + step].astype(np.float64), value[at : at + step].astype(np.float64)) for at in places)


def _chooses(output: str) -> bool:
    return output.endswith("logits") or output in SHARES or output == "scores"


def _choices(expected: np.ndarray, value: np.ndarray, logits: bool) -> tuple[float, float | None, float]:
    """(same best class, shared among the five best, KL in nats), means over the rows."""
    classes = expected.shape[-1]
    same = shared = divergence = 0.0
    for one, other in _blocks(expected.reshape(-1, classes), value.reshape(-1, classes)):
        same += float((one.argmax(-1) == other.argmax(-1)).sum())
        if classes > TOP:
            best, found = (np.argpartition(-each, TOP, axis=-1)[:, :TOP] for each in (one, np.nan_to_num(other)))
            shared += float((best[:, :, None] == found[:, None]).sum()) / TOP
        ours, theirs = (_logarithms(each, logits) for each in (other, one))
        divergence += float((np.exp(theirs) * (theirs - ours)).sum())
    rows = max(1, expected.size // classes)
    divergence = math.inf if math.isnan(divergence) else max(0.0, divergence / rows)
    return same / rows, shared / rows if classes > TOP else None, divergence


def _logarithms(rows: np.ndarray, logits: bool) -> np.ndarray:
    """Logarithms of the shares, of rows of logits or of shares (float16 rounds small ones to 0)."""
    if not logits:
        shares = np.maximum(rows, 1e-12)
        return np.asarray(np.log(shares / shares.sum(-1, keepdims=True)))
    shifted = rows - rows.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def _overlaps(output: str, expected: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Intersection over union of each box (..., 4) with the reference's at the same place."""
    one, other = (_corners(output, each.astype(np.float64)) for each in (expected, value))
    low, high = np.maximum(one[..., :2], other[..., :2]), np.minimum(one[..., 2:], other[..., 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas = [np.clip(each[..., 2:] - each[..., :2], 0, None).prod(-1) for each in (one, other)]
    union = areas[0] + areas[1] - shared
    return np.asarray(np.where(union > 0, shared / np.where(union > 0, union, 1), 1.0))


def _corners(output: str, boxes: np.ndarray) -> np.ndarray:
    if output == "boxes":
        return boxes
    center, size = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([center - size / 2, center + size / 2], axis=-1)
