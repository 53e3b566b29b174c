"""The calls that a package is compared in: which inputs, how it is run on them, which part of the outputs counts."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

import numpy as np

from milbuild.package.reader import type_name
from milbuild.program.interfaces import INTERFACES
from milbuild.program.lengths import longest
from milbuild.program.plan import AUDIO, IMAGE, PROMPT
from milbuild.tasks import TASKS
from milbuild.validation import reference, seq2seq
from milbuild.validation.backend import Backend
from milbuild.validation.comparison import Arrays, Comparison
from milbuild.validation.sample_inputs import IMAGES

CALLS = 4  # with another text or recording each, where a call gives few numbers
CACHED_TOKENS = 48  # of a sequence that is run through a cache: enough for some prefills and decodes


Rows = EllipsisType | tuple[slice, ...]  # an index of the rows that are compared


@dataclass
class Case:
    """`inputs` are transformers'; `run` gives the package's outputs by the names they have without renaming, and `expected`
    what they are compared with. `rows` of both are compared; `left_out` of them are not, since they are padding. `one` is its
    first call alone, where a case makes several. `terms`: see `figures.scale`, by output. `rounded` is what is expected where
    a state rounds keys and values to float16. `padded`: some of the inputs are padding."""

    name: str
    inputs: Arrays
    run: Callable[[Backend], Arrays]
    expected: Callable[[], Arrays]
    rows: Rows = ...
    left_out: int = 0
    one: Callable[[], "Case"] | None = None
    rounded: Callable[[], Arrays] | None = None
    terms: Callable[[], dict[str, float]] = dict
    padded: bool = False

    def single(self) -> "Case":
        """One call, or one sequence."""
        return self if self.one is None else self.one()


def whole_calls(comparison: Comparison) -> Iterator[Case]:
    """Of packages that take a whole text, image or recording in one call."""
    if comparison.plan.image_size is not None:
        yield _images(comparison)
    elif comparison.encoder_decoder:
        for name, inputs, audio in seq2seq.whole_calls(comparison):
            yield _case(comparison, name, inputs, audio=audio)
    else:
        yield from _calls(comparison)


def sequences(comparison: Comparison, output: str) -> Iterator[Case]:
    """Of packages with a cache, and scores or states as `output`: a prompt followed by decoding, and a prompt in uneven
    parts."""
    plan, step, samples = comparison.plan, comparison.step, comparison.samples
    context = comparison.usable(longest(plan.context_length or 0))
    tokens = min(context, max(CACHED_TOKENS, (plan.prefill_length or 0) + 16)) // step * step
    ids = samples.ids(comparison.config.vocab_size, 1, tokens)
    prompt = max(1, tokens * 2 // 3 // step) * step
    name = f"prompt of {prompt}{samples.origin}, then {tokens - prompt} {'one by one' if step == 1 else f'by {step}'}"
    yield _sequence(comparison, name, ids, [prompt] + [step] * ((tokens - prompt) // step), output)
    parts = [size for size in (step, 3 * step, 7 * step, tokens // 2 // step * step) if size > 0]
    while sum(parts) > tokens:
        parts.pop()
    rest = tokens - sum(parts)
    yield _sequence(comparison, f"{tokens} tokens{samples.origin} in parts", ids, parts + [rest] * (rest > 0), output)


def answers(comparison: Comparison) -> Iterator[Case]:
    """Of packages with the functions `encode` and `decode`, or `decode` alone."""
    for inputs, chunks in seq2seq.sequences(comparison):
        yield _answer(comparison, inputs, chunks)


def exact(comparison: Comparison, output: str) -> Case:
    """A sequence with a cache in calls that are full, so that each token is at one position of one call."""
    plan = comparison.plan
    context, call = longest(plan.context_length or 0), plan.call
    # Beyond it a module's outputs for a token are others in a call over the whole than in the token's own.
    context = min(context, comparison.settled or context)
    step = call if isinstance(call, int) else min(call)
    first = plan.prefill_length or (step if isinstance(call, int) else min(longest(call), max(step, context // 2)))
    chunks, room = [first], context - first
    while len(chunks) < 4 and room >= step:
        chunks.append(step)
        room -= step
    ids = comparison.samples.ids(comparison.config.vocab_size, 1, sum(chunks))
    return _sequence(comparison, "", ids, chunks, output)


def _sequence(comparison: Comparison, name: str, ids: np.ndarray, chunks: list[int], output: str) -> Case:
    rows, states = comparison.scored(chunks), comparison.in_states

    def run(backend: Backend) -> Arrays:
        session, scores, at = backend.session(), [], 0
        for count in chunks:
            scores.append(session.feed(ids[0, at : at + count].tolist()))
            at += count
        return {output: np.concatenate(scores)[rows]}

    inputs = {"input_ids": ids}

    def expected(rounded: tuple[bool, bool] = (False, False)) -> Arrays:
        whole = reference.forward(comparison.truth, inputs, rounded, comparison.calls(chunks))
        return {output: whole[output][0][rows]}

    return Case(name, inputs, run, expected, rounded=(lambda: expected(states)) if any(states) else None)


def _answer(comparison: Comparison, case: seq2seq.Inputs, chunks: list[int]) -> Case:
    (name, inputs, audio), states = case, comparison.in_states

    def run(backend: Backend) -> Arrays:
        return seq2seq.run(backend.session(), comparison, inputs, audio, chunks)

    def expected(rounded: tuple[bool, bool] = (False, False)) -> Arrays:
        outputs = reference.forward(comparison.truth, inputs, rounded)
        return outputs | {"logits": outputs["logits"][:1, comparison.scored(chunks)]}

    def one() -> Case:
        first = {key: value[:1] for key, value in inputs.items()}
        return _answer(comparison, (name, first, None if audio is None else audio[:1]), chunks)

    rounded = (lambda: expected(states)) if any(states) else None
    return Case(name, inputs, run, expected, one=one, rounded=rounded, padded=_padded(inputs))


def _case(
    comparison: Comparison,
    name: str,
    inputs: Arrays,
    *,
    rows: Rows = ...,
    left_out: int = 0,
    images: list[Any] | None = None,
    audio: np.ndarray | None = None,
) -> Case:
    """`images` are what the package gets for pixel_values, `audio` for input_features."""
    plan, truth = comparison.plan, comparison.truth

    def run(backend: Backend) -> Arrays:
        calls = [plan.from_package(backend.predict(call)) for call in _package_calls(comparison, inputs, images, audio)]
        return {output: np.concatenate([call[output] for call in calls]) for output in calls[0]}

    def finished(outputs: Arrays) -> Arrays:
        if plan.logits == "last":
            outputs["logits"] = outputs["logits"][:, -1:]
        if plan.pooling is not None:
            mask = inputs.get("attention_mask", np.ones_like(inputs["input_ids"]))
            prompt = int(inputs.get(PROMPT, np.zeros(1))[0])
            outputs = reference.vectors(truth, outputs["last_hidden_state"], mask, plan, prompt)
        if plan.raw:
            return outputs
        return reference.postprocessed(plan.task, outputs, truth.config, plan.image_size, inputs.get("attention_mask"))

    def expected() -> Arrays:
        return finished(reference.forward(truth, inputs))

    def terms() -> dict[str, float]:
        return reference.terms(truth, inputs, finished) if TASKS[plan.task].few else {}

    def one() -> Case:
        first = {name: value[: plan.batch_size] for name, value in inputs.items()}
        return _case(comparison, name, first, images=images, audio=audio)

    return Case(name, inputs, run, expected, rows, left_out, one, terms=terms, padded=_padded(inputs))


def _padded(inputs: Arrays) -> bool:
    return "attention_mask" in inputs and not inputs["attention_mask"].all()


def _package_calls(
    comparison: Comparison, inputs: Arrays, images: list[Any] | None, audio: np.ndarray | None
) -> Iterator[dict[str, Any]]:
    """The package's inputs; of more rows than it takes at once, in several calls."""
    plan, names = comparison.plan, INTERFACES[comparison.plan.interface]
    given: dict[str, Any] = {getattr(names, name, name): value for name, value in inputs.items()}
    if images is not None:
        given = {name: value for name, value in given.items() if name != "pixel_values"} | {IMAGE: images}
    if audio is not None:
        given = {name: value for name, value in given.items() if name != "input_features"} | {AUDIO: audio}
    for start in range(0, len(next(iter(inputs.values()))), plan.batch_size):
        part = {name: value[start : start + plan.batch_size] for name, value in given.items()}
        if images is not None:
            part[IMAGE] = images[start]
        yield _declared(plan.to_package(part), comparison.description)


