"""coremltools' own models predict by the runtime once it is enabled, and not a moment longer. All by coremltools' API."""

import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb
from coremltools.models.datatypes import Array
from coremltools.models.neural_network import NeuralNetworkBuilder

import milbuild
from milbuild import runtime
from milbuild.runtime import dropin
from milbuild.runtime.pytest_plugin import Counts
from tests.conftest import checkpoint, tokens

BINDING = "coremltools.libcoremlpython"
# How coremltools asks where it runs.
ASKED = ("_IS_MACOS", "_is_macos", "_macos_version")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def _enabled() -> Iterator[None]:
    runtime.enable()
    yield
    runtime.disable()


def convert(function: Any, shape: tuple[int, ...] = (2, 3), **options: Any) -> Any:
    """An ML Program of one input x."""
    program = mb.program(input_specs=[mb.TensorSpec(shape=shape)], opset_version=ct.target.iOS18)(function)
    return ct.convert(program, minimum_deployment_target=ct.target.iOS18, **options)


def add_one(x: Any) -> Any:
    return mb.add(x=x, y=1.0, name="y")


@pytest.fixture(scope="module")
def model() -> Any:
    return convert(add_one)


class Counter(torch.nn.Module):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor
        self.register_buffer("count", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count.add_(x)
        return self.count * self.factor


def converted(module: torch.nn.Module, shape: tuple[int, ...], **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module.eval(), torch.zeros(shape))
    return ct.convert(traced, minimum_deployment_target=ct.target.iOS18, **options)


def counter(factor: float = 1.0) -> Any:
    states = [ct.StateType(ct.TensorType(shape=(2,), dtype=np.float16), name="count")]
    x = ct.TensorType(name="x", shape=(2,), dtype=np.float16)
    y = ct.TensorType(name="y", dtype=np.float16)
    return converted(Counter(factor), (2,), inputs=[x], outputs=[y], states=states)


@pytest.mark.parametrize(
    "x",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.arange(6, dtype=np.float64).reshape(2, 3),
        np.arange(6, dtype=np.float16).reshape(2, 3),
        np.arange(6, dtype=np.int32).reshape(2, 3),
        [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]],
        torch.arange(6, dtype=torch.float32).reshape(2, 3),
        torch.arange(6, dtype=torch.float16).reshape(2, 3),
    ],
    ids=["float32", "float64", "float16", "int32", "list", "torch", "torch-half"],
)
def test_a_converted_model_predicts(model: Any, x: Any) -> None:
    outputs = model.predict({"x": x})
    assert list(outputs) == ["y"]
    assert outputs["y"].dtype == np.float32
    np.testing.assert_array_equal(outputs["y"], np.arange(1, 7).reshape(2, 3))


def test_a_saved_model_predicts(model: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "m.mlpackage")
    model.save(path)
    loaded = ct.models.MLModel(path, compute_units=ct.ComputeUnit.CPU_ONLY)
    np.testing.assert_array_equal(loaded.predict({"x": np.zeros((2, 3))})["y"], np.ones((2, 3)))
    assert loaded.load_duration_in_nano_seconds > 0
    assert loaded.last_predict_duration_in_nano_seconds > 0
    again = ct.models.MLModel(loaded.get_spec(), weights_dir=loaded.weights_dir)
    np.testing.assert_array_equal(again.predict({"x": np.ones((2, 3))})["y"], np.full((2, 3), 2))


def test_a_batch_predicts(model: Any) -> None:
    batch = [{"x": np.full((2, 3), number, np.float32)} for number in range(3)]
    assert [outputs["y"][0, 0] for outputs in model.predict(batch)] == [1, 2, 3]


@pytest.mark.parametrize("dtype", [np.int64, np.int16, np.uint8, np.bool_])
def test_arrays_that_core_ml_refuses_are_refused(model: Any, dtype: Any) -> None:
    with pytest.raises(
        RuntimeError, match=rf"x is an array of {np.dtype(dtype)}; Core ML takes int32, float32, float64"
    ):
        model.predict({"x": np.zeros((2, 3), dtype)})


def test_a_list_of_whole_numbers_is_int64(model: Any) -> None:
    with pytest.raises(RuntimeError, match="int64"):
        model.predict({"x": [[1, 2, 3], [4, 5, 6]]})


