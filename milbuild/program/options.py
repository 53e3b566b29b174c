"""A build's options: their words, for Python and the command line alike. Imports nothing heavy."""

from dataclasses import dataclass

PRECISIONS = ("float16", "float32")
# The oldest system of a target -> Core ML's specification version (coremltools/__init__.py).
TARGETS = {"iOS15": 6, "iOS16": 7, "iOS17": 8, "iOS18": 9, "iOS26": 10}
# Where a build is not told otherwise, in Python and on the command line.
BATCH_SIZE, LOGITS, PRECISION, TARGET = 1, "all", "float16", "iOS18"
# How one vector is made of the tokens' states, several joined with commas; and what leaves the states as they are.
POOLINGS = ("mean", "cls", "last", "max", "mean_sqrt_len_tokens", "weightedmean")
NO_POOLING = "none"


@dataclass(frozen=True)
class Output:
    """What becomes of an output: another name, another description; `softmax=False` leaves the scores as the model gives
    them, without what `postprocess` does to them."""

    name: str | None = None
    text: str | None = None
    softmax: bool = True
