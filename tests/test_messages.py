"""What is wrong with what milbuild was given: said in one message with exit code 2, no traceback, nothing left on the disk."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import milbuild
from milbuild.generation.session import Session
from milbuild.generation.text import TextStream
from milbuild.lowering import temporary
from milbuild.package import TARGETS
from milbuild.program.interfaces import INTERFACES
from milbuild.program.options import PRECISIONS
from tests.helpers import checkpoints_by_hand as by_hand
from tests.helpers.checkpoints_by_hand import VOCABULARY, WIDTH
from tests.helpers.command_line import ENVIRONMENT, ROOT, CommandLine, Result, assert_refused, files, run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoint `c` that nothing is wrong with, and a package `p.mlpackage` of it. Not to be changed."""
    folder = tmp_path_factory.mktemp("whole")
    by_hand.checkpoint(folder / "c")
    milbuild.build(folder / "c", sequence_length=8).save(folder / "p.mlpackage")
    return folder


def refused(
    command: Callable[..., Result],
    folder: Path,
    *arguments: Any,
    words: tuple[str, ...],
    hint: str | None = None,
) -> None:
    """Runs a command line in `folder`, which must be refused with these words and leave everything as it was."""
    before = files(folder)
    assert_refused(command(*arguments, cwd=folder), *words, hint=hint)
    assert files(folder) == before


