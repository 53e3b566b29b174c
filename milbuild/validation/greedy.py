"""Text that a package generates greedily, compared with what transformers' model would generate."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from milbuild.generation.session import Session, shortest_call
from milbuild.validation import reference, seq2seq
from milbuild.validation.backend import Backend
from milbuild.validation.comparison import Comparison

TOKENS = 16  # that are generated
PROMPT = 16  # tokens before them


@dataclass(frozen=True)
class Greedy:
    """`same` of `tokens` generated tokens are the model's, from the first on. At the next one the package chose `ours`, and the
    model `theirs`, whose logit is higher by `margin`; None where all are the same."""

    case: str
    backend: str
    tokens: int
    same: int
    ours: int | None = None
    theirs: int | None = None
    margin: float | None = None


@dataclass
class Continuation:
    """A prompt that is continued by `most` tokens. `begin` prepares a session for `first`, the tokens that are fed first;
    `scores` gives the model's (n, vocabulary) after each token of a sequence."""

    name: str
    first: list[int]
    begin: Callable[[Session], None]
    scores: Callable[[list[int], tuple[bool, bool]], np.ndarray]
    most: int
    states: tuple[bool, bool]

    def run(self, backend: Backend) -> tuple[list[int], np.ndarray]:
        """(the tokens that a package chooses, the scores (most, vocabulary) it chose them by)."""
        session, tokens, rows = backend.session(), [], []
        self.begin(session)
        ids = self.first
        for _ in range(self.most):
            rows.append(session.feed(ids)[-1])
            ids = [int(rows[-1].argmax())]
            tokens += ids
        return tokens, np.stack(rows)

    def compare(self, backend: str, tokens: list[int]) -> tuple[Greedy, np.ndarray, np.ndarray | None]:
        """(how many tokens the model would have chosen as well, its scores (most, vocabulary) of the same sequence, the same with
        keys and values in float16 where they are in states)."""
        # Up to the first different token the model's own continuation is the package's: one pass over the whole gives both.
        whole = self.first + tokens[:-1]
        scores = self.scores(whole, (False, False))[-self.most :]
        rounded = self.scores(whole, self.states)[-self.most :] if any(self.states) else None
        theirs = scores.argmax(-1)
        different = [place for place, token in enumerate(tokens) if token != theirs[place]]
        if not different:
            return Greedy(self.name, backend, self.most, self.most), scores, rounded
        place = different[0]
        margin = float(scores[place].max() - scores[place, tokens[place]])
        return Greedy(self.name, backend, self.most, place, tokens[place], int(theirs[place]), margin), scores, rounded


def continuation(comparison: Comparison, context: int) -> Continuation | None:
    """Of a text. None where the context is too short."""
    if comparison.step > 1:
        return None  # a call of one length scores its last token only: no text grows in it
    context = comparison.usable(context)
    settled = comparison.settled
    if settled is not None and comparison.plan.cache == "none":
        # Each token is a call over the whole, padded: of a longer call the positions are those of its length, not the text's.
        context = min(context, settled)
        if shortest_call(comparison.plan.call, context) > settled:
            return None
    length = min(PROMPT, context // 2)
    most = min(TOKENS, context - length + 1)
    if length < 1:
        return None
    first = comparison.samples.ids(comparison.config.vocab_size, 1, length)[0].tolist()

    def scores(ids: list[int], rounded: tuple[bool, bool]) -> np.ndarray:
        inputs = {"input_ids": np.array([ids], np.int32)}
        calls = comparison.calls([length] + [1] * (len(ids) - length))
        logits: np.ndarray = reference.forward(comparison.truth, inputs, rounded, calls)["logits"][0]
        return logits

    name = f"greedy, {most} after {length} tokens{comparison.samples.origin}"
    return Continuation(name, first, lambda session: None, scores, most, comparison.in_states)


def answer(comparison: Comparison, context: int) -> Continuation | None:
    """Of a decoder, to what its encoder has read."""
    if comparison.step > 1:
        return None
    name, inputs, audio = next(seq2seq.encoder_inputs(comparison, comparison.plan.batch_size))
    first = {key: value[:1] for key, value in inputs.items()}

    def begin(session: Session) -> None:
        seq2seq.encode(session, first, None if audio is None else audio[:1])

    def scores(ids: list[int], rounded: tuple[bool, bool]) -> np.ndarray:
        inputs = first | {"decoder_input_ids": np.array([ids], np.int32)}
        logits: np.ndarray = reference.forward(comparison.truth, inputs, rounded)["logits"][0]
        return logits

    most = min(TOKENS, comparison.usable(context))
    start = getattr(comparison.config, "decoder_start_token_id", None)
    start = 0 if start is None else start
    return Continuation(f"greedy, {most} after {name}", [start], begin, scores, most, comparison.in_states)