@pytest.mark.parametrize("shape", [(3, 2), (2, 3, 1), (2,)])
def test_wrong_shapes_are_runtime_errors_in_our_words(model: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(RuntimeError, match=r"the input x has the shape .*; it takes \(2, 3\)") as caught:
        model.predict({"x": np.zeros(shape)})
    assert isinstance(caught.value.__cause__, milbuild.Error)


def test_names_are_checked(model: Any) -> None:
    with pytest.raises(KeyError, match="does not match any of the model input"):
        model.predict({"z": np.zeros((2, 3))})
    with pytest.raises(RuntimeError, match="needs the input x"):
        model.predict({})


def test_ranges_are_enforced() -> None:
    x = ct.TensorType(name="x", shape=(ct.RangeDim(1, 4), 3))
    flexible = converted(torch.nn.ReLU(), (2, 3), inputs=[x], outputs=[ct.TensorType(name="y")])
    assert flexible.predict({"x": np.zeros((4, 3))})["y"].shape == (4, 3)
    with pytest.raises(RuntimeError, match=r"it takes \(1 to 4, 3\)"):
        flexible.predict({"x": np.zeros((5, 3))})


def test_states_count_are_read_and_are_written() -> None:
    model = counter()
    state, other = model.make_state(), model.make_state()
    assert isinstance(state, ct.models.model.MLState)
    for expected in (1, 2, 3):
        assert model.predict({"x": np.ones(2)}, state)["y"].tolist() == [expected, expected]
    assert model.predict({"x": np.ones(2)}, state=other)["y"].tolist() == [1, 1]
    assert state.read_state("count").dtype == np.float32
    assert state.read_state("count").tolist() == [3, 3]
    state.write_state("count", np.array([10, 20], np.float32))
    assert model.predict({"x": np.ones(2)}, state)["y"].tolist() == [11, 21]
    for call in (
        lambda: state.read_state("nothing"),
        lambda: state.write_state("count", np.zeros(3, np.float32)),
        lambda: state.write_state("count", np.zeros(2, np.float16)),
        lambda: model.predict({"x": np.ones(2)}),
    ):
        with pytest.raises(RuntimeError, match=r"count|nothing"):
            call()
    with pytest.raises(AssertionError, match="unbatched"):
        model.predict([{"x": np.ones(2)}], state)


def test_functions_of_a_package_share_a_state(tmp_path: Path) -> None:
    descriptor = ct.utils.MultiFunctionDescriptor()
    for name, factor in (("once", 1.0), ("thrice", 3.0)):
        counter(factor).save(str(tmp_path / f"{name}.mlpackage"))
        descriptor.add_function(str(tmp_path / f"{name}.mlpackage"), "main", name)
    descriptor.default_function_name = "once"
    path = str(tmp_path / "both.mlpackage")
    ct.utils.save_multifunction(descriptor, path)
    default, thrice = ct.models.MLModel(path), ct.models.MLModel(path, function_name="thrice")
    state = default.make_state()
    assert default.function_name == "once"
    assert default.predict({"x": np.ones(2, np.float32)}, state)["y"].tolist() == [1, 1]
    # coremltools hands the inputs of such a model on as they are.
    assert thrice.predict({"x": [1.0, 1.0]}, state)["y"].tolist() == [6, 6]
    with pytest.raises(RuntimeError, match="the input x is a Tensor"):
        thrice.predict({"x": torch.ones(2)}, state)
    with pytest.raises(ValueError, match="not found"), pytest.warns(RuntimeWarning, match="has no function twice"):
        ct.models.MLModel(path, function_name="twice")


class Shifted(torch.nn.Module):
    """Adds its index to each channel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.arange(x.shape[1]).float().reshape(1, -1, 1, 1)


@pytest.mark.parametrize(("layout", "mode"), [("RGB", "RGB"), ("BGR", "RGB"), ("GRAYSCALE", "L")])
def test_images_go_in_and_come_out(layout: str, mode: str) -> None:
    image = pytest.importorskip("PIL.Image")
    shape = (1, 1 if mode == "L" else 3, 4, 5)
    color = getattr(ct.colorlayout, layout)
    model = converted(
        Shifted(),
        shape,
        inputs=[ct.ImageType(name="x", shape=shape, color_layout=color)],
        outputs=[ct.ImageType(name="y", color_layout=color)],
    )
    pixels = np.random.default_rng(0).integers(0, 200, (4, 5, shape[1]), np.uint8)
    given = image.fromarray(pixels[..., 0] if mode == "L" else pixels)
    result = model.predict({"x": given})["y"]
    # The program of a BGR image has the blue channel first; PIL has it last.
    added = np.arange(shape[1])[:: -1 if layout == "BGR" else 1]
    assert result.mode == ("L" if mode == "L" else "RGBA")
    np.testing.assert_array_equal(np.asarray(result).reshape(4, 5, -1)[..., : shape[1]], pixels + added)
    with pytest.raises(TypeError, match="mode=="):
        model.predict({"x": image.new("CMYK", (5, 4))})


def test_a_classifier_gives_its_label_and_probabilities() -> None:
    config = ct.ClassifierConfig(["cat", "dog"])
    model = convert(lambda x: mb.softmax(x=x, axis=-1, name="y"), (1, 2), classifier_config=config)
    outputs = model.predict({"x": np.array([[0.0, 5.0]])})
    assert outputs["classLabel"] == "dog"
    assert outputs["classLabel_probs"].keys() == {"cat", "dog"}
    assert outputs["classLabel_probs"]["dog"] == pytest.approx(0.993, abs=1e-3)


def test_compiled_models_predict(model: Any, tmp_path: Path) -> None:
    compiled = ct.models.CompiledMLModel(model.get_compiled_model_path())
    np.testing.assert_array_equal(compiled.predict({"x": np.zeros((2, 3), np.float32)})["y"], np.ones((2, 3)))
    model.save(str(tmp_path / "m.mlpackage"))
    target = str(tmp_path / "moved.mlmodelc")
    assert ct.utils.compile_model(str(tmp_path / "m.mlpackage"), target) == target
    moved = ct.models.CompiledMLModel(target, ct.ComputeUnit.CPU_ONLY)
    assert [o["y"][0, 0] for o in moved.predict([{"x": np.full((2, 3), n, np.float32)} for n in (1, 2)])] == [2, 3]
    with pytest.raises(Exception, match=r"mlmodelc"):
        ct.utils.compile_model(str(tmp_path / "m.mlpackage"), str(tmp_path / "wrong"))


def test_what_core_ml_compiled_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs.mlmodelc").mkdir()
    with pytest.raises(RuntimeError, match=r"theirs.mlmodelc was not compiled by milbuild.runtime"):
        ct.models.CompiledMLModel(str(tmp_path / "theirs.mlmodelc"))


def test_a_neural_network_is_refused_by_name() -> None:
    builder = NeuralNetworkBuilder([("x", Array(3))], [("y", Array(3))])
    builder.add_activation("relu", "RELU", "x", "y")
    with pytest.warns(RuntimeWarning, match=r"You will not be able to run predict.*mlProgram, not neuralNetwork"):
        network = ct.models.MLModel(builder.spec)
    with pytest.raises(RuntimeError, match="mlProgram, not neuralNetwork"):
        network.predict({"x": np.zeros(3)})
    with pytest.raises(RuntimeError, match="mlProgram, not neuralNetwork"):
        ct.utils.compile_model(builder.spec)
    with pytest.raises(Exception, match="not loaded with the Core ML Framework"):
        network.make_state()


def test_an_unknown_operation_is_a_warning_at_load_and_an_error_at_predict(monkeypatch: pytest.MonkeyPatch) -> None:
    from milbuild.runtime.registry import OPERATIONS

    monkeypatch.delitem(OPERATIONS, "add")
    with pytest.warns(RuntimeWarning, match="is a add, which the runtime does not know"):
        model = convert(add_one)
    with pytest.raises(RuntimeError, match="is a add, which the runtime does not know"):
        model.predict({"x": np.zeros((2, 3))})


def test_models_that_are_not_loaded_do_not_predict() -> None:
    model = convert(add_one, skip_model_load=True)
    with pytest.raises(Exception, match="Cannot make predictions"):
        model.predict({"x": np.zeros((2, 3))})


def test_what_coremltools_quantized_predicts() -> None:
    quantized = ct.optimize.coreml.linear_quantize_weights(
        convert(lambda x: mb.linear(x=x, weight=np.eye(64, dtype=np.float32), name="y"), (2, 64)),
        ct.optimize.coreml.OptimizationConfig(
            ct.optimize.coreml.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=16)
        ),
    )
    x = np.random.default_rng(0).random((2, 64), np.float32)
    np.testing.assert_allclose(quantized.predict({"x": x})["y"], x, atol=2e-3)


def test_hints_are_taken(model: Any, tmp_path: Path) -> None:
    model.save(str(tmp_path / "m.mlpackage"))
    hints = {"allowLowPrecisionAccumulationOnGPU": True}
    hinted = ct.models.MLModel(str(tmp_path / "m.mlpackage"), optimization_hints=hints)
    assert hinted.predict({"x": np.zeros((2, 3))})["y"][0, 0] == 1


def test_milbuilds_own_model_works_either_way(tmp_path: Path) -> None:
    ours = milbuild.build(checkpoint(), sequence_length=7)
    ids = tokens(1, 7)
    ours.save(tmp_path / "gpt2")
    theirs = ct.models.MLModel(str(tmp_path / "gpt2.mlpackage"))
    (name,) = theirs.output_description
    expected = ours.predict({"input_ids": ids})[name]
    np.testing.assert_array_equal(theirs.predict({"input_ids": ids})[name], expected)
    runtime.disable()
    try:
        np.testing.assert_array_equal(ours.predict({"input_ids": ids})[name], expected)
        # What was loaded before stays loaded.
        np.testing.assert_array_equal(theirs.predict({"input_ids": ids})[name], expected)
    finally:
        runtime.enable()


def _everything() -> dict[tuple[str, str], Any]:
    """Every attribute of coremltools' modules, and the modules."""
    modules = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "coremltools"}
    found = {(name, ""): module for name, module in modules.items()}
    for name, module in modules.items():
        found |= {(name, attribute): value for attribute, value in vars(module).items()}
    return found