def _declared(data: dict[str, Any], description: Any) -> dict[str, Any]:
    """Arrays in the types that a package declares: third-party packages may take token ids as floats."""
    for feature in description.input:
        array = feature.type.multiArrayType
        if isinstance(data.get(feature.name), np.ndarray):
            whole = type_name(array).startswith("INT")
            data[feature.name] = data[feature.name].astype(np.int32 if whole else np.float32)
    return data


def _images(comparison: Comparison) -> Case:
    """Images, prepared by the checkpoint's own image processor where the package takes images."""
    plan, samples = comparison.plan, comparison.samples
    assert plan.image_size is not None
    height, width = plan.image_size
    names = {plan.input_of(feature.name): feature for feature in comparison.description.input}
    images = process = None
    if IMAGE in names or samples.images:
        process, fit = reference.processor(samples.source, plan.image_size, samples.revision)
        images = list(samples.images_of(plan.image_size, plan.batch_size, fit))
    count = IMAGES * plan.batch_size if images is None else len(images)
    inputs: Arrays = {}
    for name, feature in names.items():
        shape = (count, *feature.type.multiArrayType.shape[1:])
        if name == "bool_masked_pos":
            inputs[name] = samples.random.integers(0, 2, shape, np.int32)
        elif process is not None and images is not None:
            inputs["pixel_values"] = np.concatenate([process(image) for image in images])
        else:
            inputs[name] = samples.random.normal(size=shape).astype(np.float32)
    name = f"{count} images of {width} x {height}"
    return _case(comparison, name, inputs, images=images if IMAGE in names else None)


