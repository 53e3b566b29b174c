"""Text from a package: a prompt in as few calls as its functions allow, then token by token."""

import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from milbuild import logits
from milbuild.errors import Error
from milbuild.model import Model
from milbuild.options import COMMIT_KEY, CROSS, INTERFACES, SOURCE_KEY, TOKENIZER_KEY, Plan, longest
from milbuild.package.reader import check_program
from milbuild.tasks import GENERATION
from milbuild.weights.checkpoint import download, locate, tokenizer_digest


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


@dataclass
class Sampling:
    """How the next token is chosen: the most likely one, or with a `temperature` drawn from what top-k and top-p leave."""

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
            raise Error(f"top_p is {self.top_p}; it lies above 0 and is at most 1")
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
    """New tokens one by one, until one of `stop` (which is not given out) or `most` of them; `rules` change the scores of
    the token behind a sequence. The session may have been fed the beginning of the prompt already."""
    scores, sequence = session.feed(prompt[session.length :])[-1], list(prompt)
    for number in range(most):
        token = sampling.choose(scores if rules is None else rules(scores, sequence))
        if token in stop:
            return
        yield token
        sequence.append(token)
        if number + 1 < most:
            scores = session.feed([token])[-1]


class TextStream:
    """New text behind a prompt, or the answer to it, piece by piece as it is written; counts and times what it does.

    What the checkpoint's generation_config.json asks for (suppressed, banned and forced tokens, no repetition, a least length)
    is done, but for beams, guidance, watermarks and strings that end a text: the most likely token is taken, or one drawn.
    `undone` says in one line what else it asks for.

    Args:
        package: a package's path or a `Model` built for text-generation or text2text-generation.
        tokenizer: where the checkpoint's tokenizer is (folder or hub id), or a tokenizer of transformers; None for the
            checkpoint that the package was built from: from the hub, or where a folder of its name, beside the package or
            here, has the tokenizer that it had. `remark` says where it knows fewer tokens than the package.
        prompt: the text to go on with or to answer.
        encoder: the package of `encode`, where `package` has `decode` only.
        max_new_tokens: by default 100, or what the context leaves.
        temperature, top_k, top_p, seed: sampling; without any of them the most likely token is taken.

    Raises `Error` when the prompt, or what is asked for behind it, is longer than the context.
    """

    def __init__(
        self,
        package: str | os.PathLike[str] | Model,
        tokenizer: Any,
        prompt: str,
        *,
        encoder: str | os.PathLike[str] | Model | None = None,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> None:
        self.sampling = Sampling(temperature, top_k, top_p, seed)
        model = opened(package)
        self.session = Session(model, None if encoder is None else opened(encoder))
        task = self.session.plan.task
        if task not in ("text-generation", "text2text-generation"):
            hint = "It takes a sound: --audio, milbuild.transcribe." if task == "speech-seq2seq" else None
            raise Error(f"the package is for {task}, not for text-generation", hint)
        self.generation = logits.of_package(model.user_defined_metadata)
        given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
        self.undone = logits.undone(self.generation, [name for name, value in given.items() if value is not None])
        source = checkpoint_of(model, tokenizer)
        self.tokenizer = read_tokenizer(source)
        self.remark = remark(self.session, self.tokenizer, source, model.user_defined_metadata)
        self.stop = logits.ends(self.generation) or logits.ends({"eos_token_id": self.tokenizer.eos_token_id})
        self.prompt = [int(token) for token in self.tokenizer.encode(prompt)]
        if not self.prompt:
            raise Error("the prompt has no token", "Give at least a word to go on with.")
        # What the decoder begins with: the prompt, or behind an encoder that has read it a token of its own.
        self.start = [answer_start(self.generation)] if self.session.plan.apart else self.prompt
        context = self.session.context
        if len(self.start) > context:
            raise Error(
                f"the prompt has {len(self.start)} tokens, the context {context}",
                "Shorten the prompt or build with a longer context.",
            )
        left = context - len(self.start) + 1  # the last new token is not fed
        if max_new_tokens is not None and not 1 <= max_new_tokens <= left:
            room = f"behind {len(self.start)} tokens the context of {context} leaves 1 to {left}"
            raise Error(f"max_new_tokens is {max_new_tokens}; {room}")
        self.most = min(100, left) if max_new_tokens is None else max_new_tokens
        self.rules = logits.Rules(self.generation, len(self.start), len(self.start) + self.most, self.prompt)
        for each in self.session.models.values():
            each.load()  # what cannot run says so before anything is written
        self.tokens: list[int] = []
        self.prompt_seconds = self.seconds = 0.0

    def __iter__(self) -> Iterator[str]:
        start = time.perf_counter()
        written = ""
        if self.session.plan.apart:
            self.session.read({"input_ids": np.array([self.prompt], np.int32)})
        for token in generate_tokens(self.session, self.start, self.most, self.stop, self.sampling, self.rules):
            if not self.tokens:
                self.prompt_seconds = time.perf_counter() - start
                start = time.perf_counter()
            self.tokens.append(token)
            text = self._decode()
            # Bytes of a character that is not complete decode to a replacement character: wait for the rest.
            if not text.endswith("\ufffd") and len(text) > len(written):
                yield text[len(written) :]
                written = text
        self.seconds = time.perf_counter() - start
        if len(text := self._decode()) > len(written):
            yield text[len(written) :]

    def speed(self) -> dict[str, Any]:
        """Tokens a second of the prompt (its calls and the first new token) and of those behind it."""
        behind = max(0, len(self.tokens) - 1)
        return {
            "prompt_tokens": len(self.prompt),
            "prompt_tokens_per_second": len(self.prompt) / self.prompt_seconds if self.prompt_seconds else 0.0,
            "tokens_per_second": behind / self.seconds if behind and self.seconds else 0.0,
            "calls": dict(self.session.calls),
        }

    def _decode(self) -> str:
        if self.session.plan.apart:
            return str(self.tokenizer.decode(self.tokens, skip_special_tokens=True))
        # Behind the prompt, not alone: some tokenizers drop the space in front of a first word.
        whole = self.tokenizer.decode(self.prompt + self.tokens, skip_special_tokens=True)
        return str(whole[len(self.tokenizer.decode(self.prompt, skip_special_tokens=True)) :])


def generate(package: str | os.PathLike[str] | Model, tokenizer: Any, prompt: str, **options: Any) -> str:
    """The text that the package writes behind `prompt`; the options are those of `TextStream`."""
    stream = TextStream(package, tokenizer, prompt, **options)
    for said in filter(None, (stream.remark, stream.undone)):
        warnings.warn(said, stacklevel=2)
    return "".join(stream)


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


def answer_start(generation: Mapping[str, Any]) -> int:
    """The token that a decoder behind an encoder begins with. Raises `Error`."""
    start = generation.get("decoder_start_token_id", generation.get("bos_token_id"))
    if isinstance(start, list):
        start = start[0]
    if start is None:
        raise Error(
            "neither generation_config.json nor config.json names a decoder_start_token_id",
            "The decoder begins with it.",
        )
    return int(start)


def opened(package: str | os.PathLike[str] | Model) -> Model:
    return package if isinstance(package, Model) else Model(package)


def checkpoint_of(model: Model, given: Any) -> Any:
    """What was given as the tokenizer, or the checkpoint that the package says it was built from. Raises `Error`."""
    if given is not None:
        return given
    metadata = model.user_defined_metadata
    name, commit, digest = (metadata.get(key) for key in (SOURCE_KEY, COMMIT_KEY, TOKENIZER_KEY))
    if not name:
        raise Error("the package does not say what it was built from", GIVE)
    if digest is None:
        raise Error(f"the package was built from {name}, beside which there was no tokenizer", GIVE)
    # A package has no paths of the machine that built it: a folder of the name counts if it holds the very tokenizer.
    others = []
    for place in (Path(model.package_path).parent / name, Path(name)):
        if place.is_dir() and tokenizer_digest(place) == digest:
            return place
        if place.is_dir():
            others.append(place)
    if commit is not None:
        return download(name, commit)
    if others:
        raise Error(
            f"the package was built from {name}, and {others[0]} has not its tokenizer but another one or none", GIVE
        )
    raise Error(f"the package was built from {name}, which is neither here nor beside the package", GIVE)


def remark(session: Session, tokenizer: Any, source: Any, metadata: Mapping[str, str]) -> str | None:
    """What has to be said of a tokenizer that is not the checkpoint's own. Raises `Error` for one with too many tokens."""
    own = isinstance(source, str | os.PathLike) and tokenizer_digest(locate(source)[1]) == metadata.get(TOKENIZER_KEY)
    rows = session.vocabulary
    if own or rows is None or not hasattr(tokenizer, "__len__") or len(tokenizer) == rows:
        return None
    said = f"the tokenizer has {len(tokenizer):,} tokens, and the package knows {rows:,}"
    if getattr(tokenizer, "vocab_size", 0) > rows:  # those that were added behind it, as for padding, may never be met
        raise Error(f"{said}: it is another model's", "Give that of the checkpoint which the package was built from.")
    return f"{said}: unless the checkpoint's own has as many, it is another model's, and the text will make no sense"


GIVE = "Give the folder or hub id of a checkpoint with its tokenizer: --tokenizer FOLDER"


def read_tokenizer(source: Any) -> Any:
    """The tokenizer of a checkpoint, or one that is given."""
    if not isinstance(source, str | os.PathLike):
        return source
    from transformers import AutoTokenizer

    name, folder, _ = locate(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # tokenizers raises nothing narrower
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Error(f"{name} has no tokenizer that transformers can read: {first}") from error
    if not tokenizer.vocab_size:  # what transformers makes of the model_type alone
        raise Error(
            f"{name} has no tokenizer", "It lies beside the weights: tokenizer.json, or vocab.json and merges.txt."
        )
    return tokenizer