def test_disable_restores_everything_and_enable_twice_is_one(model: Any) -> None:
    runtime.disable()
    try:
        before = _everything()
        runtime.enable()
        changed = {key for key, value in _everything().items() if before.get(key) is not value and key[0] != BINDING}
        assert changed == {
            ("coremltools.models.model", "_MLModelProxy"),
            ("coremltools.models._compiled_model", "_MLModelProxy"),
            *(key for key in before if key[1] in ASKED and sys.platform != "darwin" and key[0] not in dropin.UNPATCHED),
            *(key for key in before if key[1] in ASKED[1:] and key[0] not in dropin.UNPATCHED),
        }
        once = _everything()
        runtime.enable()
        assert _everything().items() == once.items()
        runtime.disable()
        assert _everything().items() == before.items()
        runtime.disable()
        assert _everything().items() == before.items()
        if sys.platform != "darwin":
            with pytest.raises(Exception, match="only supported on macOS"):
                convert(add_one).predict({"x": np.zeros((2, 3))})
            with pytest.raises(Exception, match=r"only supported on macOS 15\+"):
                model.make_state()
    finally:
        runtime.enable()
    assert convert(add_one).predict({"x": np.zeros((2, 3))})["y"][0, 0] == 1


def test_on_a_mac_the_rest_of_the_binding_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime.disable()
    real = type(sys)(BINDING)
    real._MLModelProxy, real._MLComputePlanProxy = "theirs", "their plan"
    monkeypatch.setitem(sys.modules, BINDING, real)
    try:
        runtime.enable()
        binding = sys.modules[BINDING]
        assert binding._MLModelProxy is dropin.Proxy
        assert binding._MLComputePlanProxy == "their plan"
        runtime.disable()
        assert sys.modules[BINDING] is real
    finally:
        monkeypatch.undo()
        runtime.enable()


