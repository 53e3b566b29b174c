"""Tiny checkpoints, made once a process, and what tests share."""

# ruff: noqa: E402 -- the environment is set before libraries that read it on import
import functools
import gc
import json
import logging
import os
import re
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TQDM_DISABLE", "1")
logging.getLogger("coremltools").setLevel(logging.ERROR)

import hypothesis
import numpy as np
import pytest

pytest.register_assert_rewrite("tests.helpers", "tests.runtime.harness")

import torch
import transformers

from milbuild import architectures
from milbuild.program import builder
from milbuild.tasks import TASKS
from tests.helpers.command_line import CommandLine
from tests.tiny import TABLE

# The same examples in every run of `make test`; new ones in `make test-all`, and 100,000 damaged files in `make fuzz`.
PROFILE = os.environ.get("MILBUILD_HYPOTHESIS", "steady")
# None depends on the clock, which a busy machine stretches.
hypothesis.settings.register_profile("steady", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", print_blob=True, deadline=None)
hypothesis.settings.register_profile("fuzz", print_blob=True, database=None, deadline=None)
hypothesis.settings.load_profile(PROFILE)


def examples(count: int) -> int:
    """Drawn variations of whole models: `count` where others are drawn each time (`make test-all`); a third of them where they
    are always the same, and each variation has a test of its own."""
    return count // 3 if PROFILE == "steady" else count


SHARED = Path(__file__).parents[2] / "shared" / "checkpoints"

torch.set_num_threads(1)  # tests run side by side


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@pytest.fixture(scope="session", autouse=True)
def _validated() -> Iterator[None]:
    """coremltools validates every program that a test lowers: a build leaves that out."""
    before = builder.lower

    def lower(program: Any, *rest: Any) -> Any:
        program.validate(check_essential_scope=True)
        return before(program, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "lower", lower)
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--model-type", choices=sorted(TABLE), help="only tests of this model type, by its exact name")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if wanted := config.getoption("--model-type"):
        others = [item for item in items if _model_type(item) != wanted]
        items[:] = [item for item in items if _model_type(item) == wanted]
        config.hook.pytest_deselected(items=others)


def pytest_collection_finish() -> None:
    """The modules and tests that are there stay: looking through them again and again takes an eighth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _model_type(item: pytest.Item) -> str | None:
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return parameters.get("model_type")


@pytest.fixture(scope="session")
def command() -> Iterator[CommandLine]:
    """The command line, for what builds, inspects and lints: one process for all tests of a worker."""
    with CommandLine() as line:
        yield line


@pytest.fixture(scope="session")
def torch_command() -> Iterator[CommandLine]:
    """The command line, for what compares and predicts too."""
    with CommandLine(torch=True, OMP_NUM_THREADS="1") as line:
        yield line


@pytest.fixture
def little_memory() -> Iterator[None]:
    """The process holds no gigabyte more at any time of a test than at its most before."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    kilobytes = 1 if sys.platform == "linux" else 1 / 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * kilobytes < 1_000_000


# Checkpoints that tests share, and the files of each.
_MADE: dict[Path, set[str]] = {}


@pytest.fixture(scope="session", autouse=True)
def _shared_checkpoints_stay_as_they_were() -> Iterator[None]:
    """A file that a test adds to one would change what later tests build of it: it takes a copy for that."""
    yield
    for folder, names in _MADE.items():
        assert {path.name for path in folder.iterdir()} == names, folder.name


def checkpoint(model_type: str = "gpt2", task: str = "text-generation", **flags: Any) -> Path:
    """A saved Hugging Face checkpoint of the table's configuration, its weights perturbed: with the initial ones a
    dropped bias or norm goes unseen."""
    return _checkpoint(model_type, task, json.dumps(flags, sort_keys=True))


@functools.cache
def _checkpoint(model_type: str, task: str, flags: str) -> Path:
    fields = TABLE[model_type].config | json.loads(flags)
    if task == "question-answering":
        fields["num_labels"] = 2  # beginning and end
    config = transformers.AutoConfig.for_model(model_type, **fields)
    torch.manual_seed(0)
    model = getattr(transformers, TASKS[task].auto).from_config(config)
    tables = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(_deviation(parameter, id(parameter) in tables) * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.3 * torch.randn_like(buffer))
            elif name.endswith("running_var"):
                buffer.mul_(1 + torch.rand_like(buffer))
    folder = Path(_folder().name) / f"{model_type}-{task}-{len(list(Path(_folder().name).iterdir()))}"
    model.save_pretrained(folder)
    _MADE[folder] = {path.name for path in folder.iterdir()}
    return folder


def _deviation(parameter: torch.Tensor, table: bool) -> float:
    """By their many products, values would grow from layer to layer: those of convolutions beyond float16; those of an
    encoder's layers beyond the states they are added to, until they make all tokens alike. A score of states that hardly
    differ has a range as small as float16's noise on them, in transformers' own half precision too."""
    if parameter.ndim == 4:
        return float(0.5 * parameter[0].numel() ** -0.5)
    if parameter.ndim == 2 and not table:
        # By the smaller side: a Conv1D is stored the other way round, and a head of few scores gets wide weights.
        return float(0.5 * min(parameter.shape) ** -0.5)
    return 0.3


@functools.cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="milbuild-tests-")


