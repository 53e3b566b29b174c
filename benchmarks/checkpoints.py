"""Checkpoints of real configurations with random weights, in the folder layout of Hugging Face.

    python benchmarks/checkpoints.py gpt2 FOLDER [--dtype float16]

The sizes and names are those of the published models, the numbers are not: what a build costs depends on the former only.
Every tensor goes to the file in pieces, so a checkpoint of any size needs a few megabytes of memory.
"""

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

PIECE = 1 << 20  # elements drawn at a time


class Size(NamedTuple):
    layers: int
    width: int
    heads: int


# The published configurations of openai-community: 124, 355, 774 and 1,558 million parameters.
SIZES = {
    "gpt2": Size(12, 768, 12),
    "gpt2-medium": Size(24, 1024, 16),
    "gpt2-large": Size(36, 1280, 20),
    "gpt2-xl": Size(48, 1600, 25),
}
VOCABULARY, CONTEXT = 50257, 1024

# A type's name in config.json -> (its name in a safetensors header, numpy's type).
DTYPES = {
    "float32": ("F32", np.dtype(np.float32)),
    "float16": ("F16", np.dtype(np.float16)),
    "bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16)),
}


def config(size: Size, dtype: str) -> dict[str, object]:
    """config.json as the published checkpoints have it."""
    return {
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.1,
        "bos_token_id": 50256,
        "dtype": dtype,
        "embd_pdrop": 0.1,
        "eos_token_id": 50256,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "model_type": "gpt2",
        "n_ctx": CONTEXT,
        "n_embd": size.width,
        "n_head": size.heads,
        "n_layer": size.layers,
        "n_positions": CONTEXT,
        "resid_pdrop": 0.1,
        "vocab_size": VOCABULARY,
    }


def tensors(size: Size) -> dict[str, tuple[int, ...]]:
    """Name -> shape. The head is tied to the token embedding and therefore not stored."""
    d = size.width
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (VOCABULARY, d), "wpe.weight": (CONTEXT, d)}
    for layer in range(size.layers):
        block: dict[str, tuple[int, ...]] = {
            "ln_1.weight": (d,),
            "ln_1.bias": (d,),
            "attn.c_attn.weight": (d, 3 * d),
            "attn.c_attn.bias": (3 * d,),
            "attn.c_proj.weight": (d, d),
            "attn.c_proj.bias": (d,),
            "ln_2.weight": (d,),
            "ln_2.bias": (d,),
            "mlp.c_fc.weight": (d, 4 * d),
            "mlp.c_fc.bias": (4 * d,),
            "mlp.c_proj.weight": (4 * d, d),
            "mlp.c_proj.bias": (d,),
        }
        shapes |= {f"h.{layer}.{name}": shape for name, shape in block.items()}
    shapes |= {"ln_f.weight": (d,), "ln_f.bias": (d,)}
    return {f"transformer.{name}": shape for name, shape in shapes.items()}


def make(model: str, folder: Path, dtype: str = "float32", seed: int = 0) -> None:
    """Writes config.json and model.safetensors into `folder`; equal arguments give equal files."""
    folder.mkdir(parents=True, exist_ok=True)
    size, (code, kind) = SIZES[model], DTYPES[dtype]
    (folder / "config.json").write_text(json.dumps(config(size, dtype), indent=2) + "\n")
    random = np.random.default_rng(seed)
    shapes = tensors(size)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(_header(shapes, code, kind.itemsize))
        for name, shape in shapes.items():
            for piece in _values(name, math.prod(shape), random):
                file.write(piece.astype(kind, copy=False).view(np.uint8).data)


def _header(shapes: dict[str, tuple[int, ...]], code: str, width: int) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        end = at + math.prod(shape) * width
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8, as safetensors itself writes it
    return len(text).to_bytes(8, "little") + text


def _values(name: str, count: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Normal with a deviation of 0.02, as GPT-2 is initialised; around 1 for the scales of layer norms.

    Biases are random too: zeros would be equal to one another, and whoever merges equal constants would save their bytes.
    """
    centre = np.float32("ln_" in name and name.endswith(".weight"))
    for start in range(0, count, PIECE):
        yield random.standard_normal(min(PIECE, count - start), np.float32) * np.float32(0.02) + centre


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes a checkpoint of a real configuration with random weights.")
    parser.add_argument("model", choices=SIZES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="type of the tensors (default: float32)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make(arguments.model, arguments.folder, arguments.dtype, arguments.seed)
    file = arguments.folder / "model.safetensors"
    parameters = sum(math.prod(shape) for shape in tensors(SIZES[arguments.model]).values())
    print(f"{file}: {parameters / 1e6:,.0f} million parameters, {file.stat().st_size / 1e6:,.1f} MB")


if __name__ == "__main__":
    main()
