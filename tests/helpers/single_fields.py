"""One field of a configuration set alone to another value: what transformers makes of it, and what milbuild.

`outcome` is a word for what happened, `values` are those worth trying.
"""

import copy
import dataclasses
import functools
import itertools
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import milbuild
from milbuild import architectures
from milbuild.program.builder import read_config
from milbuild.tasks import TASKS
from milbuild.validation import reference as hf
from milbuild.weights import Checkpoint, fields
from tests.conftest import checkpoint, difference
from tests.tiny import TABLE

# Whatever transformers, torch and we ourselves may raise of a strange value.
RAISED = (
    *(
        ValueError,
        TypeError,
        RuntimeError,
        KeyError,
        IndexError,
        AttributeError,
        AssertionError,
        ArithmeticError,
        OSError,
    ),
    *(ImportError, StopIteration, StrictDataclassError, milbuild.Error),
)
BODY = "feature-extraction"  # which every family has
# What counts when transformers saves or loads a file.
FILES = {"tie_word_embeddings", *(name for name, (effect, _) in fields.SHARED.items() if effect == fields.REFUSED)}
_numbers = itertools.count()
EMPTY: tuple[Any, ...] = (None, 0, False, "", [], {})
# What says of the checkpoint what is no field of a graph, or has tests of its own.
LEFT_OUT = {
    "architectures",
    "transformers_version",
    "id2label",
    "label2id",
    "dtype",
    "_attn_implementation",
    "model_type",
}


def fields_of(model_type: str, task: str = BODY) -> list[str]:
    """Those of the class, of the family's `also` and of transformers' shared code; for a task with a head those that only
    its build asks for."""
    if task != BODY:
        only = _plain(model_type, task)[2].keys() - _plain(model_type, BODY)[2].keys()
        return [name for name in fields_of(model_type) if name in only]
    kind = type(transformers.AutoConfig.for_model(model_type))
    own = [field.name for field in dataclasses.fields(kind)]
    family = architectures.find(model_type)
    return [
        name for name in dict.fromkeys([*own, *getattr(family, "also", ()), *fields.SHARED]) if name not in LEFT_OUT
    ]


def values(model_type: str, name: str) -> list[Any]:
    """Other values for a field: near the one that the tiny configuration has, or of each kind where it has none; and
    whatever is empty."""
    config = transformers.AutoConfig.for_model(model_type, **TABLE[model_type].config)
    now = getattr(config, name, None)
    if isinstance(now, bool):
        found: list[Any] = [not now]
    elif isinstance(now, int):
        found = [now + 1, 2 * now, 1, -1]
    elif isinstance(now, float):
        found = [2 * now + 0.1, 1.0]
    elif isinstance(now, str):
        found = ["relu", "gelu_new", "other"]
    elif isinstance(now, list | tuple):
        found = [list(reversed(now)), [*now, *now[-1:]], list(now[:1])]
        if name == "layer_types":
            found += [["full_attention"] * len(now), ["sliding_attention"] * len(now), ["chunked_attention"] * len(now)]
    elif name.endswith("layer_types"):
        found = [[kind] * 3 for kind in ("full_attention", "sliding_attention", "chunked_attention")]
    elif isinstance(now, dict):
        found = [now | {"partial_rotary_factor": 0.5}]
    else:
        found = [True, 3, 0.5, "relu", [1, 0, 1], {"0": {}}]
    own = {field.name for field in dataclasses.fields(type(config))}
    also = getattr(architectures.find(model_type), "also", ())
    if name not in (*own, *also) and fields.SHARED.get(name, fields.Shared("", "")).effect == fields.NOTHING:
        return found[1:3]
    found += [value for value in EMPTY if not any(value is each or value == each for each in found)]
    return [value for value in found if value != now or type(value) is not type(now)]


def folder_of(model_type: str, task: str, name: str, value: Any) -> Path:
    """A checkpoint that transformers made with the field so, and whose config.json says it so; a copy of the plain one
    with another config.json where transformers' class does not keep the value. Raises what transformers raises."""
    folder = checkpoint(model_type, task, **{name: value})
    written = json.loads((folder / "config.json").read_text())
    if name in written and written[name] == value and type(written[name]) is type(value):
        return folder
    other = folder.with_name(f"{folder.name}-{name}")
    shutil.copytree(folder, other, dirs_exist_ok=True)
    (other / "config.json").write_text(json.dumps(written | {name: value}))
    return other


def inputs_for(model: Any, config: Any) -> dict[str, np.ndarray]:
    """Random numbers for the inputs that a package declares."""
    random, found = np.random.default_rng(0), {}
    for feature in model.interface.input:
        shape = tuple(feature.type.multiArrayType.shape)
        if "float" in str(feature.type) or feature.type.multiArrayType.dataType != 131104:
            found[feature.name] = random.standard_normal(shape).astype(np.float32)
        elif feature.name.endswith("input_ids"):
            ids = random.integers(6, max(7, min(61, config.vocab_size)), shape)
            if ids.shape[-1] > 2 and config.eos_token_id is not None and feature.name == "input_ids":
                ids[..., -1] = 2
            found[feature.name] = ids.astype(np.int32)
        else:
            found[feature.name] = (np.ones if "attention_mask" in feature.name else np.zeros)(shape, np.int32)
    return found


