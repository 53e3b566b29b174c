"""Checkpoints of published configurations with random weights, in the folder layout of Hugging Face.

    python benchmarks/checkpoints.py llama-7b FOLDER [--dtype bfloat16]

Names, shapes and shards are those of `save_pretrained`, the numbers are not: what a build costs depends on the former only.
transformers' model is made without memory (on the device `meta`), and its tensors go to the files in pieces, so a checkpoint
of any size needs a few megabytes.
"""

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

PIECE = 1 << 20  # numbers written at a time
SHARD = 5_000_000_000  # bytes of a file, as save_pretrained divides them


class Model(NamedTuple):
    """`config`: what differs from transformers' own defaults, which are those of the smallest published model."""

    model_type: str
    auto: str
    config: dict[str, Any]
    dtype: str = "float32"


def _gpt2(layers: int, width: int, heads: int) -> Model:
    return Model("gpt2", "AutoModelForCausalLM", {"n_layer": layers, "n_embd": width, "n_head": heads})


def _llama(layers: int, width: int, inner: int, heads: int, shared: int, vocabulary: int = 32000) -> Model:
    config = {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": shared,
        "vocab_size": vocabulary,
        "max_position_embeddings": 2048,
    }
    return Model("llama", "AutoModelForCausalLM", config, "bfloat16")


MODELS = {
    "gpt2": _gpt2(12, 768, 12),
    "gpt2-medium": _gpt2(24, 1024, 16),
    "gpt2-large": _gpt2(36, 1280, 20),
    "gpt2-xl": _gpt2(48, 1600, 25),
    "llama-0.1b": _llama(12, 768, 2048, 12, 12),
    "llama-0.5b": _llama(24, 1024, 4096, 16, 8),
    "llama-1.1b": _llama(22, 2048, 5632, 32, 4),  # TinyLlama
    "llama-3b": _llama(28, 3072, 8192, 24, 8, 128256),  # Llama 3.2, its head stored
    "llama-7b": _llama(32, 4096, 11008, 32, 32),  # Llama 2
    "bert-base": Model("bert", "AutoModel", {}),
    "vit-base": Model("vit", "AutoModel", {}),
    "t5-small": Model("t5", "AutoModelForSeq2SeqLM", {"decoder_start_token_id": 0}),
    "whisper-base": Model(
        "whisper",
        "AutoModelForSpeechSeq2Seq",
        {"d_model": 512, "encoder_layers": 6, "decoder_layers": 6, "encoder_attention_heads": 8, "decoder_attention_heads": 8,
         "encoder_ffn_dim": 2048, "decoder_ffn_dim": 2048, "vocab_size": 51865},
    ),
}  # fmt: skip

# A type's name in config.json -> (its name in a safetensors header, numpy's type).
DTYPES = {
    "float32": ("F32", np.dtype(np.float32)),
    "float16": ("F16", np.dtype(np.float16)),
    "bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16)),
}


def make(name: str, folder: Path, dtype: str | None = None) -> int:
    """Writes config.json and the weights into `folder`; equal arguments give equal files. Returns the number of parameters."""
    import torch
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    model = MODELS[name]
    dtype = dtype or model.dtype
    config = transformers.AutoConfig.for_model(model.model_type, **model.config)
    with torch.device("meta"):
        made = getattr(transformers, model.auto).from_config(config)
    config.architectures, config.dtype = [type(made).__name__], dtype
    config.save_pretrained(folder)
    tied = set(made.all_tied_weights_keys) if getattr(config, "tie_word_embeddings", False) else set()
    shapes = {key: tuple(value.shape) for key, value in made.state_dict().items() if key not in tied}
    code, kind = DTYPES[dtype]
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    for key, shape in shapes.items():
        if sum(math.prod(each) for each in (*shards[-1].values(), shape)) * kind.itemsize > SHARD and shards[-1]:
            shards.append({})
        shards[-1][key] = shape
    files = ["model.safetensors"] if len(shards) == 1 else [
        f"model-{number + 1:05}-of-{len(shards):05}.safetensors" for number in range(len(shards))
    ]  # fmt: skip
    random = np.random.default_rng(0)
    block = (random.standard_normal(2 * PIECE, np.float32) * np.float32(0.02)).astype(kind)
    for file, part in zip(files, shards, strict=True):
        with (folder / file).open("wb") as opened:
            opened.write(_header(part, code, kind.itemsize))
            for shape in part.values():
                for piece in _values(math.prod(shape), block, random):
                    opened.write(piece.view(np.uint8).data)
    if len(files) > 1:
        where = {key: file for file, part in zip(files, shards, strict=True) for key in part}
        index = {"metadata": {}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return sum(math.prod(shape) for shape in shapes.values())


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


def _values(count: int, block: np.ndarray, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Normal with a deviation of 0.02. Drawing 7 billion would take minutes: each piece is another part of one block.

    Biases are random too: zeros would be equal to one another, and whoever merges equal constants would save their bytes.
    """
    for start in range(0, count, PIECE):
        at = int(random.integers(0, len(block) - PIECE))
        yield block[at : at + min(PIECE, count - start)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes a checkpoint of a published configuration with random weights.")
    parser.add_argument("model", choices=MODELS, metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--dtype", choices=DTYPES, help="type of the tensors (default: bfloat16 for llama, else float32)"
    )
    arguments = parser.parse_args()
    parameters = make(arguments.model, arguments.folder, arguments.dtype)
    size = sum(file.stat().st_size for file in arguments.folder.glob("*.safetensors"))
    print(f"{arguments.folder}: {parameters / 1e6:,.0f} million parameters, {size / 1e6:,.1f} MB")


if __name__ == "__main__":
    main()
