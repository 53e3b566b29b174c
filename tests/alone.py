"""One field of a configuration set alone to another value: what transformers makes of it, and what milbuild.

`outcome` is a word for what happened, `values` are those worth trying.
"""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from huggingface_hub.errors import StrictDataclassError

import milbuild
from milbuild import architectures, fields
from milbuild.validation import reference as hf
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
    *(ImportError, StrictDataclassError, milbuild.Error),
)
# Other words that name a field.
WORDS = {
    **dict.fromkeys(("max_position_embeddings", "n_positions"), ("context ends at", "positions")),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), ("do not divide into", "a head has")),
    "hidden_size": ("do not divide into", "a head has"),
    "type_vocab_size": ("token_type_embeddings",),
}
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


def fields_of(model_type: str) -> list[str]:
    """Those of the class, of the family's `also` and of transformers' shared code."""
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
        folder = folder_of(model_type, task, name, value)
        truth = hf.load(folder, task)
    except RAISED as error:  # whatever transformers makes of it: there are no numbers to compare with
        return f"illegal: {type(error).__name__}"
    options = {**TABLE[model_type].options, "postprocess": False, "precision": "float32", "lint": False}
    try:
        model = milbuild.build(folder, task=task, **options)
    except milbuild.Error as error:
        said = str(error)
        aliases = [each for each, own in type(truth.config).attribute_map.items() if own == name]
        return (
            "refused"
            if any(each in said for each in (name, *aliases, *WORDS.get(name, ())))
            else f"refused without its name: {said[:150]}"
        )
    except RAISED as error:
        return f"traceback: {type(error).__name__}: {str(error)[:150]}"
    inputs = inputs_for(model, truth.config)
    try:
        expected = hf.forward(truth, inputs)
    except RAISED as error:
        return f"illegal: {type(error).__name__} {str(error)[:80]}"
    try:
        given = model.predict(inputs)
    except RAISED as error:
        return f"traceback in predict: {type(error).__name__}: {str(error)[:150]}"
    if any(not np.isfinite(each).all() or not np.ptp(each) for each in expected.values()):
        return "illegal: no numbers"
    wrong = {}
    for output, each in given.items():
        if each.shape != expected[output].shape:
            return f"wrong: {output} has the shape {each.shape} for {expected[output].shape}"
        if (error := difference(each, expected[output])) > 1e-5:
            wrong[output] = f"{error:.1e}"
    return f"wrong: {wrong}" if wrong else "same"
