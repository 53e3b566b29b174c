"""A package on every backend, compared with transformers' model: the cases are run and measured."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from milbuild.errors import Error
from milbuild.generation.session import Session
from milbuild.model import Model
from milbuild.package.reader import check_program
from milbuild.program.metadata import MODEL_TYPE_KEY
from milbuild.program.outputs import CLASS_LABELS
from milbuild.program.plan import METADATA_KEY, Plan
from milbuild.program.whisperkit import alignment_heads
from milbuild.tasks import TASKS, resolve
from milbuild.validation import cases, drift, greedy, reference, third_party, whisperkit
from milbuild.validation.backend import CORE_AI, CORE_ML, RUNTIME, UNITS, Backend
from milbuild.validation.bar import Bar
from milbuild.validation.cases import Case
from milbuild.validation.comparison import Comparison
from milbuild.validation.figures import Row, measure, measure_labels
from milbuild.validation.report import Report
from milbuild.validation.sample_inputs import SampleInputs
from milbuild.weights import Checkpoint

Progress = Callable[[str, float], None]  # what is being done, the share of the work that is done
MODULES = 2  # what comparing module outputs takes, in cases


def compare(
    model: Model,
    samples: SampleInputs,
    bar: Bar,
    task: str | None = None,
    encoder: Model | None = None,
    core_ml: bool = False,
    units: str | None = None,
    core_ai: bool = False,
    tell: Progress = lambda text, share: None,
) -> Report:
    """See `milbuild.validate`. `core_ml`: it is available; `units` of it, by default each. `core_ai`: the package
    is translated, too, and run by Apple's executor."""
    path = Path(model.package_path)
    check_program(path.name, model.get_spec())
    other = None if encoder is None else Path(encoder.package_path)
    names = [*RUNTIME, *([f"{CORE_ML} {unit}" for unit in ([units] if units else UNITS)] if core_ml else [])]
    names += [CORE_AI] if core_ai else []
    backends = {name: Backend(path, other, name) for name in names}
    progress = _Steps(tell)
    progress("loading transformers' model")
    comparison = _comparison(model, samples, task, encoder, backends["float32"])
    plan, ours = comparison.plan, comparison.ours
    report = Report(path.name, os.fspath(samples.source), plan, ours, bar.filled(plan), names)
    chosen = list(_cases(comparison))
    progress.expect((len(chosen) + (ours and TASKS[plan.task].generates)) * (1 + len(backends)) + MODULES)
    for case in chosen:
        progress(f"{case.name}, transformers")
        expected, terms = case.expected(), case.terms()
        rounded = None if case.rounded is None else case.rounded()
        for name, backend in backends.items():
            progress(f"{case.name}, {name}")
            for output, value in case.run(backend).items():
                if not ours and output not in plan.outputs:
                    report.strange.add(output)  # transformers' model has no output of its shape
                    continue
                row = _row(case, name, output, expected[output], value, terms.get(output, 0.0))
                if rounded is not None and name not in ("float32", CORE_AI):
                    row = _with_rounding(row, expected[output], rounded[output], value)
                report.rows.append(row)
    if ours and TASKS[plan.task].generates:
        progress("greedy generation, transformers")
    continued = _continuation(comparison, backends["float32"])
    if continued is not None:
        for name, backend in backends.items():
            progress(f"{continued.name}, {name}")
            tokens, scores = continued.run(backend)
            greedy_, expected_scores, rounded_scores = continued.compare(name, tokens)
            report.greedy.append(greedy_)
            row = measure(continued.name, name, "logits", expected_scores, scores)
            if rounded_scores is not None and name not in ("float32", CORE_AI):
                row = _with_rounding(row, expected_scores, rounded_scores, scores)
            report.rows.append(row)
    progress("comparing module outputs")
    report.drift = drift.measure(backends, comparison, _typical(comparison, chosen))
    return report


class _Steps:
    """Tells what is being done with the share of the steps that are done."""

    def __init__(self, tell: Progress) -> None:
        self.tell, self.done, self.total = tell, -1, 0

    def expect(self, steps: int) -> None:
        """From here on there are so many."""
        self.done, self.total = -1, steps

    def __call__(self, text: str) -> None:
        self.done += 1
        self.tell(text, min(1.0, self.done / self.total) if self.total else 0.0)