def outcome(model_type: str, task: str, name: str, value: Any) -> str:
    """ "same", "refused", "illegal", or what is wrong."""
    try:
        folder, truth = _short(model_type, task, name, value) or (folder_of(model_type, task, name, value), None)
        truth = truth or hf.load(folder, task)
    except RAISED as error:  # whatever transformers makes of it: there are no numbers to compare with
        return f"illegal: {type(error).__name__}"
    try:
        model = _built(model_type, task, folder)
    except milbuild.Error as error:
        said = str(error)
        others = type(truth.config).attribute_map
        aliases = [each for each, own in others.items() if own == name] + [others.get(name, name)]
        return (
            "refused" if any(each in said for each in (name, *aliases)) else f"refused without its name: {said[:150]}"
        )
    except RAISED as error:
        return f"traceback: {type(error).__name__}: {str(error)[:150]}"
    inputs = inputs_for(model, truth.config)
    try:
        expected = hf.forward(truth, inputs)
    except RAISED as error:
        return f"illegal: {type(error).__name__} {str(error)[:80]}"
    try:
        given = _predicted(model, json.dumps({name: each.tolist() for name, each in inputs.items()}))
    except RAISED as error:
        return f"traceback in predict: {type(error).__name__}: {str(error)[:150]}"
    # Numbers that are alike up to their rounding have no range to measure an error by.
    if any(not np.isfinite(each).all() or np.ptp(each) <= 1e-5 * np.abs(each).max() for each in expected.values()):
        return "illegal: no numbers"
    wrong = {}
    for output, each in given.items():
        if each.shape != expected[output].shape:
            return f"wrong: {output} has the shape {each.shape} for {expected[output].shape}"
        if (error := difference(each, expected[output])) > 1e-5:
            wrong[output] = f"{error:.1e}"
    return f"wrong: {wrong}" if wrong else "same"


class _Written(dict[str, Any]):
    """A config.json that knows what was asked of it."""

    asked: dict[str, Any]

    def get(self, name: str, default: Any = None) -> Any:
        self.asked[name] = found = super().get(name, default)
        return found

    def __getitem__(self, name: str) -> Any:
        self.asked[name] = found = super().__getitem__(name)
        return found


MISSING = "nothing of that name"


@functools.cache
def _plain(model_type: str, task: str) -> tuple[Any, Any, dict[str, Any], dict[str, Any]]:
    """The plain checkpoint's model in transformers, its package, and what the build asked of the configuration object and of
    config.json, with what it was told."""
    folder = checkpoint(model_type, task)
    asked, written = dict[str, Any](), dict[str, Any]()
    remember, opened = fields.Config.__getattr__, Checkpoint.__init__

    def ask(self: fields.Config, name: str) -> Any:
        asked[name] = MISSING
        asked[name] = remember(self, name)
        return asked[name]

    def init(self: Checkpoint, name: str, folder: Path, config: dict[str, Any], *rest: Any) -> None:
        config = _Written(config)
        config.asked = written
        opened(self, name, folder, config, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fields.Config, "__getattr__", ask)
        patch.setattr(Checkpoint, "__init__", init)
        model = _build(model_type, task, folder)
    return hf.load(folder, task), model, copy.deepcopy(asked), copy.deepcopy(written)


def _build(model_type: str, task: str, folder: Path) -> Any:
    options = {**TABLE[model_type].options, "postprocess": False, "precision": "float32", "lint": False}
    return milbuild.build(folder, task=task, **options)


def _built(model_type: str, task: str, folder: Path) -> Any:
    """The package of a checkpoint; where it has the plain one's weights, and its configuration answers all that the plain
    one's build asked as the plain one did, that package, since a build is a function of what it reads."""
    _, model, asked, written = _plain(model_type, task)
    config = json.loads((folder / "config.json").read_text())
    if not (folder / "model.safetensors").samefile(checkpoint(model_type, task) / "model.safetensors"):
        return _build(model_type, task, folder)
    try:
        found = read_config(Checkpoint("", folder, config, {}))
        now = {name: getattr(found, name, MISSING) for name in asked}
    except RAISED:
        return _build(model_type, task, folder)
    same = repr(now) == repr(asked) and repr([config.get(name) for name in written]) == repr(list(written.values()))
    return model if same else _build(model_type, task, folder)


@functools.lru_cache(1)
def _predicted(model: Any, inputs: str) -> dict[str, np.ndarray]:
    found = {name: np.array(each) for name, each in json.loads(inputs).items()}
    return model.predict(
        {name: each.astype(np.int32 if each.dtype == int else np.float32) for name, each in found.items()}
    )


def _short(model_type: str, task: str, name: str, value: Any) -> tuple[Path, Any] | None:
    """A folder with the plain checkpoint's weights under another config.json, and transformers' model of it, if it takes them
    as they are. Raises what transformers raises of the configuration."""
    plain = checkpoint(model_type, task)
    # As short as people write it: what transformers' class makes of other fields does not stand in it.
    named = {each: json.loads((plain / "config.json").read_text())[each] for each in ("architectures", "model_type")}
    written = {**named, **TABLE[model_type].config, name: value}
    if task == "question-answering":
        written["num_labels"] = 2
    if name in FILES:
        return None
    config = CONFIG_MAPPING[model_type].from_dict(written)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")  # of a size 0, which torch takes
        model = getattr(transformers, TASKS[task].auto).from_config(config, attn_implementation="eager")
    weights = _plain(model_type, task)[0].state_dict()
    if {name: each.shape for name, each in model.state_dict().items()} != {
        name: each.shape for name, each in weights.items()
    }:
        return None
    model.load_state_dict(weights)
    folder = plain.with_name(f"{plain.name}-{next(_numbers)}")
    folder.mkdir()
    (folder / "model.safetensors").hardlink_to(plain / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(written))
    return folder, model.float().eval()