@functools.cache
def reference(folder: Path, task: str = "text-generation") -> Any:
    from milbuild.validation.reference import load

    return load(folder, task)


def tokens(*shape: int, seed: int = 0, vocabulary: int = 61) -> np.ndarray:
    """Random token ids, none of them the padding token."""
    ids = np.random.default_rng(seed).integers(0, vocabulary, shape, np.int32)
    return np.where(ids == 5, 6, ids).astype(np.int32)


def check_module_outputs(
    model: Any, folder: Path, task: str, inputs: dict[str, np.ndarray], wanted: tuple[str, ...]
) -> None:
    """Every module of transformers whose output is in the graph has its value there, under its name; all that are `wanted`,
    `*` for a number, are there. The first one in the graph's order that is wrong is named."""
    from milbuild import runtime
    from milbuild.validation import reference as hf

    path = model.package_path  # a temporary folder, which lasts as long as the model
    truth = reference(folder, task)
    with hf.modules(truth) as expected:
        hf.forward(truth, inputs)
    names = hf.module_outputs(
        expected, [op.name for op in runtime.load(path).function.operations if op.type != "const"]
    )
    engine = runtime.load(path, keep=list(names.values()))
    engine.predict(inputs)
    kept = {name: engine.kept[operation] for name, operation in names.items()}
    moved = {name: hf.channels_first(value, expected[name].shape) for name, value in kept.items()}
    found = {name: kept[name] if kept[name].shape == expected[name].shape else moved[name] for name in kept}
    compared = [name for name in names if found[name] is not None]
    for module in compared:
        assert difference(found[module], expected[module]) <= 1e-5, module
    patterns = {module: re.sub(r"(?<=\.)\d+(?=\.|$)", "*", module) for module in expected}
    assert not {module for module, pattern in patterns.items() if pattern in wanted} - set(compared)
    assert set(wanted) <= set(patterns.values())


def inputs_of(model_type: str, task: str, *shape: int, padded: bool = False, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs of a text model: with token types if it takes them, and for multiple-choice 7 texts a question.

    With `padded` the second row has padding on the right, the third on the left, where its first tokens attend to nothing.
    """
    batch, *count = shape
    rows = (batch, 7) if task == "multiple-choice" else (batch,)
    ids, mask = tokens(*rows, *count, seed=seed), np.ones((*rows, *count), np.int32)
    if padded:
        mask[1, ..., 8:] = mask[2, ..., :4] = 0
    found = {"input_ids": np.where(mask, ids, 5).astype(np.int32)} | ({"attention_mask": mask} if padded else {})
    if "token_type_ids" in architectures.takes(architectures.find(model_type)):
        kinds = TABLE[model_type].config["type_vocab_size"]
        found["token_type_ids"] = np.random.default_rng(seed + 1).integers(0, kinds, ids.shape, np.int32)
    return found


def difference(value: np.ndarray, expected: np.ndarray) -> float:
    """The largest error over the range of what is expected."""
    assert value.shape == expected.shape
    return float(np.abs(value - expected).max() / np.ptp(expected))


def psnr(value: np.ndarray, expected: np.ndarray) -> float:
    assert value.shape == expected.shape
    noise = np.sqrt(np.mean((value.astype(np.float64) - expected) ** 2))
    return float(20 * np.log10(np.ptp(expected) / noise)) if noise else float("inf")


def shared(name: str) -> Path:
    """One of the real checkpoints that lie beside the project where it is developed."""
    if not (SHARED / name).is_dir():
        pytest.skip(f"the real checkpoint {name} is not part of the project and not at hand")
    return SHARED / name