def _comparison(
    model: Model, samples: SampleInputs, task: str | None, encoder: Model | None, backend: Backend
) -> Comparison:
    """With the plan in the package's metadata; of a third-party package with what its description and a prediction by
    `backend` say."""
    name = Path(model.package_path).name
    ours = METADATA_KEY in model.user_defined_metadata
    if ours:
        plan = Plan.of(name, model.user_defined_metadata)
        if task is not None and resolve(task, tuple(TASKS), name)[0].name != plan.task:
            raise Error(f"{name} was built for {plan.task}, not for {task}", "Leave out the task.")
        truth = reference.load(samples.source, plan.task, samples.revision)
        built, given = model.user_defined_metadata.get(MODEL_TYPE_KEY), truth.config.model_type
        if built not in (None, given):
            raise Error(
                f"the package was built from a {built} checkpoint, and this checkpoint is a {given}",
                "Validate a package with the checkpoint it was built from.",
            )
    else:
        task = third_party.task(name, task)
        truth = reference.load(samples.source, task, samples.revision)
        plan = third_party.plan(backend, truth, task)
    samples.check({"pixel_values": "images", "input_ids": "text"}.get(truth.main_input_name, "audio"))
    if truth.main_input_name == "input_features":
        assert isinstance(plan.sequence_length, int)
        reference.shorten(truth, plan.sequence_length // samples.hop // 2)
    comparison = Comparison(plan, truth, samples, model, encoder, ours)
    if ours:
        return comparison
    first = next(cases.whole_calls(comparison))
    return comparison.by(third_party.with_outputs(plan, first.expected(), first.run(backend)))


def _cases(comparison: Comparison) -> Iterator[Case]:
    if comparison.interface.packages:
        if comparison.encoder is not None:
            raise Error(
                f"a package of the interface {comparison.plan.interface} is compared by itself",
                "Leave out the encoder's package.",
            )
        samples = comparison.samples
        heads = alignment_heads(Checkpoint.open(samples.source, samples.revision), comparison.geometry)
        yield from whisperkit.cases(comparison, heads)
    elif comparison.plan.apart:
        Session(comparison.model, comparison.encoder)  # raises for what is missing
        yield from cases.answers(comparison)
    elif comparison.plan.cache == "none":
        yield from cases.whole_calls(comparison)
    else:
        yield from cases.sequences(comparison, Session(comparison.model).output)


def _continuation(comparison: Comparison, backend: Backend) -> greedy.Continuation | None:
    """What is generated token by token, of packages that can."""
    plan = comparison.plan
    if (
        not comparison.ours
        or not TASKS[plan.task].generates
        or comparison.interface.packages
        or plan.outputs.get("logits", ()) is None
        or not (plan.apart or comparison.causal)
    ):
        return None
    context = backend.session().context
    return (greedy.answer if plan.apart else greedy.continuation)(comparison, context)


def _typical(comparison: Comparison, chosen: list[Case]) -> Case:
    """The case whose module outputs are compared: without padding, and of middle length."""
    plan = comparison.plan
    if plan.cache != "none" and not plan.apart and not comparison.interface.packages:
        return cases.exact(comparison, "logits" if TASKS[plan.task].generates else "last_hidden_state")
    plain = [case for case in chosen if not case.padded]
    return plain[len(plain) // 2]


def _with_rounding(row: Row, plain: np.ndarray, rounded: np.ndarray, value: np.ndarray) -> Row:
    """The row of a package that rounds keys and values, compared with a model that rounds them, too; and what rounding does to
    that model."""
    moved = measure(row.case, row.backend, row.output, plain, rounded)
    return replace(measure(row.case, row.backend, row.output, rounded, value, row.left_out), rounding=moved.max_rel)


def _row(case: Case, backend: str, output: str, expected: np.ndarray, value: np.ndarray, terms: float) -> Row:
    if output == CLASS_LABELS:
        return measure_labels(case.name, backend, output, expected, value, terms)
    return measure(case.name, backend, output, expected[case.rows], value[case.rows], case.left_out, terms)
