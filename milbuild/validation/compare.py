"""The cases of a validation, played by each backend and measured."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from milbuild import architectures, runtime
from milbuild.errors import Error
from milbuild.generation import Session
from milbuild.model import Model
from milbuild.options import AUDIO, IMAGE, INTERFACES, KINDS, Plan
from milbuild.outputs import CLASS_LABELS
from milbuild.validation import answers, reference, whisperkit
from milbuild.validation.report import Drift, Report, Row
from milbuild.weights import Checkpoint
from milbuild.whisperkit import alignment_heads

SQUARE = 16  # pixels, of what a random picture is made of
PICTURES = 4  # calls with other pictures each
# Tasks that give something of a whole text.
WHOLE = ("text-classification", "multiple-choice", "next-sentence-prediction")
CACHED_TOKENS = 48  # of a sequence that is played through a cache: enough for some prefills and decodes


def compare(
    model: Model,
    source: str | os.PathLike[str],
    revision: str | None,
    seed: int,
    core_ml: bool,
    encoder: Model | None = None,
) -> Report:
    """See `milbuild.validate`."""
    path = model.package_path
    plan = Plan.of(os.path.basename(path), model.user_defined_metadata)
    truth = reference.load(source, plan.task, revision)
    random = np.random.default_rng(seed)
    report = Report(os.path.basename(path), os.fspath(source), plan)
    backends = ["float32", "declared"] + (["Core ML"] if core_ml else [])
    report.backends = backends
    extractor = None
    if _takes(truth.config)[0] == "input_features":
        heard = plan.postprocess and (plan.function == "mel" or not INTERFACES[plan.interface].packages)
        extractor = reference.feature_extractor(source, revision) if heard else None
        assert isinstance(plan.sequence_length, int)
        hop = 160 if extractor is None else extractor.hop_length
        reference.shorten(truth, plan.sequence_length // hop // 2)
    if INTERFACES[plan.interface].packages:
        if encoder is not None:
            raise Error(f"a package of {plan.interface} is compared by itself", "Leave the encoder's out.")
        chosen = alignment_heads(Checkpoint.open(source, revision), truth.config)
        for each in whisperkit.cases(plan, truth, extractor, random, chosen):
            for backend in backends:
                for name, value in each.play(_engine(model, backend, model.function_name)).items():
                    report.rows.append(Row.of(each.name, backend, name, each.expected[name], value))
        report.drift = _drift(path, truth, plan, each.first())
    elif plan.apart:
        for name, inputs, sound, chunks in answers.sequences(plan, truth, extractor, random):
            expected = reference.forward(truth, inputs)
            expected["logits"] = expected["logits"][:1]
            for backend in backends:
                found = answers.play(_session(model, backend, encoder), inputs, sound, chunks)
                for output, value in found.items():
                    rows = ... if output != "logits" else np.s_[:, ~np.isnan(value[0, :, 0])]
                    report.rows.append(Row.of(name, backend, output, expected[output][rows], value[rows]))
        report.drift = _drift_apart(model, encoder, truth, plan, (inputs, sound, chunks))
    elif plan.cache == "none":
        processor = reference.processor(source, revision) if _takes_image(model, plan) else None
        if _two_halves(truth.config):
            whole = answers.whole_calls(plan, truth, extractor, random)
            cases = [_Case(name, inputs, sound=sound) for name, inputs, sound in whole]
            typical = cases[-1].first(plan)
        elif plan.image_size is None:
            cases = list(_calls(plan, truth.config, random))
            typical = _typical(plan, truth, random)
        else:
            cases = [_pictures(model, plan, processor, random)]
            typical = cases[0].first(plan)
        for case in cases:
            expected = reference.forward(truth, case.inputs)
            if plan.logits == "last":
                expected["logits"] = expected["logits"][:, -1:]
            if plan.pooling is not None:
                shown = case.inputs.get("attention_mask", np.ones_like(case.inputs["input_ids"]))
                expected = reference.pooled(expected["last_hidden_state"], shown, plan.pooling, plan.normalize)
            if not plan.raw:
                mask = case.inputs.get("attention_mask")
                expected = reference.postprocessed(plan.task, expected, truth.config, plan.image_size, mask)
            for backend in backends:
                calls = [_outputs(model, plan, backend, inputs) for inputs in case.calls(plan)]
                for name in calls[0]:
                    value = np.concatenate([outputs[name] for outputs in calls])
                    report.rows.append(_row(case, backend, name, expected[name], value))
        report.drift = _drift(path, truth, plan, typical)
    else:
        output = Session(model).output
        for name, ids, chunks in _sequences(plan, truth.config.vocab_size, random):
            expected = reference.forward(truth, {"input_ids": ids})[output][0]
            for backend in backends:
                scores = _play(_session(model, backend), ids[0], chunks)
                known = ~np.isnan(scores[:, 0])
                report.rows.append(Row.of(name, backend, output, expected[known], scores[known]))
    return report


@dataclass
class _Case:
    name: str
    inputs: dict[str, np.ndarray]  # transformers'
    rows: Any = ...  # what of the outputs is compared: not the rows of padding
    images: list[Any] | None = None  # the pictures that the package gets for pixel_values
    sound: np.ndarray | None = None  # the samples that it gets for input_features

    def calls(self, plan: Plan) -> list[dict[str, Any]]:
        """The package's inputs; of more pictures than it takes at once, in several calls."""
        calls = []
        for start in range(0, len(next(iter(self.inputs.values()))), plan.batch_size):
            inputs: dict[str, Any] = {
                name: value[start : start + plan.batch_size] for name, value in self.inputs.items()
            }
            if self.images is not None:
                inputs = {name: value for name, value in inputs.items() if name != "pixel_values"}
                inputs[IMAGE] = self.images[start]
            if self.sound is not None:
                inputs = {name: value for name, value in inputs.items() if name != "input_features"}
                inputs[AUDIO] = self.sound[start : start + plan.batch_size]
            calls.append(plan.to_package(_named(inputs, plan)))
        return calls

    def first(self, plan: Plan) -> "_Case":
        """Its first call alone."""
        inputs = {name: value[: plan.batch_size] for name, value in self.inputs.items()}
        return _Case(self.name, inputs, images=self.images, sound=self.sound)


