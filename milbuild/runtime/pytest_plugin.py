"""`pytest -p milbuild.runtime.pytest_plugin`: tests of Core ML models predict on any system, by milbuild.runtime.

A test that compares only where it can predict passes elsewhere without a word. So it is counted what the tests predicted and
what they did with it, the summary says it, and a run whose tests looked at no prediction ends with an error: a run that needs
none needs no plugin.
"""

import functools
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from milbuild.runtime import dropin

# Functions that compare numbers. torch.equal and its like are left alone: models that are scripted or exported call them.
COMPARISONS = {
    "numpy": ("allclose", "array_equal", "array_equiv", "isclose"),
    "numpy.testing": (
        "assert_allclose", "assert_almost_equal", "assert_approx_equal", "assert_array_almost_equal",
        "assert_array_almost_equal_nulp", "assert_array_equal", "assert_array_less", "assert_array_max_ulp", "assert_equal",
    ),
    "torch.testing": ("assert_close",),
}  # fmt: skip
NAME = "milbuild.runtime counts"
# How a test's report has its counts; JUnit's XML (--junitxml) shows them, too.
PROPERTY = "milbuild.runtime "
HINT = (
    "Tests that ask for the platform themselves (sys.platform, platform.mac_ver) are not reached by it. "
    "A run that needs no prediction takes -p no:milbuild.runtime.pytest_plugin."
)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests() -> Generator[None]:
    """Before a conftest.py can ask coremltools whether it predicts."""
    dropin.enable()
    return (yield)


def pytest_configure(config: pytest.Config) -> None:
    """Enabled again for a plugin that a conftest.py names, which comes too late for the other hook."""
    dropin.enable()
    counts = Counts(worker=hasattr(config, "workerinput"))
    counts.listen()
    config.pluginmanager.register(counts, NAME)


def pytest_unconfigure(config: pytest.Config) -> None:
    counts = config.pluginmanager.unregister(name=NAME)
    if counts is not None:
        counts.leave()
    dropin.disable()


def pytest_report_header() -> str:
    return "milbuild.runtime: coremltools' models predict without Core ML"


class Counts:
    """What each test predicted, read and compared. It goes with the test's reports, which pytest-xdist's workers send."""

    def __init__(self, worker: bool) -> None:
        self.worker = worker
        self.test = self._nothing()
        self.tests: dict[str, dict[str, int]] = {}
        self.replaced: list[tuple[Any, str, Any]] = []

    @staticmethod
    def _nothing() -> dict[str, int]:
        return {"predicted": 0, "read": 0, "compared": 0}

    def listen(self) -> None:
        import importlib

        import coremltools as ct

        from milbuild.runtime.engine import Engine, State

        self._replace(Engine, "predict", self._predicting(Engine.predict))
        self._replace(State, "read_state", self._reading(State.read_state))
        for model in (ct.models.MLModel, ct.models.CompiledMLModel):
            self._replace(model, "predict", _taking_outputs(model.predict))
        for module, names in COMPARISONS.items():
            holder = importlib.import_module(module)
            for name in names:
                self._replace(holder, name, self._comparing(getattr(holder, name)))

    def leave(self) -> None:
        while self.replaced:
            setattr(*self.replaced.pop())

    def _replace(self, holder: Any, name: str, value: Any) -> None:
        self.replaced.append((holder, name, getattr(holder, name)))
        setattr(holder, name, value)

    def _predicting(self, predict: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(predict)
        def wrapped(*arguments: Any, **options: Any) -> Any:
            outputs = predict(*arguments, **options)
            self.test["predicted"] += 1
            return Outputs(outputs, self.read)

        return wrapped

    def _reading(self, read: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(read)
        def wrapped(*arguments: Any, **options: Any) -> Any:
            self.read()
            return read(*arguments, **options)

        return wrapped

    def _comparing(self, compare: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(compare)
        def wrapped(*arguments: Any, **options: Any) -> Any:
            __tracebackhide__ = True
            # Shapes are tuples. What is compared before the test has an output is something else.
            if self.test["read"] and any(hasattr(each, "dtype") for each in (*arguments[:2], *options.values())):
                self.test["compared"] += 1
            return compare(*arguments, **options)

        return wrapped

    def read(self) -> None:
        self.test["read"] += 1

    # The run

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Generator[None, Any, Any]:
        self.test = self._nothing()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, Any, Any]:
        report = yield
        report.user_properties = [*report.user_properties, *((PROPERTY + name, n) for name, n in self.test.items())]
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.skipped or report.nodeid in self.tests:
            said = {
                name.removeprefix(PROPERTY): int(str(n))
                for name, n in report.user_properties
                if name.startswith(PROPERTY)
            }
            self.tests[report.nodeid] = self._nothing() | said

    def looked(self) -> int:
        return sum(test["read"] > 0 for test in self.tests.values())

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if not self.worker and self.tests and not self.looked() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: "pytest.TerminalReporter") -> None:
        if not self.tests:
            return
        tests = self.tests.values()
        predictions, predicted = sum(test["predicted"] for test in tests), sum(test["predicted"] > 0 for test in tests)
        compared = sum(test["compared"] > 0 for test in tests)
        terminalreporter.write_line(
            f"milbuild.runtime: {predictions} predictions in {predicted} of {len(tests)} tests; "
            f"{compared} compared numbers with numpy or torch, {self.looked() - compared} read outputs otherwise"
        )
        if not self.looked():
            terminalreporter.write_line(
                f"error: no test looked at a prediction, so this run proves nothing of a model. {HINT}", red=True
            )


class Outputs(dict[str, Any]):
    """The outputs of a prediction, which tell when a value is taken."""

    def __init__(self, outputs: dict[str, Any], read: Callable[[], None]) -> None:
        super().__init__(outputs)
        self._read = read

    def __getitem__(self, name: str) -> Any:
        self._read()
        return super().__getitem__(name)

    def __iter__(self) -> Iterator[str]:  # without it dict(outputs) takes the values unnoticed
        return super().__iter__()

    def __eq__(self, other: object) -> bool:
        self._read()
        return super().__eq__(other)

    __hash__ = None

    def get(self, name: str, default: Any = None) -> Any:
        self._read()
        return super().get(name, default)

    def pop(self, *arguments: Any) -> Any:
        self._read()
        return super().pop(*arguments)

    def popitem(self) -> tuple[str, Any]:
        self._read()
        return super().popitem()

    def values(self) -> Any:
        self._read()
        return super().values()

    def items(self) -> Any:
        self._read()
        return super().items()

    def copy(self) -> dict[str, Any]:
        self._read()
        return dict(super().items())

    def __reduce__(self) -> Any:
        self._read()
        return dict, (dict(super().items()),)


def _taking_outputs(predict: Callable[..., Any]) -> Callable[..., Any]:
    """coremltools' predict, which takes plain dictionaries only, for outputs that are another model's inputs."""

    def plain(data: Any) -> Any:
        if isinstance(data, list):
            return [plain(each) for each in data]
        return dict.copy(data) if isinstance(data, Outputs) else data

    @functools.wraps(predict)
    def wrapped(self: Any, data: Any, *arguments: Any, **options: Any) -> Any:
        return predict(self, plain(data), *arguments, **options)

    return wrapped
