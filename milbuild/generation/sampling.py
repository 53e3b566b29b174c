"""The next token, and a sequence of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from milbuild.errors import Error
from milbuild.generation.session import Session


@dataclass
class Sampling:
    """How the next token is chosen: the most likely one, or with a `temperature` one sampled from what top-k and top-p leave."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    _random: np.random.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.temperature is not None and not self.temperature > 0:
            raise Error(
                f"temperature is {self.temperature}; it is a number above 0", "Leave it out for the most likely token."
            )
        if self.top_k is not None and self.top_k < 1:
            raise Error(f"top_k is {self.top_k}; it is a whole number from 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise Error(f"top_p is {self.top_p}; it is above 0 and at most 1")
        if self.seed is not None and self.seed < 0:
            raise Error(f"seed is {self.seed}; it is a whole number from 0")
        if self.temperature is None and (self.top_k is not None or self.top_p is not None or self.seed is not None):
            # As transformers: sampling at all is asked for by any of them.
            self.temperature = 1.0
        self._random = np.random.default_rng(self.seed)

    def choose(self, scores: np.ndarray) -> int:
        """A token id from the scores (vocabulary,)."""
        if self.temperature is None:
            return int(scores.argmax())
        scores = scores.astype(np.float64) / self.temperature
        order = np.argsort(-scores, kind="stable")[: self.top_k]
        probabilities = np.exp(scores[order] - scores[order[0]])
        probabilities /= probabilities.sum()
        if self.top_p is not None:
            # The smallest set of the likeliest tokens that reaches top_p; always at least one.
            enough = int(np.searchsorted(probabilities.cumsum(), self.top_p)) + 1
            order, probabilities = order[:enough], probabilities[:enough] / probabilities[:enough].sum()
        return int(self._random.choice(order, p=probabilities))


def generate_tokens(
    session: Session,
    prompt: Sequence[int],
    most: int,
    stop: Sequence[int],
    sampling: Sampling,
    rules: Callable[[np.ndarray, Sequence[int]], np.ndarray] | None = None,
) -> Iterator[int]:
    """New tokens one by one, until one of `stop` (which is not yielded) or `most` of them; `rules` change the scores of the
    token after a sequence. The session may have been fed the beginning of the prompt already."""
    scores, sequence = session.feed(prompt[session.length :])[-1], list(prompt)
    for number in range(most):
        token = sampling.choose(scores if rules is None else rules(scores, sequence))
        if token in stop:
            return
        yield token
        sequence.append(token)
        if number + 1 < most:
            scores = session.feed([token])[-1]
