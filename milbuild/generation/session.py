"""One sequence through a package: a prompt in as few calls as its functions allow, then token by token."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from milbuild.errors import Error
from milbuild.model import Model
from milbuild.package.reader import check_program
from milbuild.program.options import CROSS, INTERFACES, Plan, longest
from milbuild.tasks import GENERATION


class Session:
    """One sequence played through a package, whatever its cache is: feed it tokens, it gives scores (or hidden states).

    With an encoder `read` comes first; one that is a package of its own is given as `encoder`. `context` is how many tokens
    fit, `length` how many are in. `calls` counts those of each function.
    """

    def __init__(self, model: Model, encoder: Model | None = None) -> None:
        self.plan = _plan(model)
        outputs = {"feature-extraction": "last_hidden_state"} | dict.fromkeys(GENERATION, "logits")
        if self.plan.task not in outputs:
            raise Error(f"the package is for {self.plan.task}; it takes a whole text in one call")
        self.output = outputs[self.plan.task]
        if self.plan.outputs.get(self.output, ()) is None:
            raise Error(f"the package was built without the output {self.output}")
        self.names = INTERFACES[self.plan.interface]
        self.models = {name: model.function(name) for name in self.plan.functions()}
        self.encoder_plan = self._add_encoder(encoder)
        self.calls = dict.fromkeys(self.models, 0)
        self.lengths = self.plan.functions()
        self.context = self._context()
        self.reset()

    def _add_encoder(self, encoder: Model | None) -> Plan:
        """The plan that the function `encode` was built by."""
        alone = self.plan.apart and self.plan.function is not None
        if encoder is None:
            if self.plan.function == "encode":
                raise Error(
                    "the package has the function encode only",
                    "Give the package of decode, and this one as its encoder.",
                )
            if alone:
                raise Error(
                    "the package has the function decode only", "Give the package of encode as well (--encoder)."
                )
            return self.plan
        if not alone or self.plan.function != "decode":
            raise Error(
                "the package takes no other one as its encoder", "An encoder belongs to a package of decode alone."
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
        self.state = self.models[self.plan.decoder].make_state() if self.plan.cache == "state" else None
        self.past: dict[str, np.ndarray] = {}
        self.cross: dict[str, np.ndarray] = {}

    def read(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Lets the encoder read what is behind its inputs, by transformers' names without padding; what came before is
        forgotten. Token ids and their mask are padded to the package's length. Returns its outputs."""
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
            room = _room(length, count) - count
            if room and not self.plan.attention_mask:
                raise Error(f"the package takes {count + room} tokens and marks no padding, and the text has {count}")
            mask = data.get("attention_mask", np.ones_like(ids))
            data["input_ids"] = np.pad(ids, ((0, 0), (0, room)))
            if self.plan.attention_mask:
                data["attention_mask"] = np.pad(mask, ((0, 0), (0, room))).astype(np.int32)
                self.cross["encoder_attention_mask"] = data["attention_mask"]
        outputs = self._call("encode", data)
        self.cross |= {name: outputs[name] for name in CROSS if name in outputs}
        return outputs

    def feed(self, ids: Sequence[int]) -> np.ndarray:
        """The scores (n, vocabulary) behind each of n ids; rows that the package does not compute are NaN, never the last.

        Raises `Error` when the sequence would leave the context.
        """
        if not ids:
            raise Error("there is no token to feed", "A prompt has at least one token.")
        if self.length + len(ids) > self.context:
            hint = "Shorten the prompt or build with a longer context."
            raise Error(f"{self.length + len(ids)} tokens do not fit into the context of {self.context}", hint)
        rows: list[np.ndarray] = []
        if self.plan.cache == "none":
            self.tokens += ids
            rows = [self._whole(len(ids))]
            self.length += len(ids)
        else:
            rest = list(ids)
            while rest:
                name, size, count = self._next(len(rest))
                rows.append(self._cached(name, size, rest[:count]))
                self.length += count
                rest = rest[count:]
        return np.concatenate(rows)

    def _context(self) -> int:
        if self.plan.cache == "none":
            return longest(self.plan.call)
        assert self.plan.context_length is not None
        return longest(self.plan.context_length)

    def _next(self, rest: int) -> tuple[str, int, int]:
        """(function, the tokens it is called with, how many of them are real) for the next call."""
        decoder = self.plan.decoder
        main, prefill = self.lengths[decoder], self.plan.prefill_length
        last_only = self.plan.logits == "last"
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

    def _cached(self, name: str, size: int, ids: list[int]) -> np.ndarray:
        padded = np.array([ids + [0] * (size - len(ids))], np.int32)
        data: dict[str, Any] = {self._ids: padded}
        if self.plan.cache == "io":
            outputs = self._input_output(name, data, size, len(ids))
        elif self.names.ranged:
            data[self.names.position] = np.zeros((1, 1, 1, self.length + size + 1), np.float16)
            outputs = self._call(name, data)
        else:
            data[self.names.position] = np.array([self.length], np.int32)
            outputs = self._call(name, data)
        return self._rows(outputs[self.output][0], size, len(ids))

    @property
    def _ids(self) -> str:
        return "decoder_input_ids" if self.plan.apart else self.names.input_ids

    def _call(self, name: str, data: dict[str, Any]) -> dict[str, np.ndarray]:
        self.calls[name] += 1
        plan = self.encoder_plan if name == "encode" else self.plan
        state = None if plan.function == "encode" else self.state
        if name != "encode":
            if self.plan.apart and not self.cross and not self.calls["encode"]:
                raise Error("the encoder has read nothing yet", "Call read first.")
            data = data | self.cross
        return plan.from_package(self.models[name].predict(plan.to_package(data), state))

    def _rows(self, logits: np.ndarray, size: int, count: int) -> np.ndarray:
        if self.plan.logits == "all" or size == 1:
            return logits[:count]
        rows = np.full((count, logits.shape[-1]), np.nan, np.float32)
        if count == size:
            rows[-1] = logits[-1]
        return rows

    def _input_output(self, name: str, data: dict[str, Any], size: int, count: int) -> dict[str, np.ndarray]:
        growing = not isinstance(self.plan.context_length, int)
        slots = max(1, self.length) if growing else self.context - size
        mask_name = "decoder_attention_mask" if self.plan.apart else self.names.attention_mask
        for feature in self.models[name].interface.input:
            past = self.plan.input_of(feature.name)
            if past in (self._ids, mask_name, *self.cross):
                continue
            _, heads, _, width = feature.type.multiArrayType.shape
            data[past] = np.zeros((1, heads, slots, width), np.float32)
            if self.length:
                data[past][:, :, : self.length] = self.past[past]
        mask = np.zeros((1, slots + size), np.int32)
        mask[:, : self.length] = mask[:, slots : slots + count] = 1
        data[mask_name] = mask
        outputs = self._call(name, data)
        for feature_name in list(data):
            present = outputs.get(feature_name.replace("past_", "present_"))
            if present is None:
                continue
            new = present[:, :, slots:] if growing else present
            before = [self.past[feature_name]] if self.length else []
            self.past[feature_name] = np.concatenate([*before, new[:, :, :count]], axis=2)
        return outputs

    def _whole(self, new: int) -> np.ndarray:
        length, batch = self.lengths[self.plan.decoder], self.plan.batch_size
        count = len(self.tokens)
        size = _room(length, count)
        if self.plan.logits == "last" and count < size:
            hint = "Build with logits all, a ranged sequence_length or a cache."
            raise Error(f"the package scores the last of {size} tokens only, and the sequence has {count}", hint)
        ids = np.zeros((batch, size), np.int32)
        ids[0, :count] = self.tokens
        data = {self._ids: ids}
        if self.plan.attention_mask and not self.plan.apart:
            data[self.names.attention_mask] = np.ones((batch, size), np.int32)
            data[self.names.attention_mask][0, count:] = 0
        scores: np.ndarray = self._call(self.plan.decoder, data)[self.output][0]
        if self.plan.logits == "last":
            return np.concatenate([np.full((new - 1, scores.shape[-1]), np.nan, np.float32), scores])
        return scores[count - new : count]


def _plan(model: Model) -> Plan:
    """What a package was built by. Raises `Error` for one whose consumer alone plays it."""
    check_program(os.path.basename(model.package_path), model.get_spec())
    plan = Plan.of(os.path.basename(model.package_path), model.user_defined_metadata)
    if INTERFACES[plan.interface].packages:
        hint = "Build with the interface milbuild to try a checkpoint; validate compares these packages."
        raise Error(f"the package is for {plan.interface}, which plays it itself", hint)
    return plan


def _room(length: Any, count: int) -> int:
    """The shortest call that has room for so many tokens."""
    if isinstance(length, list):
        return int(min(n for n in length if n >= count))
    return length if isinstance(length, int) else int(max(count, length[0]))


def opened(package: str | os.PathLike[str] | Model) -> Model:
    return package if isinstance(package, Model) else Model(package)
