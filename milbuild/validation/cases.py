"""The calls that a package is compared in: which inputs, how they are played, what of the outputs counts."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from milbuild import architectures
from milbuild.package.reader import type_name
from milbuild.program.interfaces import INTERFACES
from milbuild.program.lengths import longest
from milbuild.program.outputs import CLASSIFIERS, LABELLED
from milbuild.program.plan import AUDIO, IMAGE, PROMPT, Plan
from milbuild.validation import answers, reference
from milbuild.validation.backend import Player
from milbuild.validation.material import PICTURES, Material
from milbuild.weights.fields import looks_backwards

CALLS = 4  # with other texts or sounds each, where a call gives few numbers
# Tasks whose outputs can be a few nearly equal numbers: their scale is not their range alone (figures.scale).
FEW = (*LABELLED, "question-answering", "multiple-choice", "next-sentence-prediction")
# Tasks that give something of a whole text.
WHOLE = ("text-classification", "multiple-choice", "next-sentence-prediction")
CACHED_TOKENS = 48  # of a sequence that is played through a cache: enough for some prefills and decodes

Arrays = dict[str, np.ndarray]


@dataclass
class Case:
    """`inputs` are transformers'; `play` gives the package's outputs by the names they have without renaming, and `expected`
    what they are held against. `rows` of both are compared; `left_out` of them are not, since they are padding. `one` is its
    first call alone, where it has several beside each other. `terms`: see `figures.scale`, by output. `rounded` is what is
    expected where a state rounds keys and values to float16."""

    name: str
    inputs: Arrays
    play: Callable[[Player], Arrays]
    expected: Callable[[], Arrays]
    rows: Any = ...
    left_out: int = 0
    one: Callable[[], "Case"] | None = None
    rounded: Callable[[], Arrays] | None = None
    terms: Callable[[], dict[str, float]] = dict

    def single(self) -> "Case":
        """One call, or one sequence."""
        return self if self.one is None else self.one()


def whole_calls(plan: Plan, truth: Any, material: Material, description: Any) -> Iterator[Case]:
    """Of packages that give everything of a text, picture or sound in one call. `description` is the package's."""
    if plan.image_size is not None:
        yield _pictures(plan, truth, material, description)
    elif two_halves(truth.config):
        for name, inputs, sound in answers.whole_calls(plan, truth, material):
            yield _case(plan, truth, name, inputs, description, sound=sound)
    else:
        yield from _calls(plan, truth, material, description)


