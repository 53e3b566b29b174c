"""One sequence through a package: a prompt in as few calls as its functions allow, then token by token."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from milbuild.caches import KINDS, Host
from milbuild.caches.cache import slots_mask
from milbuild.caches.cross import CROSS
from milbuild.errors import Error
from milbuild.model import Model
from milbuild.package.reader import check_program
from milbuild.program.interfaces import INTERFACES
from milbuild.program.lengths import Length, longest
from milbuild.program.plan import Plan
from milbuild.tasks import TASKS


class Session:
    """One sequence run through a package, whatever its cache is: feed it tokens, it returns scores (or hidden states).

    With an encoder `read` comes first; an encoder in a package of its own is given as `encoder`. `context` is the number of
    tokens that fit, `length` of those fed so far; `calls` counts the calls of each function. What is kept between calls is the
    business of the cache's kind (caches.KINDS).
    """

    def __init__(self, model: Model, encoder: Model | None = None) -> None:
        self.plan = _plan(model)
        generates = TASKS[self.plan.task].generates
        if not generates and self.plan.task != "feature-extraction":
            raise Error(f"the package is for {self.plan.task}; it takes the whole input in one call")
        self.output = "logits" if generates else "last_hidden_state"
        if self.plan.outputs.get(self.output, ()) is None:
            raise Error(f"the package was built without the output {self.output}")
        self.names = INTERFACES[self.plan.interface]
        self.models = {name: model.function(name) for name in self.plan.functions()}
        self.encoder_plan = self._add_encoder(encoder)
        self.shapes = {name: self._shapes(model) for name, model in self.models.items()}
        self.calls = dict.fromkeys(self.models, 0)
        self.lengths = self.plan.functions()
        self.reset()
        length = self.plan.call if self.host.whole else self.plan.context_length
        assert length is not None
        self.context = longest(length)

    def _add_encoder(self, encoder: Model | None) -> Plan:
        """The plan of the function `encode`, of a package of its own if one is given."""
        alone = self.plan.apart and self.plan.function is not None
        if encoder is None:
            if self.plan.function == "encode":
                raise Error(
                    "the package has the function encode only",
                    "Give the package of decode, with this one as its encoder (--encoder).",
                )
            if alone:
                raise Error(
                    "the package has the function decode only", "Give the package of encode as well (--encoder)."
                )
            return self.plan
        if not alone or self.plan.function != "decode":
            raise Error(
                "the package takes no separate encoder",
                "An encoder belongs to a package with the function decode only.",
            )
        plan = _plan(encoder)
        if (plan.function, plan.task) != ("encode", self.plan.task):
            raise Error(f"the encoder's package was not built with function encode for {self.plan.task}")
        if (plan.sequence_length, plan.attention_mask) != (self.plan.sequence_length, self.plan.attention_mask):
            raise Error("the packages of encode and decode differ in sequence_length or attention_mask")
        self.models["encode"] = encoder.function("main")
        return plan

    @property
    def vocabulary(self) -> int | None:
        """How many tokens the package scores; None for one that gives hidden states."""
        model = self.models[self.plan.decoder]
        shapes = self.plan.from_package({each.name: model.shape(each.name) for each in model.interface.output})
        shape = shapes.get("logits")
        return shape[-1] if shape else None

    def reset(self) -> None:
        """Forgets the sequence."""
        self.length = 0
        self.tokens: list[int] = []
        self.host: Host = KINDS[self.plan.kind].Host(
            self.names, slots_mask(self.names, self.plan.apart), self.plan.context_length
        )
        self.state = self.models[self.plan.decoder].make_state() if self.host.in_state else None
        self.cross: dict[str, np.ndarray] = {}

    def read(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the encoder and returns its outputs; the sequence so far is forgotten. `inputs` have transformers' names and no
        padding: token ids (B, T) and their mask are padded to the package's length."""
        self.reset()
        data = {name: np.repeat(value, self.plan.batch_size // len(value), axis=0) for name, value in inputs.items()}
        ids = data.get("input_ids")
        if ids is not None:
            count = ids.shape[1]
            length = self.plan.sequence_length
            assert length is not None
            if count > longest(length):
                hint = "Shorten it, or build with a longer sequence_length."
                raise Error(f"the text has {count} tokens, and the encoder takes {longest(length)}", hint)
            size = shortest_call(length, count)
            if count < size and not self.plan.attention_mask:
                raise Error(
                    f"the package takes {size} tokens, without attention_mask for padding, and the text has {count}"
                )
            mask = data.get("attention_mask", np.ones_like(ids))
            data["input_ids"] = padded(ids, size)
            if self.plan.attention_mask:
                data["attention_mask"] = padded(mask, size).astype(np.int32)
                self.cross["encoder_attention_mask"] = data["attention_mask"]
        outputs = self._call("encode", data)
        self.cross |= {name: outputs[name] for name in CROSS if name in outputs}
        return outputs

    def feed(self, ids: Sequence[int]) -> np.ndarray:
        """The scores (n, vocabulary) after each of n ids; rows that the package does not compute are NaN, never the last one.

        Raises `Error` when the sequence would leave the context.
        """
        if not ids:
            raise Error("there is no token to feed", "A prompt has at least one token.")
        if self.length + len(ids) > self.context:
            hint = "Shorten the prompt or build with a longer context."
            raise Error(f"{self.length + len(ids)} tokens do not fit into the context of {self.context}", hint)
        rows, rest = [], list(ids)
        while rest:
            name, size, count = self._next(len(rest))
            rows.append(self._feed(name, size, rest[:count]))
            rest = rest[count:]
        return np.concatenate(rows)

    def calls_for(self, feeds: Iterable[int]) -> list[int]:
        """How many tokens, padding apart, each call takes of such feeds to an empty sequence. Runs nothing."""
        before, self.length, counts = self.length, 0, []
        try:
            for rest in feeds:
                while rest:
                    counts.append(self._next(rest)[2])
                    self.length, rest = self.length + counts[-1], rest - counts[-1]
        finally:
            self.length = before
        return counts

    def _next(self, rest: int) -> tuple[str, int, int]:
        """(function, tokens of the call, how many of them are not padding) for the next call."""
        decoder = self.plan.decoder
        main, prefill = self.lengths[decoder], self.plan.prefill_length
        last_only = self.plan.logits == "last"
        if self.host.whole:
            tokens = self.length + rest
            size = shortest_call(main, tokens)
            if last_only and tokens < size:
                hint = "Build with logits all, a ranged sequence_length or a cache."
                raise Error(f"the package scores the last of {size} tokens only, and the sequence has {tokens}", hint)
            return decoder, size, rest
        room = self.context - self.length
        if prefill is not None and rest > 1 and prefill <= room:
            # A padded call has no scores of its own last token when only the last slot's are computed: leave that one to main.
            count = min(prefill, rest - 1 if last_only and rest < prefill else rest)
            if count > 1:
                return "prefill", prefill, count
        if isinstance(main, int):
            if main > room:
                raise Error(f"the last {room} slots of the context are fewer than the {main} tokens of a call")
            if last_only and rest < main:
                raise Error(
                    f"{decoder} takes {main} tokens and scores the last only; {rest} are left",
                    "Build with logits all, or one token a call.",
                )
            return decoder, main, min(main, rest)
        # The smallest call that takes the rest, else the largest that the room allows.
        sizes = range(main[0], main[1] + 1) if isinstance(main, tuple) else main
        sizes = [size for size in sizes if size <= room]
        if not sizes:
            raise Error(f"the last {room} slots of the context are fewer than the tokens of any call")
        size = min((size for size in sizes if size >= rest), default=max(sizes))
        return decoder, size, min(size, rest)

    def _feed(self, name: str, size: int, ids: list[int]) -> np.ndarray:
        """The scores of these ids, of one call with `size` tokens."""
        earlier = list(self.tokens) if self.host.whole else []
        tokens = np.zeros((self.plan.batch_size, size), np.int32)
        tokens[0] = padded(np.array([*earlier, *ids], np.int32), size)
        shapes, length, count = self.shapes[name], self.length, len(ids)
        outputs = self._call(name, {self._ids: tokens} | self.host.inputs(shapes, length, size, count))
        self.host.keep(shapes, outputs, length, size, count)
        self.tokens += ids
        self.length += count
        return self._rows(outputs[self.output][0], size, len(earlier), count)

    @property
    def _ids(self) -> str:
        return "decoder_input_ids" if self.plan.apart else self.names.input_ids

    def _call(self, name: str, data: dict[str, Any]) -> dict[str, np.ndarray]:
        self.calls[name] += 1
        plan = self.encoder_plan if name == "encode" else self.plan
        state = None if plan.function == "encode" else self.state
        if name != "encode":
            if self.plan.apart and not self.cross and not self.calls["encode"]:
                raise Error("the encoder has not run yet", "Call read first.")
            data = data | self.cross
        return plan.from_package(self.models[name].predict(plan.to_package(data), state))

    def _shapes(self, model: Model) -> dict[str, list[int]]:
        """Of the inputs of a function."""
        return {self.plan.input_of(each.name): list(each.type.multiArrayType.shape) for each in model.interface.input}

    def _rows(self, scores: np.ndarray, size: int, first: int, count: int) -> np.ndarray:
        """Those of `count` tokens from the place `first` on."""
        if self.plan.logits == "all":
            return scores[first : first + count]
        rows = np.full((count, scores.shape[-1]), np.nan, np.float32)
        if first + count == size:
            rows[-1] = scores[-1]
        return rows


def _plan(model: Model) -> Plan:
    """What a package was built by. Raises `Error` for one that only its consumer can run."""
    check_program(os.path.basename(model.package_path), model.get_spec())
    plan = Plan.of(os.path.basename(model.package_path), model.user_defined_metadata)
    if INTERFACES[plan.interface].packages:
        hint = "Build with the interface milbuild to try a checkpoint; validate compares these packages."
        raise Error(f"the package is for {plan.interface}, which runs it itself", hint)
    return plan


def shortest_call(length: Length, count: int) -> int:
    """The shortest call that has room for so many tokens."""
    if isinstance(length, list):
        return min(n for n in length if n >= count)
    return length if isinstance(length, int) else max(count, length[0])


def padded(x: np.ndarray, size: int) -> np.ndarray:
    """(..., n) -> (..., size), with zeros at the end."""
    return np.pad(x, [*[(0, 0)] * (x.ndim - 1), (0, size - x.shape[-1])])


def opened(package: str | os.PathLike[str] | Model) -> Model:
    return package if isinstance(package, Model) else Model(package)