def _row(case: _Case, backend: str, name: str, expected: np.ndarray, value: np.ndarray) -> Row:
    if name != CLASS_LABELS:
        return Row.of(case.name, backend, name, expected[case.rows], value[case.rows])
    # What is compared is transformers' score of each chosen label with its best one: two as good as equal may change
    # places by rounding, and their numbers say nothing of how far they lie apart.
    if value.shape != (expected.shape[0], *expected.shape[2:]):
        Row.of(case.name, backend, name, expected[:, 0], value)  # which says so
    chosen = np.take_along_axis(expected, value[:, None].astype(np.int64), axis=1)[:, 0]
    row = Row.of(case.name, backend, name, expected.max(axis=1), chosen)
    return replace(row, agreement=float((expected.argmax(axis=1) == value).mean()))


def _takes_image(model: Model, plan: Plan) -> bool:
    return any(plan.input_of(feature.name) == IMAGE for feature in model.get_spec().description.input)


def _pictures(model: Model, plan: Plan, processor: Any, random: np.random.Generator) -> _Case:
    """Random pictures, prepared by the checkpoint's own image processor where the package takes images.

    Several make one figure: a classifier says little of a single one.
    """
    assert plan.image_size is not None
    height, width = plan.image_size
    count = PICTURES * plan.batch_size
    inputs, images = {}, None
    for feature in model.get_spec().description.input:
        name, shape = plan.input_of(feature.name), (count, *feature.type.multiArrayType.shape[1:])
        if name == IMAGE:
            images = [picture(plan.image_size, random) for _ in range(count)]
            inputs["pixel_values"] = np.concatenate([processor(image) for image in images])
        elif name == "bool_masked_pos":
            inputs[name] = random.integers(0, 2, shape, np.int32)
        else:
            inputs[name] = random.normal(size=shape).astype(np.float32)
    return _Case(f"{count} pictures of {width} x {height}", inputs, images=images)


