"""The cases of a validation, played by each backend and measured."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from milbuild import architectures, runtime
from milbuild.generation import Session
from milbuild.model import Model
from milbuild.options import INTERFACES, KINDS, Plan
from milbuild.validation import reference
from milbuild.validation.report import Drift, Report, Row

# Tasks that give something of a whole text.
WHOLE = ("text-classification", "multiple-choice", "next-sentence-prediction")
CACHED_TOKENS = 48  # of a sequence that is played through a cache: enough for some prefills and decodes


def compare(model: Model, source: str | os.PathLike[str], revision: str | None, seed: int, core_ml: bool) -> Report:
    """See `milbuild.validate`."""
    path = model.package_path
    plan = Plan.of(os.path.basename(path), model.user_defined_metadata)
    truth = reference.load(source, plan.task, revision)
    random = np.random.default_rng(seed)
    report = Report(os.path.basename(path), os.fspath(source), plan)
    backends = ["float32", "declared"] + (["Core ML"] if core_ml else [])
    if plan.cache == "none":
        for case in _calls(plan, truth.config, random):
            expected = reference.forward(truth, case.inputs)
            if plan.logits == "last":
                expected["logits"] = expected["logits"][:, -1:]
            if plan.pooling is not None:
                mask = case.inputs.get("attention_mask", np.ones_like(case.inputs["input_ids"]))
                expected = reference.pooled(expected["last_hidden_state"], mask, plan.pooling, plan.normalize)
            if not plan.raw:
                expected = reference.postprocessed(plan.task, expected, truth.config)
            for backend in backends:
                given = plan.to_package(_named(case.inputs, plan))
                outputs = _arrays(plan.from_package(_predict(model, backend, given)))
                for name, value in outputs.items():
                    report.rows.append(Row.of(case.name, backend, name, expected[name][case.rows], value[case.rows]))
        report.drift = _drift(path, truth, plan, random)
    else:
        output = Session(model).output
        for name, ids, chunks in _sequences(plan, truth.config.vocab_size, random):
            expected = reference.forward(truth, {"input_ids": ids})[output][0]
            for backend in backends:
                scores = _play(model, backend, ids[0], chunks)
                known = ~np.isnan(scores[:, 0])
                report.rows.append(Row.of(name, backend, output, expected[known], scores[known]))
    report.backends = backends
    return report


@dataclass
class _Case:
    name: str
    inputs: dict[str, np.ndarray]
    rows: Any = ...  # what of the outputs is compared: not the rows of padding


def _kind(config: Any) -> str:
    return KINDS[architectures.takes(architectures.find(config.model_type))[0]]


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


def _play(model: Model, backend: str, ids: np.ndarray, chunks: list[int]) -> np.ndarray:
    session = Session(model)
    for name, each in session.models.items():
        each.use(_engine(model, backend, name))
    if session.state is not None:
        session.state = session.models["main"].make_state()
    rows, at = [], 0
    for count in chunks:
        rows.append(session.feed([int(token) for token in ids[at : at + count]]))
        at += count
    return np.concatenate(rows)


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


def _drift(path: str, truth: Any, plan: Plan, random: np.random.Generator) -> Drift | None:
    """Every landmark of one call, in float32 (is the graph right?) and as declared (what does precision cost?)."""
    length = plan.functions()["main"]
    count = (
        length if isinstance(length, int) else min(length) if isinstance(length, list) else (length[0] + length[1]) // 2
    )
    inputs = _random(plan, truth.config, count, random)
    if plan.attention_mask:
        inputs["attention_mask"] = np.ones((plan.batch_size, count), np.int32)
    with reference.modules(truth) as expected:
        reference.forward(truth, inputs)
    drift = Drift()
    for backend in ("float32", "declared"):
        engine = runtime.load(path, None, backend)
        names = reference.landmarks(expected, [op.name for op in engine.function.operations if op.type != "const"])
        engine.keep_only(names.values())
        engine.predict(plan.to_package(_named(inputs, plan)))
        for module, operation in names.items():
            value = engine.kept[operation]
            if value.shape == expected[module].shape:
                drift.errors.setdefault(module, {})[backend] = Row.of(
                    "", backend, module, expected[module], value
                ).max_rel
                drift.largest[module] = float(np.abs(expected[module]).max())
    return drift if drift.errors else None