def message(build: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """The text of the `milbuild.Error` that a call ends in, in one line."""
    with pytest.raises(milbuild.Error) as caught:
        build(*arguments, **options)
    return " ".join(str(caught.value).split())


# The checkpoint's folder


def _config(text: str | bytes) -> Callable[[Path], None]:
    return lambda folder: (
        (folder / "config.json").write_bytes(text.encode() if isinstance(text, str) else text) and None
    )


def _changed(**fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        by_hand.checkpoint(folder, config=fields)

    return change


def _without(*fields: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        by_hand.checkpoint(folder, without=fields)

    return change


def _weights(content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / "model.safetensors").write_bytes(content) and None


def _header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return _weights(by_hand.safetensors(by_hand.tensors(), change))


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def _cut_in_header(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:200])


def _shift(name: str, start: int, stop: int) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        begin, end = header[name]["data_offsets"]
        header[name]["data_offsets"] = [begin + start, end + stop]

    return change


def _tensors(change: Callable[[by_hand.Tensors], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        arrays = by_hand.tensors()
        change(arrays)
        by_hand.checkpoint(folder, arrays)

    return spoil


def _index(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        by_hand.sharded(folder)
        file = folder / "model.safetensors.index.json"
        index = json.loads(file.read_text())
        index = change(index) or index
        file.write_text(json.dumps(index))

    return spoil


def _map(**entries: Any) -> Callable[[Path], None]:
    return _index(lambda index: index["weight_map"].update({k.replace("__", "."): v for k, v in entries.items()}))


def _lost_shard(folder: Path) -> None:
    by_hand.sharded(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()


def _twice(folder: Path) -> None:
    by_hand.sharded(folder)
    first, second = (folder / f"model-0000{n}-of-00003.safetensors" for n in (1, 2))
    first.write_bytes(second.read_bytes())


WTE, BIAS = "transformer.wte.weight", "transformer.h.1.mlp.c_fc.bias"
SHARD = "model-00001-of-00003.safetensors"
OTHER = "model-00002-of-00003.safetensors"
FOREVER = "[" * 100_000

# name -> (what is done to a whole checkpoint `c`, words of the message, words of the hint)
SPOILED: dict[str, tuple[Callable[[Path], Any], tuple[str, ...], str | None]] = {
    # config.json
    "no config.json": (lambda c: (c / "config.json").unlink(), ("c has no config.json",), "save_pretrained"),
    "config.json is a folder": (
        lambda c: ((c / "config.json").unlink(), (c / "config.json").mkdir()),
        ("c has no config.json",),
        "save_pretrained",
    ),
    "config.json is no JSON": (_config("{'model_type': gpt2"), ("config.json of c cannot be read",), None),
    "config.json is empty": (_config(""), ("config.json of c cannot be read",), None),
    "config.json is no text": (_config(b"\xff\xfe\x00{"), ("config.json of c cannot be read",), None),
    "config.json is nested without end": (_config(FOREVER), ("config.json of c cannot be read",), None),
    "config.json is a list": (_config("[1]"), ("config.json of c is no object but a list",), None),
    "config.json is null": (_config("null"), ("config.json of c is no object",), None),
    "no model_type": (_without("model_type"), ("config.json of c has no model_type",), "transformers saved"),
    "model_type is a number": (_changed(model_type=2), ("has no model_type",), None),
    "model_type gpt-2": (_changed(model_type="gpt-2"), ("no graph is written", "'gpt-2'"), "The nearest known: gpt2"),
    "model_type zebra": (_changed(model_type="zebra"), ("no graph is written", "'zebra'"), "gpt2"),
    "n_embd is text": (_changed(n_embd="32"), ("config.json of c is no configuration of gpt2", "n_embd", "32"), None),
    "n_layer is text": (_changed(n_layer="two"), ("config.json of c", "n_layer", "two"), None),
    "n_head is null": (_changed(n_head=None), ("config.json of c", "n_head"), None),
    "n_head is 0": (_changed(n_head=0), ("0", "heads"), None),
    "n_head does not divide n_embd": (_changed(n_head=5), ("32", "5 heads"), None),
    "n_layer is 0": (_changed(n_layer=0), ("24 tensors that its architecture does not use",), "config.json"),
    "n_layer is negative": (_changed(n_layer=-1), ("24 tensors that its architecture does not use",), "config.json"),
    "n_positions is 0": (_changed(n_positions=0), ("config.json", "0"), None),
    "vocab_size is negative": (_changed(vocab_size=-5), (WTE, "(-5, 32)"), "config.json"),
    "layer_norm_epsilon is text": (_changed(layer_norm_epsilon="small"), ("layer_norm_epsilon",), None),
    "architectures is no list of names": (_changed(architectures=[5]), ("architectures",), None),
    "unknown activation": (_changed(activation_function="swoosh"), ("'swoosh'", "gelu_new"), None),
    "activation is a number": (_changed(activation_function=3), ("activation_function",), None),
    "quantized": (
        _changed(quantization_config={"quant_method": "gptq", "bits": 4}),
        ("c is quantized (gptq)",),
        "checkpoint it was made from",
    ),
    "quantized, a list": (_changed(quantization_config=["gptq"]), ("quantiz",), None),
    "quantized, a name": (_changed(quantization_config="gptq"), ("quantiz",), None),
    "cross attention": (_changed(add_cross_attention=True), ("add_cross_attention", "encoder"), None),
    "layers of different sizes": (_changed(per_layer_config={"0": {}}), ("per_layer_config",), None),
    "config.json of a deeper model": (_changed(n_layer=3), ("transformer.h.2.",), "incomplete"),
    "config.json of a shallower model": (
        _changed(n_layer=1),
        ("12 tensors that its architecture does not use", "transformer.h.1.attn.c_attn.weight"),
        "config.json",
    ),
    "config.json of a wider model": (_changed(n_embd=64), ("(61, 32)", "(61, 64)"), "config.json"),
    # The kind of file
    "a pickle": (_pickle, ("pickle", "pytorch_model.bin"), "save_pretrained(new_folder, safe_serialization=True)"),
    "no weights": (lambda c: (c / "model.safetensors").unlink(), ("c has no model.safetensors",), "index.json"),
    "weights of another name": (
        lambda c: (c / "model.safetensors").rename(c / "best.safetensors"),
        ("c has no model.safetensors",),
        "c/best.safetensors",
    ),
    # The file's frame
    "empty file": (_weights(b""), ("model.safetensors", "0"), "download it again"),
    "seven bytes": (_weights(b"1234567"), ("model.safetensors", "7"), "download it again"),
    "cut off": (_cut, ("model.safetensors", "ends at byte", "of which the file has"), "download it again"),
    "cut off in the header": (_cut_in_header, ("header", "200"), "download it again"),
    "header beyond the file": (
        _weights(by_hand.with_header(b"{}", b"", length=1 << 40)),
        ("header", "1,099,511,627,776"),
        "download it again",
    ),
    "header of 2**64 - 1": (_weights(b"\xff" * 64), ("header", "18,446,744,073,709,551,615"), "download it again"),
    "header is no JSON": (_weights(by_hand.with_header(b"{broken", b"")), ("no safetensors header",), "download"),
    "header is no text": (_weights(by_hand.with_header(b"\xff\xff", b"")), ("no safetensors header",), "download"),
    "header is a list": (_weights(by_hand.with_header(b"[]", b"")), ("no safetensors header",), "download"),
    "header is nested without end": (
        _weights(by_hand.with_header(FOREVER.encode(), b"")),
        ("no safetensors header",),
        "download",
    ),
    "header of names only": (_header(lambda h: h.update({WTE: 5})), ("no safetensors header",), "download"),
    # The file's entries
    "offsets overlap": (
        _header(_shift("transformer.wpe.weight", -4, -4)),
        ("transformer.wpe.weight begins at byte 7,804, inside transformer.wte.weight, which ends at 7,808",),
        "download it again",
    ),
    "offsets leave the file": (
        _header(_shift("transformer.ln_f.bias", 64, 64)),
        ("transformer.ln_f.bias ends",),
        "again",
    ),
    "offsets are negative": (_header(_shift(WTE, -8, 0)), (WTE, "-8"), "download it again"),
    "offsets are swapped": (_header(lambda h: h[WTE]["data_offsets"].reverse()), (WTE, "7808, 0"), "download it again"),
    "offsets are three": (_header(lambda h: h[WTE].update(data_offsets=[0, 1, 2])), (WTE,), "download it again"),
    "offsets are missing": (_header(lambda h: h[WTE].pop("data_offsets")), (WTE,), "download it again"),
    "size does not fit the shape": (
        _header(lambda h: h[WTE].update(shape=[61, 33])),
        (WTE, "(61, 33)", "8,052", "7,808"),
        "download it again",
    ),
    "shape is negative": (_header(lambda h: h[WTE].update(shape=[-61, -32])), (WTE, "-61"), "download it again"),
    "shape is text": (_header(lambda h: h[WTE].update(shape="61x32")), (WTE, "61x32"), "download it again"),
    "shape is beyond every machine": (
        _header(lambda h: h.update(huge={"dtype": "F32", "shape": [0, 10**30], "data_offsets": [0, 0]})),
        ("huge",),
        None,
    ),
    "shape of a hundred dimensions": (
        _header(lambda h: h.update(deep={"dtype": "F32", "shape": [0] * 100, "data_offsets": [0, 0]})),
        ("deep",),
        None,
    ),
    "type F8_E4M3": (
        _header(lambda h: h[WTE].update(dtype="F8_E4M3")),
        (WTE, "F8_E4M3", "BF16"),
        "float16, bfloat16 or float32",
    ),
    "type is a list": (_header(lambda h: h[WTE].update(dtype=["F32"])), (WTE, "F32"), None),
    "type is missing": (_header(lambda h: h[WTE].pop("dtype")), (WTE,), None),
    # Shards
    "shard missing": (
        _lost_shard,
        ("c lacks the shard model-00002-of-00003.safetensors", "index.json"),
        "Download the missing file",
    ),
    "shard cut off": (
        lambda c: (by_hand.sharded(c), os.truncate(c / OTHER, 5000)),
        (OTHER,),
        "download it again",
    ),
    "shard outside, relative": (
        _map(transformer__wte__weight=f"../c/{SHARD}"),
        ("names the file", f"../c/{SHARD}", "not in the checkpoint's own folder"),
        None,
    ),
    "shard outside, absolute": (_map(transformer__wte__weight="/etc/passwd"), ("'/etc/passwd'",), None),
    "shard is the folder itself": (_map(transformer__wte__weight="."), ("'.'",), None),
    "shard in a folder below": (_map(transformer__wte__weight=f"sub/{SHARD}"), (f"sub/{SHARD}",), None),
    "shard is a number": (_map(transformer__wte__weight=3), ("index",), None),
    "shard's name is too long": (_map(transformer__wte__weight="x" * 5000), ("shard", "xxxx"), None),
    "shard's name has a null": (_map(transformer__wte__weight="a\0b"), ("shard",), None),
    "index names a tensor that no shard has": (
        _map(transformer__h__9__bias=SHARD),
        ("names tensors that no shard has: transformer.h.9.bias",),
        "download it again",
    ),
    "a tensor in two shards": (_twice, ("another shard holds too",), None),
    "index is a list": (_index(lambda index: [1]), ("no index of shards", "weight_map"), None),
    "index without weight_map": (_index(lambda index: index.pop("weight_map") and {}), ("no index of shards",), None),
    "index with a list for weight_map": (_index(lambda index: {"weight_map": []}), ("no index of shards",), None),
    "index is no JSON": (
        lambda c: (by_hand.sharded(c), (c / "model.safetensors.index.json").write_text("{")),
        ("no index of shards",),
        None,
    ),
    "index is nested without end": (
        lambda c: (by_hand.sharded(c), (c / "model.safetensors.index.json").write_text(FOREVER)),
        ("no index of shards",),
        None,
    ),
    # Tensors
    "no tensor at all": (_tensors(dict.clear), ("c has no tensor transformer.wte.weight",), "incomplete"),
    "a tensor is missing": (
        _tensors(lambda t: t.pop(BIAS)),
        (f"c has no tensor {BIAS} of shape (128,)",),
        "incomplete",
    ),
    "a tensor too many": (
        _tensors(lambda t: t.update({"transformer.h.0.attn.q_norm.weight": t[BIAS]})),
        ("c has 1 tensors that its architecture does not use: transformer.h.0.attn.q_norm.weight",),
        "silently",
    ),
    "a tensor of another shape": (
        _tensors(lambda t: t.update({BIAS: np.zeros(127, np.float32)})),
        (BIAS, "(127,)", "config.json asks for (128,)"),
        "config.json",
    ),
    "a transposed matrix": (
        _tensors(lambda t: t.update({BIAS.replace("bias", "weight"): np.zeros((128, 32), np.float32)})),
        ("(128, 32)", "(32, 128)"),
        "config.json",
    ),
    "untied without a head": (
        _changed(tie_word_embeddings=False),
        ("no tensor lm_head.weight", "tie_word_embeddings: false"),
        "set tie_word_embeddings to true",
    ),
}


@pytest.mark.parametrize("name", SPOILED)
def test_spoiled_checkpoint(name: str, command: CommandLine, tmp_path: Path) -> None:
    spoil, words, hint = SPOILED[name]
    spoil(by_hand.checkpoint(tmp_path / "c"))
    refused(command, tmp_path, "build", "c", "out.mlpackage", words=words, hint=hint)


def test_unspoiled_checkpoint(command: CommandLine, tmp_path: Path) -> None:
    """What the spoiled ones differ from: it builds, and the package is all that is new."""
    by_hand.checkpoint(tmp_path / "c")
    by_hand.sharded(tmp_path / "s")
    before = files(tmp_path)
    for source in ("c", "s"):
        result = command("build", source, f"{source}.mlpackage", cwd=tmp_path)
        assert (result.code, result.out) == (0, ""), result.err
    new = {name.split("/")[0] for name in files(tmp_path).keys() - before.keys()}
    assert new == {"c.mlpackage", "s.mlpackage"}


@pytest.mark.parametrize(
    ("source", "words", "hint"),
    [
        ("{tmp}/nowhere", ("there is no folder", "nowhere"), "Give a checkpoint's folder"),
        ("./nowhere", ("there is no folder ./nowhere",), "Give a checkpoint's folder"),
        ("~nobody/x", ("there is no folder ~nobody/x",), "Give a checkpoint's folder"),
        (".", ("here has no config.json",), "save_pretrained"),
        ("", ("here has no config.json",), "save_pretrained"),
        ("a/b/c", ("there is no folder a/b/c",), "Give a checkpoint's folder"),
        ("nowhere", ("there is no folder nowhere", "local cache"), "Check the spelling"),
        ("some--body/else..where", ("some--body/else..where",), "Check the spelling"),
        ("notes.txt", ("notes.txt is neither a folder nor a .safetensors file",), None),
        ("model.bin", ("model.bin is a pickle",), "safe_serialization=True"),
        ("lonely.safetensors", ("no config.json",), "save_pretrained"),
    ],
)
def test_source_that_is_none(
    source: str, words: tuple[str, ...], hint: str | None, command: CommandLine, tmp_path: Path
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    for name in ("notes.txt", "model.bin", "lonely.safetensors"):
        (folder / name).write_bytes(b"12345678")
    refused(command, folder, "build", source.format(tmp=tmp_path), "out.mlpackage", words=words, hint=hint)


def test_unreadable_weights(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (by_hand.checkpoint(tmp_path / "c") / "model.safetensors").chmod(0)
    assert "cannot be read" in message(milbuild.build, tmp_path / "c")


def test_family_refuses_another_family(tmp_path: Path) -> None:
    """`milbuild.gpt2.build` is for GPT-2 only, and says whose checkpoint it got."""
    by_hand.checkpoint(tmp_path / "c", config={"model_type": "bert"})
    assert "c is a bert, not a gpt2" in message(milbuild.gpt2.build, tmp_path / "c")


# Values that a package must not hold

BAD_VALUES = {
    "NaN": ([np.nan, np.nan], "2 of 128 values are NaN and 0 are infinite"),
    "infinity": ([-np.inf, 1.0], "0 of 128 values are NaN and 1 are infinite"),
    "NaN and overflow": ([np.nan, 1e5], "1 of 128 values are NaN and 0 are infinite"),
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", BAD_VALUES)
def test_not_finite(name: str, precision: str, command: CommandLine, tmp_path: Path) -> None:
    values, words = BAD_VALUES[name]
    arrays = by_hand.tensors()
    arrays[BIAS][: len(values)] = values
    by_hand.checkpoint(tmp_path / "c", arrays)
    arguments = ("build", "c", "out.mlpackage", "--precision", precision)
    refused(command, tmp_path, *arguments, words=(f"{BIAS}: {words}",), hint="no precision can hold")


@pytest.mark.parametrize("name", [BIAS, BIAS.replace("bias", "weight"), WTE], ids=["plain", "transposed", "table"])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float64], ids=["F32", "BF16", "F64"])
def test_overflow(name: str, dtype: Any, command: CommandLine, tmp_path: Path) -> None:
    """Values beyond float16: the tensor's name, how many, the largest, and the precision that holds them."""
    arrays = {key: array.astype(dtype) for key, array in by_hand.tensors().items()}
    flat = arrays[name].reshape(-1)
    flat[[3, 7, -1]] = [70000, -(2**17), 65504]  # the last is the largest that fits
    if dtype is ml_dtypes.bfloat16:
        flat[-1] = 65280
    by_hand.checkpoint(tmp_path / "c", arrays)
    words = (f"{name}: 2 of {flat.size:,} values overflow float16, the largest is 131072; float16 ends at 65504",)
    refused(command, tmp_path, "build", "c", "out.mlpackage", words=words, hint="precision float32")
    result = command("build", "c", "out.mlpackage", "--precision", "float32", cwd=tmp_path)
    assert result.code == 0, result.err


def test_overflow_of_float32(tmp_path: Path) -> None:
    arrays = {name: array.astype(np.float64) for name, array in by_hand.tensors().items()}
    arrays[BIAS][5] = 1e300
    by_hand.checkpoint(tmp_path / "c", arrays)
    model = milbuild.build(tmp_path / "c", precision="float32")
    text = message(model.save, tmp_path / "out.mlpackage")
    assert f"{BIAS}: 1 of 128 values overflow float32, the largest is 1e+300" in text
    assert "hint: Build with precision float32" not in text
    assert sorted(os.listdir(tmp_path)) == ["c"]


# Options

LONGEST = by_hand.POSITIONS

# name -> (options of the command line, words of the message, words of the hint)
OPTIONS: dict[str, tuple[str, tuple[str, ...], str | None]] = {
    "sequence beyond n_positions": ("--sequence-length 25", ("sequence_length", "25", "24"), None),
    "range beyond n_positions": ("--sequence-length 1:25", ("sequence_length", "25", "24"), None),
    "list beyond n_positions": ("--sequence-length 25,8", ("sequence_length", "25", "24"), None),
    "context beyond n_positions": ("--cache state --context-length 25", ("context_length", "25", "24"), "position"),
    "context range beyond n_positions": ("--cache io --context-length 1:25", ("context_length", "25", "24"), None),
    "sequence beyond the context": (
        "--cache state --context-length 8 --sequence-length 9",
        ("sequence_length", "9", "context_length is 8"),
        None,
    ),
    "prefill beyond the context": (
        "--cache state --context-length 8 --prefill-length 9",
        ("prefill_length", "8"),
        None,
    ),
    "sequence_length 0": ("--sequence-length 0", ("sequence_length is 0", "at least 1"), None),
    "sequence_length negative": ("--sequence-length=-5", ("sequence_length is -5", "at least 1"), None),
    "sequence_length from 0": ("--sequence-length 0:8", ("sequence_length is 0:8", "at least 1"), None),
    "sequence_length listed 0": ("--sequence-length 4,0", ("sequence_length is 4,0", "at least 1"), None),
    "sequence_length backwards": ("--sequence-length 9:3", ("sequence_length", "9:3"), "lowest length first"),
    "sequence_length garbage": ("--sequence-length many", ("sequence_length is 'many'",), "1:128"),
    "sequence_length a fraction": ("--sequence-length 1.5", ("sequence_length is '1.5'",), "1:128"),
    "sequence_length of three ends": ("--sequence-length 1:2:3", ("sequence_length is '1:2:3'",), "1:128"),
    "sequence_length open": ("--sequence-length 1:", ("sequence_length is '1:'",), "1:128"),
    "sequence_length a comma": ("--sequence-length 1,", ("sequence_length is '1,'",), "1:128"),
    "sequence_length empty": ("--sequence-length=", ("sequence_length is ''",), "1:128"),
    "context_length 0": ("--cache state --context-length 0", ("context_length is 0", "at least 1"), None),
    "context_length garbage": ("--cache state --context-length x", ("context_length is 'x'",), "1:128"),
    "context_length a list": ("--cache state --context-length 8,9", ("context_length is 8,9; it is one number",), None),
    "context_length a list for io": (
        "--cache io --context-length 8,9",
        ("context_length is 8,9; it is one number",),
        None,
    ),
    "context_length a range for a state": (
        "--cache state --context-length 1:9",
        ("context_length is 1:9",),
        "cache io",
    ),
    "context_length without a cache": ("--context-length 8", ("context_length", "cache is none"), "sequence_length"),
    "prefill_length 0": ("--cache state --prefill-length 0", ("prefill_length is 0",), None),
    "prefill_length negative": ("--cache state --prefill-length=-1", ("prefill_length is -1",), None),
    "prefill_length without a cache": ("--prefill-length 8", ("prefill_length", "cache is none"), "cache state"),
    "prefill_length with a range": (
        "--cache state --prefill-length 8 --sequence-length 1:4",
        ("prefill_length", "fixed sequence_length"),
        "one token",
    ),
    "prefill_length with a list": (
        "--cache state --prefill-length 8 --sequence-length 1,4",
        ("prefill_length", "fixed sequence_length"),
        "one token",
    ),
    "prefill_length on iOS17": (
        "--cache io --prefill-length 8 --target iOS17",
        ("prefill_length", "iOS17", "iOS18"),
        "iOS18",
    ),
    "prefill_length for swift-transformers": (
        "--cache state --prefill-length 8 --interface swift-transformers",
        ("swift-transformers", "ranged main"),
        None,
    ),
    "a state on iOS17": ("--cache state --target iOS17", ("a state needs iOS18", "iOS17"), "target iOS18"),
    "a state on iOS15": ("--cache state --target iOS15", ("a state needs iOS18", "iOS15"), "target iOS18"),
    "listed lengths of two inputs on iOS17": (
        "--sequence-length 4,8 --attention-mask --target iOS17",
        ("listed lengths", "iOS17"),
        "target iOS18",
    ),
    "batch_size 0": ("--batch-size 0", ("batch_size is 0",), None),
    "batch_size negative": ("--batch-size=-2", ("batch_size is -2",), None),
    "batch_size with a cache": ("--cache state --batch-size 2", ("batch_size is 2", "one sequence"), "batch size 1"),
    "attention_mask with a state": ("--cache state --attention-mask", ("attention_mask",), "position"),
    "attention_mask with io": ("--cache io --attention-mask", ("attention_mask",), "Leave it out"),
    "a cache for a task that has none": (
        "--task token-classification --cache state",
        ("token-classification has no cache",),
        "cache none",
    ),
    "a cache by the task's name": (
        "--task text-classification-with-past",
        ("text-classification has no cache",),
        "cache none",
    ),
    "with-past without a cache": (
        "--task text-generation-with-past --cache none",
        ("text-generation-with-past asks for a cache",),
        "cache io or state",
    ),
    "logits last of another task": (
        "--task feature-extraction --logits last",
        ("logits last", "feature-extraction"),
        None,
    ),
    "logits last for swift-transformers": (
        "--cache state --interface swift-transformers --logits last",
        ("swift-transformers", "logits all"),
        None,
    ),
    "one token a call for swift-transformers": (
        "--cache state --interface swift-transformers --sequence-length 1",
        ("swift-transformers needs a ranged sequence_length", "it is 1"),
        "whole context",
    ),
    "interface milbuild with io": (
        "--cache io --interface milbuild",
        ("milbuild has no cache io", "none, state"),
        "hf",
    ),
    "interface hf with a state": ("--cache state --interface hf", ("hf has no cache state", "none, io"), "milbuild"),
    "interface swift-transformers with io": (
        "--cache io --interface swift-transformers",
        ("swift-transformers has no cache io",),
        "hf",
    ),
    "fixed past with a ranged call": (
        "--cache io --context-length 8 --sequence-length 1:4",
        ("fixed past", "sequence_length"),
        "a past that grows",
    ),
    "no slot for the past": (
        "--cache io --context-length 8 --sequence-length 8",
        ("context_length 8 leaves no slot for the past",),
        "at least one slot",
    ),
    "no slot for the past of prefill": (
        "--cache io --context-length 8 --prefill-length 8",
        ("context_length 8 leaves no slot for the past",),
        "at least one slot",
    ),
    "unknown task": ("--task write-poems", ("there is no task 'write-poems'", "text-generation"), None),
    "unknown task with-past": ("--task write-poems-with-past", ("there is no task 'write-poems-with-past'",), None),
    "unknown cache": ("--cache disk", ("cache is 'disk'; it must be one of none, io, state",), None),
    "unknown interface": ("--interface rust", ("interface is 'rust'; it must be one of", *INTERFACES), None),
    "unknown precision": ("--precision int4", ("precision is 'int4'; it must be one of", *PRECISIONS), None),
    "unknown target": ("--target iOS14", ("target is 'iOS14'; it must be one of", *TARGETS), None),
    "unknown logits": ("--logits first", ("logits is 'first'; it must be one of all, last",), None),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_do_not_fit(name: str, command: CommandLine, whole: Path) -> None:
    options, words, hint = OPTIONS[name]
    refused(command, whole, "build", "c", "out.mlpackage", *options.split(), words=words, hint=hint)


# What the command line's own types keep out, and Python lets through
IN_PYTHON: dict[str, tuple[dict[str, Any], str]] = {
    "sequence_length a fraction": ({"sequence_length": 1.5}, "sequence_length"),
    "sequence_length true": ({"sequence_length": True}, "sequence_length"),
    "sequence_length an empty list": ({"sequence_length": []}, "sequence_length"),
    "sequence_length an empty tuple": ({"sequence_length": ()}, "sequence_length"),
    "sequence_length a tuple of three": ({"sequence_length": (1, 2, 3)}, "sequence_length"),
    "sequence_length a list of text": ({"sequence_length": ["4"]}, "sequence_length"),
    "sequence_length 0": ({"sequence_length": 0}, "sequence_length is 0"),
    "context_length 0": ({"cache": "state", "context_length": 0}, "context_length is 0"),
    "context_length a dictionary": ({"cache": "state", "context_length": {1: 2}}, "context_length"),
    "batch_size text": ({"batch_size": "2"}, "batch_size is '2'"),
    "batch_size true": ({"batch_size": True}, "batch_size is True"),
    "batch_size a fraction": ({"batch_size": 2.0}, "batch_size is 2.0"),
    "prefill_length text": ({"cache": "state", "prefill_length": "8"}, "prefill_length is '8'"),
    "prefill_length true": ({"cache": "state", "prefill_length": True}, "prefill_length is True"),
    "cache a list": ({"cache": ["state"]}, "cache is ['state']"),
    "target a number": ({"target": 18}, "target is 18"),
}


@pytest.mark.parametrize("name", IN_PYTHON)
def test_options_that_do_not_fit_in_python(name: str, whole: Path) -> None:
    options, words = IN_PYTHON[name]
    assert words in message(milbuild.build, whole / "c", **options)


def test_more_than_128_lengths(tmp_path: Path) -> None:
    arrays = by_hand.tensors() | {"transformer.wpe.weight": np.zeros((200, WIDTH), np.float32)}
    by_hand.checkpoint(tmp_path / "c", arrays, config={"n_positions": 200})
    text = message(milbuild.build, tmp_path / "c", sequence_length=list(range(1, 130)))
    assert "129 lengths are listed; Core ML takes 128 at most" in text
    assert "hint: Use a range" in text
    milbuild.build(tmp_path / "c", sequence_length=[*range(1, 129), 1, 2, 3])  # the same length twice is one length


def test_batch_of_a_classifier_without_padding_token(tmp_path: Path) -> None:
    arrays = by_hand.tensors() | {"score.weight": np.zeros((2, WIDTH), np.float32)}
    config = {"architectures": ["GPT2ForSequenceClassification"]}
    by_hand.checkpoint(tmp_path / "c", arrays, config=config)
    assert "pad_token_id" in message(milbuild.build, tmp_path / "c", batch_size=2)
    milbuild.build(tmp_path / "c")
    by_hand.checkpoint(tmp_path / "c", arrays, config=config | {"pad_token_id": 0})
    milbuild.build(tmp_path / "c", batch_size=2)


# Where the package goes


def test_output_that_exists(command: CommandLine, whole: Path, tmp_path: Path) -> None:
    by_hand.checkpoint(tmp_path / "c")
    shutil.copytree(whole / "p.mlpackage", tmp_path / "out.mlpackage")
    (tmp_path / "out.mlpackage" / "notes.txt").write_text("mine")
    for output in ("out.mlpackage", "out"):
        refused(command, tmp_path, "build", "c", output, words=("out.mlpackage exists",), hint="--force")
    result = command("build", "c", "out.mlpackage", "--force", cwd=tmp_path)
    assert result.code == 0, result.err
    assert sorted(os.listdir(tmp_path)) == ["c", "out.mlpackage"]
    assert sorted(os.listdir(tmp_path / "out.mlpackage")) == ["Data", "Manifest.json"]


@pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "--force"])
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_output_that_is_no_package(
    kind: str, force: tuple[str, ...], command: CommandLine, whole: Path, tmp_path: Path
) -> None:
    """It is never replaced, not by --force and not by `Model.save`, which replaces packages as coremltools' does."""
    by_hand.checkpoint(tmp_path / "c")
    output = tmp_path / "out.mlpackage"
    if kind == "file":
        output.write_text("mine")
    elif kind == "link":
        output.symlink_to(tmp_path / "nowhere.mlpackage")
    else:
        output.mkdir()
        (output / "notes.txt").write_text("mine")
    words = ("out.mlpackage is not a package",) if force else ("out.mlpackage exists",)
    hint = "move it away" if force else "--force"
    refused(command, tmp_path, "build", "c", "out.mlpackage", *force, words=words, hint=hint)
    before = files(tmp_path)
    assert "out.mlpackage is not a package" in message(milbuild.build(whole / "c").save, output)
    assert files(tmp_path) == before


def test_output_that_is_an_empty_folder(command: CommandLine, tmp_path: Path) -> None:
    by_hand.checkpoint(tmp_path / "c")
    (tmp_path / "out.mlpackage").mkdir()
    refused(command, tmp_path, "build", "c", "out.mlpackage", words=("out.mlpackage exists",), hint="--force")
    assert command("build", "c", "out.mlpackage", "--force", cwd=tmp_path).code == 0
    assert (tmp_path / "out.mlpackage" / "Manifest.json").is_file()


def test_save_replaces_a_package_unless_told_not_to(whole: Path, tmp_path: Path) -> None:
    model, target = milbuild.build(whole / "c"), tmp_path / "out.mlpackage"
    model.save(target)
    before = files(tmp_path)
    text = message(lambda: model.save(target, replace=False))
    assert "out.mlpackage exists" in text
    assert "replace=True" in text
    assert files(tmp_path) == before
    model.save(target)
    assert files(tmp_path) != before


@pytest.mark.parametrize("moment", ["temporary.put", "os.rename"])
def test_output_that_appears_meanwhile(moment: str, command: CommandLine, whole: Path, tmp_path: Path) -> None:
    """Of two builds onto one path only one says "Built", however late the other one ends."""
    shutil.copytree(whole / "c", tmp_path / "c")
    first = f"""
import os, shutil
from milbuild.lowering import temporary
real = {moment}
def late(made, *rest):
    if str(made).endswith(".partial") and not os.path.lexists("out.mlpackage"):
        shutil.copytree({str(whole / "p.mlpackage")!r}, "out.mlpackage")
    return real(made, *rest)
{moment} = late
"""
    result = command("build", "c", "out.mlpackage", cwd=tmp_path, first=first)
    assert_refused(result, "out.mlpackage exists", hint="--force")
    assert sorted(os.listdir(tmp_path)) == ["c", "out.mlpackage"]
    assert files(tmp_path / "out.mlpackage") == files(whole / "p.mlpackage")


def test_forced_build_that_fails_keeps_the_old_package(command: CommandLine, tmp_path: Path) -> None:
    arrays = by_hand.tensors()
    arrays[BIAS][0] = np.nan
    by_hand.checkpoint(tmp_path / "c", arrays)
    milbuild.build(by_hand.checkpoint(tmp_path / "whole")).save(tmp_path / "out.mlpackage")
    refused(command, tmp_path, "build", "c", "out.mlpackage", "--force", words=("NaN",))


@pytest.mark.parametrize(
    ("output", "words", "hint"),
    [
        ("file/out.mlpackage", ("there is no folder file",), "mkdir -p file"),
        ("deep/down/out.mlpackage", ("there is no folder deep/down",), "mkdir -p deep/down"),
        ("out.mlmodel", ("out.mlmodel does not end with .mlpackage",), "out.mlpackage"),
        ("out.MLPACKAGE", ("out.MLPACKAGE does not end with .mlpackage",), "out.mlpackage"),
        ("gpt2-v1.5", ("gpt2-v1.5 does not end with .mlpackage",), ".mlpackage"),
        ("", ("",), None),
        ("x" * 300, ("cannot be written", "too long"), None),
    ],
    ids=["parent is a file", "parent is missing", "mlmodel", "capitals", "version", "empty", "too long"],
)
def test_output_that_is_no_place(
    output: str, words: tuple[str, ...], hint: str | None, command: CommandLine, tmp_path: Path
) -> None:
    by_hand.checkpoint(tmp_path / "c")
    (tmp_path / "file").write_text("mine")
    refused(command, tmp_path, "build", "c", output, words=words, hint=hint)


def test_output_in_a_folder_that_is_not_writable(command: CommandLine, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    by_hand.checkpoint(tmp_path / "c")
    (tmp_path / "closed").mkdir(mode=0o555)
    refused(
        command, tmp_path, "build", "c", "closed/out.mlpackage", words=("closed is not writable",), hint="may write"
    )


def test_output_on_a_filesystem_that_is_not_writable(command: CommandLine, tmp_path: Path) -> None:
    """Not even for root."""
    if not Path("/proc/self").is_dir():
        pytest.skip("there is no /proc")
    by_hand.checkpoint(tmp_path / "c")
    refused(command, tmp_path, "build", "c", "/proc/self/out.mlpackage", words=("/proc/self",), hint="folder")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("out.mlmodel", "out.mlmodel does not end with .mlpackage"),
        ("file/out.mlpackage", "file/out.mlpackage cannot be written"),
        ("nowhere/out.mlpackage", "nowhere/out.mlpackage cannot be written"),
    ],
)
def test_save_where_nothing_can_be(target: str, words: str, whole: Path, tmp_path: Path) -> None:
    """`Model.save` makes no folders either: what is refused on the command line is refused in Python."""
    (tmp_path / "file").write_text("mine")
    model = milbuild.build(whole / "c")
    before = files(tmp_path)
    assert words in message(model.save, tmp_path / target)
    assert files(tmp_path) == before


class _Full:
    """A file on a disk that takes `room` bytes more."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: Any) -> int:
        self.room -= len(memoryview(data).cast("B"))
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self.file.write(data))

    def __enter__(self) -> "_Full":
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.mark.parametrize(("file", "room"), [("weight.bin", 0), ("weight.bin", 40_000), ("model.mlmodel", 10)])
@pytest.mark.parametrize("old", [False, True], ids=["new", "replaced"])
def test_full_disk(
    file: str, room: int, old: bool, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write itself says that the disk is full, at the first byte, in the middle, or in the last file."""
    target = tmp_path / "out.mlpackage"
    model = milbuild.build(whole / "c")
    if old:
        shutil.copytree(whole / "p.mlpackage", target)
    before = files(tmp_path)
    open_ = Path.open

    def opened(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        real = open_(path, mode, *arguments, **options)
        return _Full(real, room) if path.name == file and "w" in mode else real

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", opened)
        text = message(model.save, target)
    assert f"the disk of {tmp_path} is full: the package needs 0.1 MB" in text
    assert "hint: Free some space" in text
    assert files(tmp_path) == before
    model.save(target)  # the model is as good as before


@pytest.mark.parametrize("step", [(os, "fsync"), (temporary, "put")], ids=["sync", "put"])
def test_disk_that_fails_at_the_end(
    step: tuple[Any, str], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(*step, fail)
    text = message(milbuild.build(whole / "c").save, tmp_path / "out.mlpackage")
    assert "out.mlpackage cannot be written: Input/output error" in text
    assert files(tmp_path) == {}


def test_rename_that_fails_puts_the_old_package_back(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system that cannot exchange two names in one step."""
    shutil.copytree(whole / "p.mlpackage", tmp_path / "out.mlpackage")
    before = files(tmp_path / "out.mlpackage")
    model = milbuild.build(whole / "c")
    rename = os.rename

    def renamed(path: Path, target: Any) -> None:
        if path.suffix == ".partial":
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(temporary, "_exchange", temporary._exchange_in_steps)
        patch.setattr(os, "rename", renamed)
        assert "cannot be written: Permission denied" in message(model.save, tmp_path / "out.mlpackage")
    assert os.listdir(tmp_path) == ["out.mlpackage"]
    assert files(tmp_path / "out.mlpackage") == before


def test_file_size_limit(command: CommandLine, whole: Path, tmp_path: Path) -> None:
    """A limit of the system that is reached while weight.bin is written."""
    words = ("out.mlpackage cannot be written", "File too large")
    result = command("build", whole / "c", "out.mlpackage", cwd=tmp_path, file_size=50_000)
    assert_refused(result, *words)
    assert os.listdir(tmp_path) == []


def test_disk_that_is_full_indeed(whole: Path, tmp_path: Path) -> None:
    """A real file system of 64 kB in a namespace of its own, where the system lets a user make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=64k none {disk}"
    shell = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    try:
        allowed = subprocess.run([*shell, mount], capture_output=True).returncode == 0
    except OSError:
        allowed = False
    if not allowed:
        pytest.skip("this system lets nobody mount a tmpfs in a namespace of its own")
    build = f"{sys.executable} -m milbuild build {whole / 'c'} {disk / 'out.mlpackage'}"
    done = subprocess.run(
        [*shell, f"{mount} && {{ {build}; code=$?; ls -A {disk}; exit $code; }}"],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    result = Result(done.returncode, done.stdout, done.stderr)
    assert_refused(result, f"the disk of {disk} is full: the package needs 0.1 MB", hint="Free some space")


# Ctrl-C


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 4 GB that takes no room on the disk: all zeros, in a file with a hole."""
    rows = 1 << 25
    config = {"vocab_size": rows, "tie_word_embeddings": True}
    folder = by_hand.checkpoint(tmp_path_factory.mktemp("huge") / "c", config=config)
    small = by_hand.tensors()
    del small[WTE]
    at = sum(array.nbytes for array in small.values())
    nbytes = rows * WIDTH * 4

    def add(header: dict[str, Any]) -> None:
        header[WTE] = {"dtype": "F32", "shape": [rows, WIDTH], "data_offsets": [at, at + nbytes]}

    file = folder / "model.safetensors"
    file.write_bytes(by_hand.safetensors(small, add))
    os.truncate(file, file.stat().st_size + nbytes)
    return folder


@pytest.mark.parametrize(
    ("number", "old"), [(signal.SIGINT, False), (signal.SIGTERM, True)], ids=["Ctrl-C", "SIGTERM while replacing"]
)
def test_interrupted(number: signal.Signals, old: bool, huge: Path, whole: Path, tmp_path: Path) -> None:
    """In the middle of the weights: the signal's exit code, a line that says so, and what stood there before."""
    if old:
        shutil.copytree(whole / "p.mlpackage", tmp_path / "out.mlpackage")
    before = files(tmp_path)
    # A shell without job control lets what it starts in the background ignore Ctrl-C.
    start = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    start += "runpy.run_module('milbuild', run_name='__main__', alter_sys=True)"
    process = subprocess.Popen(
        [sys.executable, "-c", start, "build", str(huge), "out.mlpackage", "--force"],
        cwd=tmp_path,
        env=ENVIRONMENT | {"PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not (begun := list(tmp_path.glob(".*.partial"))) and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(number)
        out, err = process.communicate()
    finally:
        process.kill()
    assert begun, err
    assert files(tmp_path) == before
    assert "Traceback" not in err
    assert (process.returncode, out) == (128 + number, "")
    said = "interrupted" if number == signal.SIGINT else "ended by SIGTERM"
    assert err == f"\nerror: {said}; nothing half-written was left behind\n"


# Packages

MODEL = Path("Data/com.apple.CoreML/model.mlmodel")
WEIGHT = Path("Data/com.apple.CoreML/weights/weight.bin")


def _manifest(**changes: Any) -> Callable[[Path], Any]:
    def spoil(package: Path) -> None:
        content = json.loads((package / "Manifest.json").read_text())
        (package / "Manifest.json").write_text(json.dumps(content | changes))

    return spoil


def _path(path: Any) -> Callable[[Path], Any]:
    return _manifest(itemInfoEntries={"a": {"path": path}}, rootModelIdentifier="a")


DAMAGED: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "nothing there": (shutil.rmtree, ("there is no package", "p.mlpackage")),
    "a file": (lambda p: (shutil.rmtree(p), p.write_text("x")), ("there is no package", "p.mlpackage")),
    "an empty folder": (lambda p: (shutil.rmtree(p), p.mkdir()), ("p.mlpackage has no manifest",)),
    "no manifest": (lambda p: (p / "Manifest.json").unlink(), ("p.mlpackage has no manifest",)),
    "manifest cut off": (lambda p: os.truncate(p / "Manifest.json", 100), ("p.mlpackage has no manifest",)),
    "manifest is a list": (lambda p: (p / "Manifest.json").write_text("[]"), ("p.mlpackage has no manifest",)),
    "manifest is nested without end": (
        lambda p: (p / "Manifest.json").write_text(FOREVER),
        ("p.mlpackage has no manifest",),
    ),
    "manifest without a root": (_manifest(rootModelIdentifier="other"), ("p.mlpackage has no manifest",)),
    "manifest with a list of entries": (_manifest(itemInfoEntries=[]), ("p.mlpackage has no manifest",)),
    "manifest with a number for a path": (_path(5), ("p.mlpackage has no manifest",)),
    "manifest that leads outside": (_path("../../../x"), ("the manifest of p.mlpackage names ../../../x",)),
    "manifest that leads to the root": (_path("/etc/passwd"), ("the manifest of p.mlpackage names /etc/passwd",)),
    "no model": (lambda p: (p / MODEL).unlink(), ("p.mlpackage: model.mlmodel cannot be read",)),
    "empty model": (lambda p: (p / MODEL).write_bytes(b""), ("p.mlpackage: model.mlmodel",)),
    "garbage model": (lambda p: (p / MODEL).write_bytes(b"\xff" * 500), ("p.mlpackage: model.mlmodel cannot be read",)),
    "model cut off": (
        lambda p: os.truncate(p / MODEL, (p / MODEL).stat().st_size // 2),
        ("p.mlpackage: model.mlmodel cannot be read",),
    ),
    "no weights": (lambda p: (p / WEIGHT).unlink(), ("p.mlpackage has no weights/weight.bin",)),
    "empty weights": (lambda p: (p / WEIGHT).write_bytes(b""), ("p.mlpackage", "weights/weight.bin")),
    "weights cut off in the header": (
        lambda p: os.truncate(p / WEIGHT, 10),
        ("p.mlpackage: weights/weight.bin has 10 bytes",),
    ),
    "weights cut off": (
        lambda p: os.truncate(p / WEIGHT, (p / WEIGHT).stat().st_size - 100),
        ("p.mlpackage: weights/weight.bin",),
    ),
    "weights of zeros": (
        lambda p: (p / WEIGHT).write_bytes(bytes((p / WEIGHT).stat().st_size)),
        ("p.mlpackage: weights/weight.bin has no float16 value",),
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_inspect_damaged_package(name: str, command: CommandLine, whole: Path, tmp_path: Path) -> None:
    spoil, words = DAMAGED[name]
    shutil.copytree(whole / "p.mlpackage", tmp_path / "p.mlpackage")
    spoil(tmp_path / "p.mlpackage")
    hint = None if "leads" in name else "package"
    refused(
        command, tmp_path, "inspect", "p.mlpackage", *(["--json"] if "weights" in name else []), words=words, hint=hint
    )


@pytest.mark.parametrize("name", DAMAGED)
def test_use_damaged_package(name: str, whole: Path, tmp_path: Path) -> None:
    """The same words from whoever opens it."""
    spoil, words = DAMAGED[name]
    package = tmp_path / "p.mlpackage"
    shutil.copytree(whole / "p.mlpackage", package)
    spoil(package)
    before = files(tmp_path)

    def play() -> None:
        list(TextStream(package, Words(), "3 4 5", max_new_tokens=1))

    for use in (play, lambda: milbuild.validate(package, whole / "c")):
        text = message(use)
        assert all(word in text for word in words), text
    assert files(tmp_path) == before


def test_generate_command_on_what_is_no_package(command: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "p.mlpackage").mkdir()
    arguments = ("generate", "p.mlpackage", "--tokenizer", "c", "--prompt", "hello")
    refused(command, tmp_path, *arguments, words=("p.mlpackage has no manifest",), hint="Manifest.json")


def test_package_that_milbuild_did_not_build(whole: Path, tmp_path: Path) -> None:
    package = tmp_path / "p.mlpackage"
    shutil.copytree(whole / "p.mlpackage", package)
    model = milbuild.Model(package)
    for key in [key for key in model.user_defined_metadata if key.startswith("milbuild.")]:
        del model.user_defined_metadata[key]
    model.save(package)
    assert "p.mlpackage was not built by milbuild" in message(milbuild.validate, package, whole / "c")
    assert "p.mlpackage was not built by milbuild" in message(TextStream, package, Words(), "1 2")


@pytest.mark.parametrize("options", ["{", "[]", '{"task": "text-generation"}'])
def test_package_with_damaged_options(options: str, whole: Path, tmp_path: Path) -> None:
    package = tmp_path / "p.mlpackage"
    model = milbuild.Model(whole / "p.mlpackage")
    model.user_defined_metadata["milbuild.options"] = options
    model.save(package)
    assert "p.mlpackage" in message(milbuild.validate, package, whole / "c")


def test_function_that_the_package_has_not(whole: Path) -> None:
    text = message(milbuild.Model, whole / "p.mlpackage", function_name="prefill")
    assert "the package has no function prefill; it has main" in text


@pytest.mark.parametrize(
    "config",
    [{"vocab_size": 40}, {"vocab_size": 90}, {"n_positions": 4}, {"n_embd": 64}, {"n_layer": 1}, {"n_head": 8}],
    ids=lambda config: " ".join(f"{key} {value}" for key, value in config.items()),
)
@pytest.mark.parametrize("cache", ["none", "state"])
def test_validate_with_another_checkpoint(
    config: dict[str, int], cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never a traceback: what cannot be compared is refused, what can be is compared and fails."""
    for name, value in {
        "WIDTH": "n_embd",
        "LAYERS": "n_layer",
        "VOCABULARY": "vocab_size",
        "POSITIONS": "n_positions",
    }.items():
        if value in config:
            monkeypatch.setattr(by_hand, name, config[value])
    by_hand.checkpoint(tmp_path / "other", by_hand.tensors(seed=1), config=config)
    monkeypatch.undo()
    by_hand.checkpoint(tmp_path / "c")
    milbuild.build(tmp_path / "c", cache=cache, sequence_length=8 if cache == "none" else 1).save(
        tmp_path / "p.mlpackage"
    )
    try:
        verdict = milbuild.validate(tmp_path / "p.mlpackage", tmp_path / "other").verdict
    except milbuild.Error as error:
        verdict = str(error)
    assert verdict == "failed" or any(words in verdict for words in ("other", "p.mlpackage", "do not match")), verdict


def test_validate_with_another_checkpoint_of_the_same_shape(whole: Path, tmp_path: Path) -> None:
    by_hand.checkpoint(tmp_path / "other", by_hand.tensors(seed=1))
    assert not milbuild.validate(whole / "p.mlpackage", tmp_path / "other").passed
    assert milbuild.validate(whole / "p.mlpackage", whole / "c").passed


def test_validate_command_with_another_checkpoint(whole: Path, tmp_path: Path) -> None:
    """Through the real command line: 2, it could not compare."""
    by_hand.checkpoint(tmp_path / "other", config={"model_type": "zebra"})
    refused(run, tmp_path, "validate", whole / "p.mlpackage", "other", words=("other", "zebra"))


def test_validate_with_a_broken_checkpoint(whole: Path, tmp_path: Path) -> None:
    by_hand.checkpoint(tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").write_bytes(b"garbage!" * 9)
    text = message(milbuild.validate, whole / "p.mlpackage", tmp_path / "other")
    assert "other" in text or "model.safetensors" in text
    (tmp_path / "other" / "config.json").unlink()
    assert "other" in message(milbuild.validate, whole / "p.mlpackage", tmp_path / "other")
    assert "no folder" in message(milbuild.validate, whole / "p.mlpackage", tmp_path / "nowhere")


# Generation


class Words:
    """A tokenizer whose tokens are numbers with spaces between them."""

    eos_token_id = None

    def encode(self, text: str) -> list[int]:
        return [int(word) % VOCABULARY for word in text.split()]

    def decode(self, tokens: list[int], **_: Any) -> str:
        return " ".join(map(str, tokens))


GENERATED = {
    "prompt longer than the context": ({"prompt": "1 " * 9}, "the prompt has 9 tokens, the context 8"),
    "empty prompt": ({"prompt": ""}, "the prompt has no token"),
    "max_new_tokens beyond the context": ({"max_new_tokens": 7}, "max_new_tokens is 7; after 3 tokens"),
    "max_new_tokens 0": ({"max_new_tokens": 0}, "max_new_tokens is 0"),
    "max_new_tokens negative": ({"max_new_tokens": -1}, "max_new_tokens is -1"),
    "temperature 0": ({"temperature": 0.0}, "temperature is 0.0"),
    "temperature NaN": ({"temperature": float("nan")}, "temperature is nan"),
    "top_k 0": ({"top_k": 0}, "top_k is 0"),
    "top_p 0": ({"top_p": 0.0}, "top_p is 0"),
    "top_p 2": ({"top_p": 2.0}, "top_p is 2"),
    "top_p NaN": ({"top_p": float("nan")}, "top_p is nan"),
    "seed negative": ({"seed": -1}, "seed is -1"),
}


@pytest.mark.parametrize("name", GENERATED)
def test_generate_what_cannot_be(name: str, whole: Path) -> None:
    options, words = GENERATED[name]
    arguments = {"package": whole / "p.mlpackage", "tokenizer": Words(), "prompt": "1 2 3"} | options
    assert words in message(milbuild.generate, **arguments)


def test_generate_fills_the_context(whole: Path) -> None:
    """The most that is allowed is indeed possible."""
    stream = TextStream(whole / "p.mlpackage", Words(), "1 2 3", max_new_tokens=6)
    assert "".join(stream)
    assert len(stream.tokens) == 6


def test_generate_with_a_prompt_of_unknown_tokens(whole: Path) -> None:
    """A tokenizer of another model names tokens that the package has no embedding for."""

    class Strange(Words):
        def encode(self, text: str) -> list[int]:
            return [VOCABULARY + 5]

    assert "p.mlpackage" in message(milbuild.generate, whole / "p.mlpackage", Strange(), "1")


def test_generate_with_a_package_of_another_task(whole: Path, tmp_path: Path) -> None:
    milbuild.build(whole / "c", task="feature-extraction", sequence_length=8).save(tmp_path / "p.mlpackage")
    text = message(milbuild.generate, tmp_path / "p.mlpackage", Words(), "1 2")
    assert "the package is for feature-extraction, not for text-generation" in text


def test_session_beyond_the_context(whole: Path) -> None:
    model = milbuild.build(whole / "c", cache="state", context_length=6)
    session = Session(model)
    assert "7 tokens do not fit into the context of 6" in message(session.feed, [1] * 7)
    session.feed([1] * 6)
    assert "7 tokens do not fit into the context of 6" in message(session.feed, [1])
    assert "no token to feed" in message(session.feed, [])


TOKENIZER = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "WhitespaceSplit"},
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {f"w{i}": i for i in range(VOCABULARY)}, "unk_token": "w0"},
}


@pytest.fixture(scope="module")
def spoken(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole folder, its checkpoint with a tokenizer."""
    folder = tmp_path_factory.mktemp("spoken") / "s"
    shutil.copytree(whole, folder)
    (folder / "c" / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (folder / "c" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    milbuild.build(folder / "c", sequence_length=8).save(folder / "p.mlpackage")
    return folder


def test_generate_command(spoken: Path, command: CommandLine) -> None:
    """It writes; and a prompt or a request beyond the context is refused before anything is written."""
    arguments = ("generate", "p.mlpackage", "--prompt")  # with the tokenizer of the checkpoint it was built from
    result = command(*arguments, "w1 w2 w3", "--max-new-tokens", "2", "--json", cwd=spoken)
    assert result.code == 0, result.err
    assert len(json.loads(result.out)["tokens"]) == 2
    words = ("the prompt has 9 tokens, the context 8",)
    refused(command, spoken, *arguments, "w1 " * 9, words=words, hint="Shorten the prompt")


def test_generate_away_from_the_checkpoint(spoken: Path, command: CommandLine, tmp_path: Path) -> None:
    shutil.copytree(spoken / "p.mlpackage", tmp_path / "p.mlpackage")
    """It takes a folder of the checkpoint's name, beside the package or here, that has the very tokenizer, and no other one."""
    arguments = ("generate", "p.mlpackage", "--prompt", "w1")
    gone = ("was built from c, which is neither here nor beside the package",)
    refused(command, tmp_path, *arguments, words=gone, hint="--tokenizer FOLDER")
    other = json.dumps(TOKENIZER).replace('"w1"', '"one"')
    (tmp_path / "c").mkdir()
    for content in (None, other):
        if content is not None:
            (tmp_path / "c" / "tokenizer.json").write_text(content)
        words = ("was built from c", "c has another tokenizer or none")
        refused(command, tmp_path, *arguments, words=words, hint="--tokenizer FOLDER")
    shutil.copy(spoken / "c" / "tokenizer.json", tmp_path / "c")
    assert command(*arguments, cwd=tmp_path).code == 0
    (tmp_path / "elsewhere").mkdir()
    arguments = ("generate", tmp_path / "p.mlpackage", "--prompt", "w1")
    assert command(*arguments, cwd=tmp_path / "elsewhere").code == 0


@pytest.mark.parametrize(("size", "code"), [(VOCABULARY - 1, 0), (VOCABULARY, 0), (VOCABULARY + 1, 2)])
@pytest.mark.parametrize("length", [8, (1, 8)], ids=["fixed", "ranged"])
def test_generate_with_a_tokenizer_of_another_size(
    size: int, code: int, length: Any, spoken: Path, command: CommandLine, tmp_path: Path
) -> None:
    """Fewer tokens are remarked on, as some checkpoints have rows to spare; more cannot be right."""
    milbuild.build(spoken / "c", sequence_length=length).save(tmp_path / "p.mlpackage")
    folder = tmp_path / "t"
    shutil.copytree(spoken / "c", folder)
    model = TOKENIZER["model"] | {"vocab": {f"w{i}": i for i in range(size)}}
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER | {"model": model}))
    result = command("generate", "p.mlpackage", "--tokenizer", "t", "--prompt", "w1", "--json", cwd=tmp_path)
    said = f"the tokenizer has {size} tokens, and the package knows {VOCABULARY}"
    assert result.code == code, result.err
    assert (said in result.err) == (size != VOCABULARY)
    if size < VOCABULARY:
        with pytest.warns(UserWarning, match=said):
            milbuild.generate(tmp_path / "p.mlpackage", folder, "w1")


def test_generate_with_the_checkpoint_s_own_tokenizer_of_few_tokens(
    spoken: Path, command: CommandLine, tmp_path: Path
) -> None:
    """Tables of embeddings are padded: nothing is remarked on then."""
    shutil.copytree(spoken / "c", tmp_path / "c")
    model = TOKENIZER["model"] | {"vocab": {f"w{i}": i for i in range(VOCABULARY - 5)}}
    (tmp_path / "c" / "tokenizer.json").write_text(json.dumps(TOKENIZER | {"model": model}))
    milbuild.build(tmp_path / "c", sequence_length=8).save(tmp_path / "p.mlpackage")
    for chosen in ((), ("--tokenizer", "c")):
        result = command("generate", "p.mlpackage", *chosen, "--prompt", "w1", cwd=tmp_path)
        assert result.code == 0, result.err
        assert "the tokenizer has" not in result.err


def test_a_package_built_without_a_tokenizer_says_so(whole: Path, command: CommandLine) -> None:
    arguments = ("generate", "p.mlpackage", "--prompt", "w1")
    words = ("was built from c, which had no tokenizer",)
    refused(command, whole, *arguments, words=words, hint="--tokenizer FOLDER")


def test_generate_without_a_tokenizer(whole: Path, command: CommandLine) -> None:
    arguments = ("generate", "p.mlpackage", "--tokenizer", "c", "--prompt", "w1")
    refused(command, whole, *arguments, words=("c has no tokenizer",))


# Without PyTorch

EXTRA = "pip install 'milbuild[validate]'"


def test_library_without_torch(whole: Path, tmp_path: Path) -> None:
    """Build, save, open and inspect in Python, where `import torch` fails; `predict` and `validate` say what to install."""
    script = f"""
import sys
sys.modules["torch"] = None
import milbuild
from milbuild.inspection import inspect
model = milbuild.build({str(whole / "c")!r}, cache="state")
model.save("out.mlpackage")
print(sum(function.total for function in inspect("out.mlpackage").functions.values()) > 0)
for name, call in dict(
    predict=lambda: milbuild.Model("out.mlpackage").predict({{}}),
    state=lambda: model.make_state(),
    validate=lambda: milbuild.validate("out.mlpackage", {str(whole / "c")!r}),
).items():
    try:
        call()
    except milbuild.Error as error:
        print(name, {EXTRA!r} in error.hint, "PyTorch" in error.message)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    predict = [] if sys.platform == "darwin" else ["predict True True", "state True True"]
    assert done.stdout.splitlines() == ["True", *predict, "validate True True"]


def test_commands_without_torch(spoken: Path, command: CommandLine, tmp_path: Path) -> None:
    package = tmp_path / "out.mlpackage"
    for arguments in (("list",), ("build", "c", package, "--json"), ("inspect", package), ("--help",), ("--version",)):
        result = command(*arguments, cwd=spoken, hide=("torch",))
        assert (result.code, result.out != "") == (0, True), result.err


@pytest.mark.skipif(sys.platform == "darwin", reason="on macOS Core ML itself predicts")
def test_generate_command_without_torch(spoken: Path, command: CommandLine) -> None:
    arguments = ("generate", "p.mlpackage", "--tokenizer", "c", "--prompt", "w1 w2 w3")
    result = command(*arguments, cwd=spoken, hide=("torch",))
    assert_refused(result, "PyTorch", hint=EXTRA)


def test_validate_command_without_torch(spoken: Path, command: CommandLine) -> None:
    result = command("validate", "p.mlpackage", "c", cwd=spoken, hide=("torch",))
    assert_refused(result, "validate needs PyTorch", hint=EXTRA)


@pytest.mark.skipif(sys.platform == "darwin", reason="on macOS Core ML itself predicts")
def test_demo_command_without_torch(spoken: Path, command: CommandLine) -> None:
    result = command("demo", "--json", cwd=spoken, hide=("torch",))
    assert_refused(result, "PyTorch", hint=EXTRA)