def sequences(plan: Plan, truth: Any, material: Material, output: str) -> Iterator[Case]:
    """Of packages with a cache, and scores or states as `output`: a prompt with its decoding, and a prompt in uneven parts."""
    step, context = step_of(plan), usable(plan, longest(plan.context_length or 0))
    tokens = min(context, max(CACHED_TOKENS, (plan.prefill_length or 0) + 16)) // step * step
    ids = material.ids(truth.config.vocab_size, 1, tokens)
    prompt = max(1, tokens * 2 // 3 // step) * step
    name = f"prompt of {prompt}{material.whose}, then {tokens - prompt} {'one by one' if step == 1 else f'by {step}'}"
    yield _sequence(plan, truth, name, ids, [prompt] + [step] * ((tokens - prompt) // step), output)
    parts = [size for size in (step, 3 * step, 7 * step, tokens // 2 // step * step) if size > 0]
    while sum(parts) > tokens:
        parts.pop()
    rest = tokens - sum(parts)
    yield _sequence(plan, truth, f"{tokens} tokens{material.whose} in parts", ids, parts + [rest] * (rest > 0), output)


def step_of(plan: Plan) -> int:
    """The fewest tokens that can be fed: where a call of several scores the last only, a call must be full."""
    return plan.call if isinstance(plan.call, int) and plan.logits == "last" else 1


def usable(plan: Plan, context: int) -> int:
    """How many tokens fit into a context where a call is padded to its length."""
    if plan.cache == "none" or step_of(plan) > 1:
        return context
    return context + 1 - (plan.call if isinstance(plan.call, int) else min(plan.call))


def in_states(plan: Plan) -> tuple[bool, bool]:
    """Whether keys and values live in states, which hold float16: those of self-attention, those of an encoder's states."""
    return plan.cache == "state", plan.cross_in_state


def exact(plan: Plan, truth: Any, material: Material, output: str) -> Case:
    """A sequence with a cache in calls that are full, so that each token stands at one place of one call."""
    context, call = longest(plan.context_length or 0), plan.call
    step = call if isinstance(call, int) else min(call)
    first = plan.prefill_length or (step if isinstance(call, int) else min(longest(call), max(step, context // 2)))
    chunks, room = [first], context - first
    while len(chunks) < 4 and room >= step:
        chunks.append(step)
        room -= step
    return _sequence(plan, truth, "", material.ids(truth.config.vocab_size, 1, sum(chunks)), chunks, output)


def _sequence(plan: Plan, truth: Any, name: str, ids: np.ndarray, chunks: list[int], output: str) -> Case:
    rows = answers.scored(plan, chunks)

    def play(player: Player) -> Arrays:
        session, found, at = player.session(), [], 0
        for count in chunks:
            found.append(session.feed(ids[0, at : at + count].tolist()))
            at += count
        return {output: np.concatenate(found)[rows]}

    inputs = {"input_ids": ids}

    def expected(rounded: tuple[bool, bool] = (False, False)) -> Arrays:
        return {output: reference.forward(truth, inputs, rounded)[output][0][rows]}

    states = in_states(plan)
    return Case(name, inputs, play, expected, rounded=(lambda: expected(states)) if any(states) else None)


def _case(
    plan: Plan,
    truth: Any,
    name: str,
    inputs: Arrays,
    description: Any,
    *,
    rows: Any = ...,
    left_out: int = 0,
    images: list[Any] | None = None,
    sound: np.ndarray | None = None,
) -> Case:
    """`images` are what the package gets for pixel_values, `sound` for input_features."""

    def play(player: Player) -> Arrays:
        calls = [
            plan.from_package(player.predict(call)) for call in _package_calls(plan, inputs, description, images, sound)
        ]
        return {output: np.concatenate([call[output] for call in calls]) for output in calls[0]}

    def finished(found: Arrays) -> Arrays:
        if plan.logits == "last":
            found["logits"] = found["logits"][:, -1:]
        if plan.pooling is not None:
            shown = inputs.get("attention_mask", np.ones_like(inputs["input_ids"]))
            prompt = int(inputs.get(PROMPT, np.zeros(1))[0])
            found = reference.vectors(truth, found["last_hidden_state"], shown, plan, prompt)
        if plan.raw:
            return found
        return reference.postprocessed(plan.task, found, truth.config, plan.image_size, inputs.get("attention_mask"))

    def expected() -> Arrays:
        return finished(reference.forward(truth, inputs))

    def terms() -> dict[str, float]:
        return reference.terms(truth, inputs, finished) if plan.task in FEW else {}

    def one() -> Case:
        first = {name: value[: plan.batch_size] for name, value in inputs.items()}
        return _case(plan, truth, name, first, description, images=images, sound=sound)

    return Case(name, inputs, play, expected, rows, left_out, one, terms=terms)


def _package_calls(
    plan: Plan, inputs: Arrays, description: Any, images: list[Any] | None, sound: np.ndarray | None
) -> Iterator[dict[str, Any]]:
    """The package's inputs; of more pictures than it takes at once, in several calls."""
    names = INTERFACES[plan.interface]
    given: dict[str, Any] = {getattr(names, name, name): value for name, value in inputs.items()}
    if images is not None:
        given = {name: value for name, value in given.items() if name != "pixel_values"} | {IMAGE: images}
    if sound is not None:
        given = {name: value for name, value in given.items() if name != "input_features"} | {AUDIO: sound}
    for start in range(0, len(next(iter(inputs.values()))), plan.batch_size):
        part = {name: value[start : start + plan.batch_size] for name, value in given.items()}
        if images is not None:
            part[IMAGE] = images[start]
        yield _declared(plan.to_package(part), description)


def _declared(data: dict[str, Any], description: Any) -> dict[str, Any]:
    """Arrays in the types that a package declares: strangers' packages may take token ids as floats."""
    for feature in description.input:
        array = feature.type.multiArrayType
        if isinstance(data.get(feature.name), np.ndarray):
            whole = type_name(array).startswith("INT")
            data[feature.name] = data[feature.name].astype(np.int32 if whole else np.float32)
    return data


def _pictures(plan: Plan, truth: Any, material: Material, description: Any) -> Case:
    """Pictures, prepared by the checkpoint's own image processor where the package takes images."""
    assert plan.image_size is not None
    height, width = plan.image_size
    names = {plan.input_of(feature.name): feature for feature in description.input}
    images = process = None
    if IMAGE in names or material.images:
        process, fit = reference.processor(material.source, plan.image_size, material.revision)
        images = list(material.pictures(plan.image_size, plan.batch_size, fit))
    count = PICTURES * plan.batch_size if images is None else len(images)
    inputs: Arrays = {}
    for name, feature in names.items():
        shape = (count, *feature.type.multiArrayType.shape[1:])
        if name == "bool_masked_pos":
            inputs[name] = material.random.integers(0, 2, shape, np.int32)
        elif process is not None and images is not None:
            inputs["pixel_values"] = np.concatenate([process(image) for image in images])
        else:
            inputs[name] = material.random.normal(size=shape).astype(np.float32)
    name = f"{count} pictures of {width} x {height}"
    return _case(plan, truth, name, inputs, description, images=images if IMAGE in names else None)


def backwards(config: Any) -> bool:
    """Whether a model looks at what came before only, so that the scores behind a token do not depend on later ones."""
    known = architectures.SUPPORTED.get(config.model_type)
    decoder = known is not None and (known.decoder or bool(getattr(config, "is_decoder", False)))
    return decoder and looks_backwards(config)


def two_halves(config: Any) -> bool:
    """Whether a model has an encoder and a decoder."""
    return config.model_type in architectures.SUPPORTED and architectures.find(config.model_type).encode is not None


def _calls(plan: Plan, truth: Any, material: Material, description: Any) -> Iterator[Case]:
    config, sound = truth.config, truth.main_input_name == "input_values"
    length, pad = plan.functions()["main"], getattr(config, "pad_token_id", None)
    if isinstance(length, tuple):
        lengths = sorted({length[0], (length[0] + length[1]) // 2, length[1]})
    else:
        lengths = sorted(length) if isinstance(length, list) else [length]
    batch = plan.batch_size * (CALLS if plan.task in (*WHOLE, *CLASSIFIERS) else 1)
    for count in lengths:
        inputs = _main_input(plan, config, material, batch, count, sound)
        if not plan.include_prompt:
            inputs[PROMPT] = np.array([count // 4], np.int32)
        name = f"{count} {'samples' if sound else 'tokens'}{material.whose}"
        name = name if batch == 1 else f"{batch} x {name}"
        if not sound and pad is not None and plan.task == "text-classification":
            ids = inputs["input_ids"]
            ids[ids == pad] = (pad + 1) % config.vocab_size
        if not plan.attention_mask:
            yield _case(plan, truth, name, inputs, description)
            continue
        mask = np.ones((*next(iter(inputs.values())).shape[:-1], count), np.int32)
        yield _case(plan, truth, name, inputs | {"attention_mask": mask}, description)
        mask, hidden = mask.copy(), count // 3
        if not hidden or (sound and count - hidden < _shortest(config, plan.task)):
            continue
        if sound or not backwards(config):
            mask[..., count - hidden :] = 0
            inputs = inputs | {"attention_mask": mask}
            yield _case(plan, truth, f"{name}, padded on the right", inputs, description)
            continue
        # A row that begins with padding attends to nothing in its first slots, where every implementation differs.
        mask[..., :hidden] = 0
        whole = plan.logits == "last" or plan.pooling is not None or plan.task in WHOLE
        rows, left_out = (..., 0) if whole else (np.s_[:, hidden:], hidden * batch)
        inputs = inputs | {"attention_mask": mask}
        yield _case(plan, truth, f"{name}, padded on the left", inputs, description, rows=rows, left_out=left_out)


def _main_input(plan: Plan, config: Any, material: Material, batch: int, count: int, sound: bool) -> Arrays:
    if sound:
        return {"input_values": material.values(batch, count)}
    shape = (batch, count) if plan.num_choices is None else (batch, plan.num_choices, count)
    inputs = {"input_ids": material.ids(config.vocab_size, int(np.prod(shape[:-1])), count).reshape(shape)}
    if plan.token_type_ids:
        # The second half of a call is the second text of a pair.
        kinds = min(2, config.type_vocab_size) - 1
        inputs["token_type_ids"] = np.full(shape, (np.arange(count) >= count // 2) * kinds, np.int32)
    return inputs


def _shortest(config: Any, task: str) -> int:
    """Samples that give a frame."""
    known = config.model_type in architectures.SUPPORTED
    return int(architectures.find(config.model_type).shortest(config, task)) if known else 400