# Other processes

PREDICTS = """
import sys
import coremltools as ct
import numpy as np

x = np.zeros((2, 3), np.float32)
print(*sys.argv[1:], __name__, ct.models.MLModel(sys.argv[1]).predict({"x": x})["y"].sum())
"""


@pytest.fixture(scope="module")
def package(model: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("packages") / "m.mlpackage")
    model.save(path)
    return path


def _python(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd)


def test_scripts_modules_and_code_run_as_they_are(package: str, tmp_path: Path) -> None:
    """One process for all three, since importing coremltools is what takes the time."""
    (tmp_path / "mine.py").write_text("HELP = 'beside the script'\n")
    (tmp_path / "module.py").write_text(PREDICTS)
    script = tmp_path / "script.py"
    script.write_text(
        f"{PREDICTS}\nimport mine\nprint(mine.HELP, sys.argv[0])\n"
        "from milbuild.runtime.__main__ import main\n"
        f"main(['-m', 'module', {package!r}, 'a'])\n"
        f"main(['-c', {PREDICTS!r}, {package!r}])\n"
        "sys.exit(3)\n"
    )
    ran = _python("-m", "milbuild.runtime", str(script), package, "--option", "-m")
    assert ran.stdout.splitlines() == [
        f"{package} --option -m __main__ 6.0",
        f"beside the script {script}",
        f"{package} a __main__ 6.0",
        f"{package} __main__ 6.0",
    ], ran.stderr
    assert ran.returncode == 3
    assert "Failed to load" not in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "usage: python -m milbuild.runtime"),
        (["nothing.py"], "error: there is no script nothing.py"),
        (["-m"], "error: -m needs the name of a module"),
        (["-c"], "error: -c needs Python code"),
        (["--fast", "x.py"], "error: there is no option --fast; there are -m, -c, --help"),
    ],
    ids=" ".join,
)
def test_mistakes_are_named(capsys: pytest.CaptureFixture[str], arguments: list[str], text: str) -> None:
    from milbuild.runtime.__main__ import main

    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert text in capsys.readouterr().err


