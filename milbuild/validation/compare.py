"""A package on every backend beside transformers' model: the cases, played and measured."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from milbuild import architectures, tasks
from milbuild.caches import Geometry
from milbuild.errors import Error
from milbuild.generation.session import Session
from milbuild.model import Model
from milbuild.package.reader import check_program
from milbuild.program.interfaces import INTERFACES
from milbuild.program.metadata import MODEL_TYPE_KEY
from milbuild.program.outputs import CLASS_LABELS
from milbuild.program.plan import METADATA_KEY, Plan
from milbuild.program.whisperkit import alignment_heads
from milbuild.validation import answers, cases, drift, greedy, reference, third_party, whisperkit
from milbuild.validation.backend import CORE_ML, RUNTIME, UNITS, Player
from milbuild.validation.cases import Case
from milbuild.validation.figures import Row, measure, measure_labels
from milbuild.validation.material import Material
from milbuild.validation.report import Bar, Report
from milbuild.weights import Checkpoint

Progress = Callable[[str, float], None]  # what is being done, the share of the work that lies behind
LANDMARKS = 2  # what looking at them takes, in cases


def compare(
    model: Model,
    material: Material,
    bar: Bar,
    task: str | None = None,
    encoder: Model | None = None,
    core_ml: bool = False,
    units: str | None = None,
    tell: Progress = lambda text, share: None,
) -> Report:
    """See `milbuild.validate`. `core_ml`: it is there; `units` of it, by default each."""
    path = Path(model.package_path)
    check_program(path.name, model.get_spec())
    other = None if encoder is None else Path(encoder.package_path)
    backends = [*RUNTIME, *([f"{CORE_ML} {unit}" for unit in ([units] if units else UNITS)] if core_ml else [])]
    players = {backend: Player(path, other, backend) for backend in backends}
    ours = METADATA_KEY in model.user_defined_metadata
    progress = _Steps(tell)
    progress("loading transformers' model")
    if ours:
        plan = Plan.of(path.name, model.user_defined_metadata)
        if task is not None and tasks.resolve(task, tuple(tasks.TASKS), path.name)[0].name != plan.task:
            raise Error(f"{path.name} was built for {plan.task}, not for {task}", "Leave the task out.")
        truth = reference.load(material.source, plan.task, material.revision)
        built, found = model.user_defined_metadata.get(MODEL_TYPE_KEY), truth.config.model_type
        if built not in (None, found):
            raise Error(
                f"the package and the other checkpoint do not belong together: it was built of a {built}, and this is a {found}",
                "Validate a package with the checkpoint it was built from.",
            )
    else:
        truth = reference.load(material.source, third_party.task(path.name, task), material.revision)
        plan = third_party.plan(players["float32"], truth, third_party.task(path.name, task))
    material.check({"pixel_values": "pictures", "input_ids": "text"}.get(truth.main_input_name, "sound"))
    if truth.main_input_name == "input_features":
        assert isinstance(plan.sequence_length, int)
        reference.shorten(truth, plan.sequence_length // material.hop // 2)
    if not ours:
        first = next(cases.whole_calls(plan, truth, material, model.interface))
        plan = third_party.told_apart(plan, first.expected(), first.play(players["float32"]))
    report = Report(path.name, os.fspath(material.source), plan, ours, bar.filled(plan), backends)
    chosen = list(_cases(plan, truth, material, model, encoder))
    progress.expect((len(chosen) + (ours and plan.task in tasks.GENERATION)) * (1 + len(players)) + LANDMARKS)
    for case in chosen:
        progress(f"{case.name}, transformers")
        expected, terms = case.expected(), case.terms()
        rounded = None if case.rounded is None else case.rounded()
        for backend, player in players.items():
            progress(f"{case.name}, {backend}")
            for output, value in case.play(player).items():
                if not ours and output not in plan.outputs:
                    report.strange.add(output)  # transformers' model has nothing of its shape
                    continue
                row = _row(case, backend, output, expected[output], value, terms.get(output, 0.0))
                if rounded is not None and backend != "float32":
                    row = _beside(row, expected[output], rounded[output], value)
                report.rows.append(row)
    if ours and plan.task in tasks.GENERATION:
        progress("text that is chosen, transformers")
    for continued in _continued(plan, truth, material, players["float32"]) if ours else ():
        for backend, player in players.items():
            progress(f"{continued.name}, {backend}")
            tokens, scores = continued.play(player)
            found, expected_scores, rounded_scores = continued.compare(backend, tokens)
            report.greedy.append(found)
            row = measure(continued.name, backend, "logits", expected_scores, scores)
            if rounded_scores is not None and backend != "float32":
                row = _beside(row, expected_scores, rounded_scores, scores)
            report.rows.append(row)
    progress("looking at the landmarks")
    report.drift = drift.measure(players, truth, _typical(plan, truth, material, chosen), plan, ours)
    return report


class _Steps:
    """Tells what is being done with the share of steps that lie behind."""

    def __init__(self, tell: Progress) -> None:
        self.tell, self.done, self.total = tell, -1, 0

    def expect(self, steps: int) -> None:
        """From here on there are so many."""
        self.done, self.total = -1, steps

    def __call__(self, text: str) -> None:
        self.done += 1
        self.tell(text, min(1.0, self.done / self.total) if self.total else 0.0)


def _cases(plan: Plan, truth: Any, material: Material, model: Model, encoder: Model | None) -> Iterator[Case]:
    if INTERFACES[plan.interface].packages:
        if encoder is not None:
            raise Error(f"a package of {plan.interface} is compared by itself", "Leave the encoder's out.")
        geometry = Geometry.of(architectures.find(truth.config.model_type), truth.config)
        heads = alignment_heads(Checkpoint.open(material.source, material.revision), geometry)
        yield from whisperkit.cases(plan, truth, material, geometry, heads)
    elif plan.apart:
        Session(model, encoder)  # which says what is missing
        for name, inputs, sound, chunks in answers.sequences(plan, truth, material):
            yield _answer(plan, truth, name, inputs, sound, chunks)
    elif plan.cache == "none":
        yield from cases.whole_calls(plan, truth, material, model.interface)
    else:
        yield from cases.sequences(plan, truth, material, Session(model).output)


def _answer(
    plan: Plan, truth: Any, name: str, inputs: answers.Arrays, sound: np.ndarray | None, chunks: list[int]
) -> Case:
    def play(player: Player) -> answers.Arrays:
        return answers.play(player.session(), plan, inputs, sound, chunks)

    def expected(rounded: tuple[bool, bool] = (False, False)) -> answers.Arrays:
        found = reference.forward(truth, inputs, rounded)
        return found | {"logits": found["logits"][:1, answers.scored(plan, chunks)]}

    def one() -> Case:
        first = {key: value[:1] for key, value in inputs.items()}
        return _answer(plan, truth, name, first, None if sound is None else sound[:1], chunks)

    states = cases.in_states(plan)
    return Case(name, inputs, play, expected, one=one, rounded=(lambda: expected(states)) if any(states) else None)


def _continued(plan: Plan, truth: Any, material: Material, player: Player) -> Iterator[greedy.Continuation]:
    """What is written token by token, of packages that can."""
    if (
        plan.task not in tasks.GENERATION
        or INTERFACES[plan.interface].packages
        or plan.outputs.get("logits", ()) is None
        or not (plan.apart or cases.backwards(truth.config))
    ):
        return
    session = player.session()
    if not plan.apart:
        found = greedy.continuation(plan, truth, material, session.context)
    else:
        name, inputs, sound = next(answers.reading(plan, truth, material, plan.batch_size))
        found = greedy.answer(plan, truth, inputs, sound, name, session.context)
    if found is not None:
        yield found


def _typical(plan: Plan, truth: Any, material: Material, chosen: list[Case]) -> Case:
    """The case whose landmarks are looked at: without padding, and of middle length."""
    if plan.cache != "none" and not plan.apart and not INTERFACES[plan.interface].packages:
        return cases.exact(plan, truth, material, "logits" if plan.task in tasks.GENERATION else "last_hidden_state")
    plain = [case for case in chosen if "padd" not in case.name]
    return plain[len(plain) // 2]


def _beside(row: Row, plain: np.ndarray, rounded: np.ndarray, value: np.ndarray) -> Row:
    """The row of a package that rounds keys and values, against a model that rounds them, too; and what that does to it."""
    moved = measure(row.case, row.backend, row.output, plain, rounded)
    return replace(measure(row.case, row.backend, row.output, rounded, value, row.left_out), rounding=moved.max_rel)


def _row(case: Case, backend: str, output: str, expected: np.ndarray, value: np.ndarray, terms: float) -> Row:
    if output == CLASS_LABELS:
        return measure_labels(case.name, backend, output, expected, value, terms)
    return measure(case.name, backend, output, expected[case.rows], value[case.rows], case.left_out, terms)
