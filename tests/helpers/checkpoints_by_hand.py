"""Checkpoints written by hand, whole and broken. Needs numpy, nothing more."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

LAYERS, WIDTH, HEADS, VOCABULARY, POSITIONS = 2, 32, 4, 61, 24

CONFIG: dict[str, Any] = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "n_layer": LAYERS,
    "n_embd": WIDTH,
    "n_head": HEADS,
    "n_positions": POSITIONS,
    "vocab_size": VOCABULARY,
    "n_inner": None,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "bos_token_id": 60,
    "eos_token_id": 60,
}

# The format's names of numpy's types.
CODES = {
    np.dtype(np.float64): "F64",
    np.dtype(np.float32): "F32",
    np.dtype(np.float16): "F16",
    np.dtype(ml_dtypes.bfloat16): "BF16",
    np.dtype(np.int64): "I64",
    np.dtype(np.int32): "I32",
    np.dtype(np.int16): "I16",
    np.dtype(np.int8): "I8",
    np.dtype(np.uint64): "U64",
    np.dtype(np.uint32): "U32",
    np.dtype(np.uint16): "U16",
    np.dtype(np.uint8): "U8",
    np.dtype(np.bool_): "BOOL",
}

Tensors = dict[str, np.ndarray]


def tensors(prefix: str = "transformer.", seed: int = 0) -> Tensors:
    """Every parameter of a small GPT-2 without a head of its own, float32, by transformers' names."""
    random = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (VOCABULARY, WIDTH), "wpe.weight": (POSITIONS, WIDTH)}
    for i in range(LAYERS):
        shapes |= {f"h.{i}.ln_{n}.{kind}": (WIDTH,) for n in (1, 2) for kind in ("weight", "bias")}
        for name, rows, columns in (
            ("attn.c_attn", WIDTH, 3 * WIDTH),
            ("attn.c_proj", WIDTH, WIDTH),
            ("mlp.c_fc", WIDTH, 4 * WIDTH),
            ("mlp.c_proj", 4 * WIDTH, WIDTH),
        ):
            shapes |= {f"h.{i}.{name}.weight": (rows, columns), f"h.{i}.{name}.bias": (columns,)}
    shapes |= {"ln_f.weight": (WIDTH,), "ln_f.bias": (WIDTH,)}
    return {prefix + name: random.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}


def safetensors(arrays: Mapping[str, np.ndarray], changed: Callable[[dict[str, Any]], None] | None = None) -> bytes:
    """A file of the format, written by hand so that `changed` may spoil its header."""
    header: dict[str, Any] = {}
    at = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": CODES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    if changed:
        changed(header)
    return with_header(json.dumps(header).encode(), b"".join(array.tobytes() for array in arrays.values()))


def with_header(text: bytes, data: bytes, length: int | None = None) -> bytes:
    """The bytes of a file with this header, which may claim another `length`."""
    text += b" " * (-len(text) % 8)
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def checkpoint(
    folder: Path,
    arrays: Mapping[str, np.ndarray] | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    without: tuple[str, ...] = (),
    file: str = "model.safetensors",
) -> Path:
    """A checkpoint in `folder`: `config` overrides fields of CONFIG, `without` takes some away."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {key: value for key, value in (CONFIG | dict(config or {})).items() if key not in without}
    (folder / "config.json").write_text(json.dumps(values))
    (folder / file).write_bytes(safetensors(tensors() if arrays is None else arrays))
    return folder


def sharded(folder: Path, arrays: Tensors | None = None, shards: int = 3) -> Path:
    """The same in several files with their index."""
    arrays = tensors() if arrays is None else arrays
    checkpoint(folder, {})
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = {name: array for i, (name, array) in enumerate(arrays.items()) if i % shards == number}
        (folder / file).write_bytes(safetensors(part))
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": sum(a.nbytes for a in arrays.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