def test_a_module_that_is_not_there_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    from milbuild.runtime.__main__ import main

    for name in ("no.such.module", "no_such_module", "milbuild.package"):
        with pytest.raises(SystemExit):
            main(["-m", name])
        assert f"there is no module {name} that can be run" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "as `python` itself would" in capsys.readouterr().out


# A suite of somebody else: coremltools' own helper, which returns without a word where it thinks that there is no Core ML.
THEIRS = """
import coremltools as ct, numpy as np, pytest
from coremltools.converters.mil.testing_utils import compare_backend
{imports}
MODEL = ct.models.MLModel({package!r}, compute_units=ct.ComputeUnit.CPU_ONLY)
X = np.zeros((2, 3), np.float32)

def test_right():
    compare_backend(MODEL, {{"x": X}}, {{"y": X + 1}})

def test_wrong():
    compare_backend(MODEL, {{"x": X}}, {{"y": X + 999}})

@pytest.mark.skipif(not ct.utils._is_macos() or ct.utils._macos_version() < (15, 0), reason="no Mac")
def test_guarded():
    assert MODEL.predict({{"x": X}})["y"].sum() == 6

def test_guarded_by_a_copy():
    if _IS_MACOS:
        np.testing.assert_allclose(MODEL.predict({{"x": X}})["y"], X + 1)

def test_chained():
    MODEL.predict({{"x": X}})
    first = MODEL.predict({{"x": X}})
    first["x"] = first.pop("y")
    assert dict(MODEL.predict(first))["y"].sum() == 12

def test_thrown_away():
    assert list(MODEL.predict({{"x": X}})) == ["y"]

def test_of_something_else():
    np.testing.assert_allclose(X, X)

@pytest.mark.skip(reason="why not")
def test_skipped():
    pass
"""
PLUGIN = ("-p", "milbuild.runtime.pytest_plugin")