def picture(size: tuple[int, int], random: np.random.Generator) -> Any:
    """A PIL image of squares in random colours, which differ over the picture more than noise does to a model."""
    from PIL import Image

    height, width = size
    squares = random.integers(0, 256, (-(-height // SQUARE), -(-width // SQUARE), 3), np.uint8)
    pixels = squares.repeat(SQUARE, axis=0).repeat(SQUARE, axis=1)
    return Image.fromarray(np.ascontiguousarray(pixels[:height, :width]))


def _takes(config: Any) -> tuple[str, ...]:
    return architectures.takes(architectures.find(config.model_type))


def _two_halves(config: Any) -> bool:
    return hasattr(architectures.find(config.model_type), "encode")


def _kind(config: Any) -> str:
    return KINDS[_takes(config)[0]]


def _random(plan: Plan, config: Any, length: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Token ids, or noise of unit variance as processors make it of sounds."""
    if _kind(config) == "sound":
        return {"input_values": random.standard_normal((plan.batch_size, length), np.float32)}
    return {"input_ids": random.integers(0, config.vocab_size, (plan.batch_size, length), np.int32)}


def _calls(plan: Plan, config: Any, random: np.random.Generator) -> Iterator[_Case]:
    length, sound, pad = plan.functions()["main"], _kind(config) == "sound", config.pad_token_id
    if isinstance(length, tuple):
        lengths = sorted({length[0], (length[0] + length[1]) // 2, length[1]})
    else:
        lengths = sorted(length) if isinstance(length, list) else [length]
    for count in lengths:
        inputs = _random(plan, config, count, random)
        name = f"{count} {'samples' if sound else 'tokens'}"
        name = name if plan.batch_size == 1 else f"{plan.batch_size} x {name}"
        if not sound and pad is not None and plan.task == "text-classification":
            ids = inputs["input_ids"]
            ids[ids == pad] = (pad + 1) % config.vocab_size
        if not plan.attention_mask:
            yield _Case(name, inputs)
            continue
        mask = np.ones((plan.batch_size, count), np.int32)
        yield _Case(name, inputs | {"attention_mask": mask})
        mask = mask.copy()
        if sound:
            # What counts is how many samples there are, so there is padding behind a sound only.
            mask[:, count - count // 3 :] = 0
            if count - count // 3 >= architectures.find(config.model_type).shortest(config, plan.task):
                yield _Case(f"{name}, padded on the right", inputs | {"attention_mask": mask})
        elif count > 1:
            # A row that begins with padding attends to nothing in its first slots, where every implementation differs.
            mask[:, : count // 3] = 0
            whole = plan.logits == "last" or plan.pooling is not None or plan.task in WHOLE
            rows = ... if whole else np.s_[:, count // 3 :]
            yield _Case(f"{name}, padded on the left", inputs | {"attention_mask": mask}, rows)


def _named(inputs: dict[str, np.ndarray], plan: Plan) -> dict[str, np.ndarray]:
    names = INTERFACES[plan.interface]
    return {getattr(names, name, name): value for name, value in inputs.items()}


def _sequences(plan: Plan, vocabulary: int, random: np.random.Generator) -> Iterator[tuple[str, np.ndarray, list[int]]]:
    """(name, ids (1, n), how many of them each feed takes): a prompt with its decoding, and a prompt in uneven parts."""
    context = plan.context_length if isinstance(plan.context_length, int) else (plan.context_length or (0, 0))[1]
    tokens = min(context, max(CACHED_TOKENS, (plan.prefill_length or 0) + 16))
    ids = random.integers(0, vocabulary, (1, tokens), np.int32)
    prompt = max(1, tokens * 2 // 3)
    yield f"prompt of {prompt}, then {tokens - prompt} one by one", ids, [prompt] + [1] * (tokens - prompt)
    parts = [size for size in (1, 3, 7, tokens // 2) if size > 0]
    while sum(parts) > tokens:
        parts.pop()
    rest = tokens - sum(parts)
    yield f"{tokens} tokens in parts", ids, parts + ([rest] if rest else [])


def _session(model: Model, backend: str, encoder: Model | None = None) -> Session:
    session = Session(model, encoder)
    for each in session.models.values():
        each.use(_engine(each, backend, each.function_name))
    session.reset()
    return session


def _play(session: Session, ids: np.ndarray, chunks: list[int]) -> np.ndarray:
    rows, at = [], 0
    for count in chunks:
        rows.append(session.feed([int(token) for token in ids[at : at + count]]))
        at += count
    return np.concatenate(rows)


def _outputs(model: Model, plan: Plan, backend: str, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    return _arrays(plan.from_package(_predict(model, backend, inputs)))


def _arrays(outputs: dict[str, Any]) -> dict[str, np.ndarray]:
    """Outputs with a classifier's dictionary as a row of its probabilities, in the order of the labels, without the label."""
    return {
        name: np.array([list(value.values())], np.float32) if isinstance(value, dict) else value
        for name, value in outputs.items()
        if not isinstance(value, str)
    }


def _predict(model: Model, backend: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return _engine(model, backend, model.function_name).predict(dict(inputs))  # type: ignore[no-any-return]


def _engine(model: Model, backend: str, function: str | None) -> Any:
    if backend == "Core ML":
        return model.function(function or "main").core_ml()
    return runtime.load(model.package_path, function, backend)


def _typical(plan: Plan, truth: Any, random: np.random.Generator) -> _Case:
    """A call of middle length without padding."""
    length = plan.functions()["main"]
    count = (
        length if isinstance(length, int) else min(length) if isinstance(length, list) else (length[0] + length[1]) // 2
    )
    inputs = _random(plan, truth.config, count, random)
    if plan.attention_mask:
        inputs["attention_mask"] = np.ones((plan.batch_size, count), np.int32)
    return _Case("", inputs)


def _drift(path: str, truth: Any, plan: Plan, case: _Case | whisperkit.Case) -> Drift | None:
    """Every landmark of one call, in float32 (is the graph right?) and as declared (what does precision cost?)."""
    with reference.modules(truth) as expected:
        reference.forward(truth, case.inputs)
    drift = Drift()
    for backend in ("float32", "declared"):
        engine = runtime.load(path, None, backend)
        names = _keep_landmarks(engine, expected)
        engine.predict(case.calls(plan)[0])
        _add(drift, backend, engine, names, expected)
    return drift if drift.errors else None


def _drift_apart(
    model: Model, encoder: Model | None, truth: Any, plan: Plan, case: tuple[dict[str, np.ndarray], Any, list[int]]
) -> Drift | None:
    """`_drift` of `encode`, and without a cache of `decode`, which then gets the whole answer in one call."""
    inputs, sound, chunks = case
    with reference.modules(truth) as expected:
        reference.forward(truth, inputs)
    drift = Drift()
    for backend in ("float32", "declared"):
        session = _session(model, backend, encoder)
        engines = {}
        for name in ("encode", plan.decoder)[: 2 if plan.cache == "none" else 1]:
            each = session.models[name]
            engine = runtime.load(each.package_path, each.function_name, backend)
            engines[name] = (engine, _keep_landmarks(engine, expected))
            each.use(engine)
        session.reset()
        answers.play(session, inputs, sound, chunks)
        for engine, names in engines.values():
            _add(drift, backend, engine, names, expected)
    return drift if drift.errors else None


def _keep_landmarks(engine: Any, expected: dict[str, np.ndarray]) -> dict[str, str]:
    """Lets an engine keep the values of its landmarks: module path -> operation."""
    names = reference.landmarks(expected, [op.name for op in engine.function.operations if op.type != "const"])
    engine.keep_only(names.values())
    return names


def _add(drift: Drift, backend: str, engine: Any, names: dict[str, str], expected: dict[str, np.ndarray]) -> None:
    for module, operation in names.items():
        value = engine.kept[operation]
        if value.shape == expected[module].shape:
            row = Row.of("", backend, module, expected[module], value)
            drift.errors.setdefault(module, {})[backend] = row.max_rel
            drift.largest[module] = float(np.abs(expected[module]).max())