def _calls(comparison: Comparison) -> Iterator[Case]:
    plan, config, audio = comparison.plan, comparison.config, comparison.main_input == "input_values"
    length, pad = plan.functions()["main"], getattr(config, "pad_token_id", None)
    if isinstance(length, tuple):
        lengths = sorted({length[0], (length[0] + length[1]) // 2, length[1]})
    else:
        lengths = sorted(length) if isinstance(length, list) else [length]
    batch = plan.batch_size * (CALLS if (task := TASKS[plan.task]).whole_text or task.classifies else 1)
    for count in lengths:
        inputs = _main_input(comparison, batch, count)
        if not plan.include_prompt:
            inputs[PROMPT] = np.array([count // 4], np.int32)
        name = f"{count} {'samples' if audio else 'tokens'}{comparison.samples.origin}"
        name = name if batch == 1 else f"{batch} x {name}"
        if not audio and pad is not None and plan.task == "text-classification":
            ids = inputs["input_ids"]
            ids[ids == pad] = (pad + 1) % config.vocab_size
        if not plan.attention_mask:
            yield _case(comparison, name, inputs)
            continue
        mask = np.ones((*next(iter(inputs.values())).shape[:-1], count), np.int32)
        yield _case(comparison, name, inputs | {"attention_mask": mask})
        mask, padding = mask.copy(), count // 3
        if not padding or (audio and count - padding < _shortest(comparison)):
            continue
        if audio or not comparison.causal:
            mask[..., count - padding :] = 0
            inputs = inputs | {"attention_mask": mask}
            yield _case(comparison, f"{name}, padded on the right", inputs)
            continue
        # A row that begins with padding attends to nothing in its first slots, where every implementation differs.
        mask[..., :padding] = 0
        whole = plan.logits == "last" or plan.pooling is not None or TASKS[plan.task].whole_text
        rows, left_out = (..., 0) if whole else (np.s_[:, padding:], padding * batch)
        inputs = inputs | {"attention_mask": mask}
        yield _case(comparison, f"{name}, padded on the left", inputs, rows=rows, left_out=left_out)


def _main_input(comparison: Comparison, batch: int, count: int) -> Arrays:
    plan, config = comparison.plan, comparison.config
    if comparison.main_input == "input_values":
        return {"input_values": comparison.samples.values(batch, count)}
    shape = (batch, count) if plan.num_choices is None else (batch, plan.num_choices, count)
    ids = comparison.samples.ids(config.vocab_size, int(np.prod(shape[:-1])), count)
    inputs = {"input_ids": ids.reshape(shape)}
    if plan.token_type_ids:
        # The second half of a call is the second text of a pair.
        kinds = min(2, config.type_vocab_size) - 1
        inputs["token_type_ids"] = np.full(shape, (np.arange(count) >= count // 2) * kinds, np.int32)
    return inputs


def _shortest(comparison: Comparison) -> int:
    """Samples that give one frame."""
    family = comparison.family
    return 400 if family is None else int(family.shortest(comparison.config, comparison.plan.task))