@pytest.fixture(scope="module")
def theirs(package: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("theirs")
    text = THEIRS.format(package=package, imports="from coremltools._deps import _IS_MACOS")
    (folder / "test_theirs.py").write_text(text)
    (folder / "conftest.py").write_text(
        "import coremltools.models.model as model\nassert model._MLModelProxy is not None\n"
    )
    return folder


def _pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    options = ("-q", "-W", "ignore", "-p", "no:cacheprovider", "--tb=short", "--show-capture=no")
    return _python("-m", *(arguments or ("pytest", *PLUGIN)), *options, cwd=folder)


def test_somebodys_tests_compare_with_the_plugin(theirs: Path) -> None:
    ran = _pytest(theirs, "pytest", *PLUGIN)
    assert "1 failed, 6 passed, 1 skipped" in ran.stdout, ran.stdout + ran.stderr
    assert "FAILED test_theirs.py::test_wrong" in ran.stdout
    assert "Max absolute difference among violations: 998" in ran.stdout
    counts = "8 predictions in 6 of 8 tests; 3 compared numbers with numpy or torch, 2 read outputs otherwise"
    assert f"milbuild.runtime: {counts}" in ran.stdout
    assert ran.returncode == 1


def test_a_run_that_looks_at_no_prediction_is_an_error(theirs: Path) -> None:
    """By the runtime's own command, too."""
    ran = _pytest(theirs, "milbuild.runtime", "-m", "pytest", "-k", "thrown or else or skipped")
    assert "2 passed, 1 skipped" in ran.stdout, ran.stdout + ran.stderr
    assert "1 predictions in 1 of 3 tests; 0 compared numbers with numpy or torch, 0 read" in ran.stdout
    assert "error: no test looked at a prediction, so this run proves nothing of a model" in ran.stdout
    assert ran.returncode == 1


@pytest.mark.all
def test_workers_send_their_counts(theirs: Path) -> None:
    ran = _pytest(theirs, "pytest", *PLUGIN, "-n", "2", "-k", "right or thrown")
    assert "2 predictions in 2 of 2 tests; 1 compared numbers with numpy or torch, 0 read" in ran.stdout, ran.stdout
    assert ran.returncode == 0


def test_a_run_that_needs_no_prediction(tmp_path: Path) -> None:
    """As the error says, behind what stands in a project's own addopts."""
    (tmp_path / "test_theirs.py").write_text("def test_it():\n    pass\n")
    (tmp_path / "pytest.ini").write_text(f"[pytest]\naddopts = {' '.join(PLUGIN)}\n")
    ran = _pytest(tmp_path, "pytest", "-p", "no:milbuild.runtime.pytest_plugin")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "milbuild.runtime" not in ran.stdout


@pytest.mark.parametrize(
    ("reports", "before", "after"),
    [
        ([], 0, 0),  # --collect-only
        ([("setup", "passed", 0)], 0, 0),  # --setup-only
        ([("call", "passed", 0)], 0, 1),
        ([("setup", "skipped", 0)], 0, 1),
        ([("call", "passed", 1)], 0, 0),
        ([("call", "passed", 0), ("call", "passed", 1)], 0, 0),
        ([("call", "passed", 0)], 2, 2),  # interrupted
    ],
    ids=str,
)
def test_which_runs_are_judged(reports: list[tuple[str, str, int]], before: int, after: int) -> None:
    counts = Counts(worker=False)
    for number, (when, outcome, read) in enumerate(reports):
        said = [("milbuild.runtime read", read)]
        report = pytest.TestReport(f"test_{number}", ("", 0, ""), {}, outcome, None, when, user_properties=said)  # type: ignore[arg-type]
        counts.pytest_runtest_logreport(report)
    session = SimpleNamespace(exitstatus=before)
    counts.pytest_sessionfinish(session)  # type: ignore[arg-type]
    assert session.exitstatus == after


@pytest.mark.all
def test_the_plugin_may_be_named_late(package: str, tmp_path: Path) -> None:
    """By a conftest.py whose helpers have asked already where they run."""
    (tmp_path / "helpers.py").write_text(
        "import coremltools as ct, numpy as np\nfrom coremltools._deps import _IS_MACOS\n"
        "from coremltools.converters.mil.testing_utils import compare_backend\n"
        "from coremltools.models.utils import _is_macos\n"
    )
    (tmp_path / "conftest.py").write_text(
        "import helpers\nassert helpers\npytest_plugins = ['milbuild.runtime.pytest_plugin']\n"
    )
    (tmp_path / "test_theirs.py").write_text(THEIRS.format(package=package, imports="from helpers import _IS_MACOS"))
    ran = _pytest(tmp_path, "pytest")
    assert "1 failed, 6 passed, 1 skipped" in ran.stdout, ran.stdout + ran.stderr
    assert "8 predictions in 6 of 8 tests; 3 compared" in ran.stdout


def test_importing_the_runtime_loads_nothing_heavy() -> None:
    ran = _python("-c", "import sys, milbuild.runtime; print({'torch', 'coremltools', 'numpy'} & sys.modules.keys())")
    assert ran.stdout == "set()\n"
