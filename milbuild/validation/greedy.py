"""Text that a package writes, the likeliest token at each step, beside what the model would write."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from milbuild.generation.session import Session
from milbuild.program.plan import Plan
from milbuild.validation import answers, reference
from milbuild.validation.backend import Player
from milbuild.validation.cases import in_states, step_of, usable
from milbuild.validation.material import Material

TOKENS = 16  # that are chosen
PROMPT = 16  # tokens in front of them

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Greedy:
    """`same` of `tokens` chosen tokens are the model's, from the first on. At the first other one the package took `ours`, and
    the model `theirs`, whose logit lies `margin` above; None where all are the same."""

    case: str
    backend: str
    tokens: int
    same: int
    ours: int | None = None
    theirs: int | None = None
    margin: float | None = None


@dataclass
class Continuation:
    """A prompt and what stands behind it. `begin` makes a session ready for `first`, the tokens that are fed first; `scores`
    gives the model's (n, vocabulary) behind each token of a sequence."""

    name: str
    first: list[int]
    begin: Callable[[Session], None]
    scores: Callable[[list[int], tuple[bool, bool]], np.ndarray]
    most: int
    states: tuple[bool, bool]

    def play(self, player: Player) -> tuple[list[int], np.ndarray]:
        """(the tokens that a package chooses, the scores (most, vocabulary) that it chose them by)."""
        session, tokens, rows = player.session(), [], []
        self.begin(session)
        ids = self.first
        for _ in range(self.most):
            rows.append(session.feed(ids)[-1])
            ids = [int(rows[-1].argmax())]
            tokens += ids
        return tokens, np.stack(rows)

    def compare(self, backend: str, tokens: list[int]) -> tuple[Greedy, np.ndarray, np.ndarray | None]:
        """(how far the model would have written the same, its scores (most, vocabulary) of the same sequence, the same with keys
        and values in float16 where they live in states)."""
        # Up to the first other token the model's own continuation is the package's: one pass over the whole says both.
        whole = self.first + tokens[:-1]
        scores = self.scores(whole, (False, False))[-self.most :]
        rounded = self.scores(whole, self.states)[-self.most :] if any(self.states) else None
        theirs = scores.argmax(-1)
        other = [place for place, token in enumerate(tokens) if token != theirs[place]]
        if not other:
            return Greedy(self.name, backend, self.most, self.most), scores, rounded
        place = other[0]
        margin = float(scores[place].max() - scores[place, tokens[place]])
        return Greedy(self.name, backend, self.most, place, tokens[place], int(theirs[place]), margin), scores, rounded


def continuation(plan: Plan, truth: Any, material: Material, context: int) -> Continuation | None:
    """Behind a text. None where the context holds too little of it."""
    if step_of(plan) > 1:
        return None  # a call of one length scores its last token only: no text grows in it
    context = usable(plan, context)
    length = min(PROMPT, context // 2)
    most = min(TOKENS, context - length + 1)
    if length < 1:
        return None
    first = material.ids(truth.config.vocab_size, 1, length)[0].tolist()

    def scores(ids: list[int], rounded: tuple[bool, bool]) -> np.ndarray:
        found: np.ndarray = reference.forward(truth, {"input_ids": np.array([ids], np.int32)}, rounded)["logits"][0]
        return found

    name = f"greedy, {most} behind {length} tokens{material.whose}"
    return Continuation(name, first, lambda session: None, scores, most, in_states(plan))


def answer(plan: Plan, truth: Any, inputs: Arrays, sound: Any, name: str, context: int) -> Continuation | None:
    """To what an encoder reads."""
    if step_of(plan) > 1:
        return None
    one = {key: value[:1] for key, value in inputs.items()}

    def begin(session: Session) -> None:
        answers.read(session, one, None if sound is None else sound[:1])

    def scores(ids: list[int], rounded: tuple[bool, bool]) -> np.ndarray:
        inputs = one | {"decoder_input_ids": np.array([ids], np.int32)}
        found: np.ndarray = reference.forward(truth, inputs, rounded)["logits"][0]
        return found

    most = min(TOKENS, usable(plan, context))
    start = getattr(truth.config, "decoder_start_token_id", None)
    return Continuation(
        f"greedy, {most} behind {name}", [0 if start is None else start], begin, scores, most, in_states(plan)
    )
