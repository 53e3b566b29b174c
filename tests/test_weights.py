"""From files to weight.bin: what stands in a checkpoint stands in the package, converted exactly, wherever it lay."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import milbuild
from milbuild.architectures.gpt2 import GPT2
from milbuild.package.reader import Package
from milbuild.program.metadata import COMMIT_KEY
from milbuild.weights import Checkpoint, Cursor, Tensor, Unread, checkpoint
from milbuild.weights import safetensors as reader
from milbuild.weights.tensor import PIECE, _converted
from tests.conftest import PROFILE
from tests.conftest import checkpoint as checkpoint_of
from tests.helpers import checkpoints_by_hand as by_hand
from tests.helpers.checkpoints_by_hand import LAYERS, POSITIONS, VOCABULARY, WIDTH
from tests.helpers.command_line import CommandLine, assert_refused, files
from tests.tiny import TABLE as TABLE_OF_ALL

HALF, SINGLE = np.dtype(np.float16), np.dtype(np.float32)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
HEADERS = 35_000 if PROFILE == "fuzz" else 200
QUICK = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def command(hub: Path) -> Iterator[CommandLine]:
    with CommandLine(HF_HUB_CACHE=str(hub)) as line:
        yield line


def content(package: Path) -> dict[str, bytes]:
    """Every file of a package with its bytes, but for what names the checkpoint it was built from."""
    return {str(path.relative_to(package)): path.read_bytes() for path in package.rglob("*") if path.is_file()}


def weights(package: Path) -> bytes:
    return (package / "Data/com.apple.CoreML/weights/weight.bin").read_bytes()


def built(source: Path, target: Path, **options: Any) -> Path:
    milbuild.build(source, **options).save(target)
    return target


def constants(package: Path) -> dict[str, np.ndarray]:
    """The arrays of a package's constants, by the names of their operations."""
    operations = Package(package).function("main").operations
    return {op.name: op.attributes["val"] for op in operations if op.type == "const"}


# Where a checkpoint may lie


def test_folder_file_and_shards_are_one_checkpoint(tmp_path: Path) -> None:
    """The same tensors in a folder, as a named file, and in shards give byte-identical packages."""
    folder = by_hand.checkpoint(tmp_path / "one" / "model")
    sharded = by_hand.sharded(tmp_path / "two" / "model")
    named = by_hand.checkpoint(tmp_path / "three" / "model", file="best.safetensors") / "best.safetensors"
    first = content(built(folder, tmp_path / "first.mlpackage"))
    assert sorted(Path(name).name for name in first) == ["Manifest.json", "model.mlmodel", "weight.bin"]
    for source in (sharded, named, folder / "model.safetensors"):
        assert content(built(source, tmp_path / "other.mlpackage")) == first
    for source in (str(folder), folder / "", folder / ".." / "model"):
        assert content(built(source, tmp_path / "other.mlpackage")) == first


def test_a_single_file_goes_before_an_index(tmp_path: Path) -> None:
    """As transformers does where both stand in a folder."""
    folder = by_hand.sharded(tmp_path / "c", by_hand.tensors(seed=1))
    (folder / "model.safetensors").write_bytes(by_hand.safetensors(by_hand.tensors(seed=2)))
    alone = by_hand.checkpoint(tmp_path / "alone", by_hand.tensors(seed=2))
    assert weights(built(folder, tmp_path / "a.mlpackage")) == weights(built(alone, tmp_path / "b.mlpackage"))


def test_a_named_file_goes_before_the_folder(tmp_path: Path) -> None:
    folder = by_hand.checkpoint(tmp_path / "c", by_hand.tensors(seed=1))
    (folder / "step-9.safetensors").write_bytes(by_hand.safetensors(by_hand.tensors(seed=2)))
    alone = by_hand.checkpoint(tmp_path / "alone", by_hand.tensors(seed=2))
    package = built(folder / "step-9.safetensors", tmp_path / "a.mlpackage")
    assert weights(package) == weights(built(alone, tmp_path / "b.mlpackage"))


def test_shards_may_stand_in_folders_below(tmp_path: Path) -> None:
    """As transformers reads them: the index says where."""
    whole = built(by_hand.sharded(tmp_path / "c"), tmp_path / "c.mlpackage")
    moved = by_hand.sharded(tmp_path / "d")
    index = moved / "model.safetensors.index.json"
    listed = json.loads(index.read_text())
    for place in ("a", "b/c", ""):
        name = min(name for name in listed["weight_map"].values() if "/" not in name)
        (moved / place).mkdir(parents=True, exist_ok=True)
        (moved / name).rename(moved / place / name)
        new = f"{place}/{name}" if place else name
        listed["weight_map"] = {key: new if old == name else old for key, old in listed["weight_map"].items()}
    index.write_text(json.dumps(listed))
    assert weights(built(moved, tmp_path / "d.mlpackage")) == weights(whole)


@pytest.mark.parametrize(("prefix", "wrapper"), [("module.", "DataParallel"), ("_orig_mod.", "torch.compile")])
def test_tensors_saved_from_within_a_wrapper(prefix: str, wrapper: str, tmp_path: Path) -> None:
    """transformers finds none of them; what is said to be done makes a checkpoint of it."""
    folder = shutil.copytree(checkpoint_of(), tmp_path / "c")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file({prefix + key: value for key, value in tensors.items()}, path)
    with pytest.raises(milbuild.Error, match=f"every tensor of c begins with '{prefix}'.*{wrapper}") as caught:
        milbuild.build(folder)
    assert f"key.removeprefix('{prefix}')" in str(caught.value)
    save_file({key.removeprefix(prefix): value for key, value in load_file(path).items()}, path)
    milbuild.build(folder)


@pytest.mark.parametrize("shards", [1, 2, 7, 28])
def test_any_number_of_shards(shards: int, tmp_path: Path) -> None:
    whole = built(by_hand.checkpoint(tmp_path / "c"), tmp_path / "c.mlpackage")
    parts = built(by_hand.sharded(tmp_path / "s", shards=shards), tmp_path / "s.mlpackage")
    assert weights(parts) == weights(whole)


def test_what_stands_beside_the_weights_does_not_matter(tmp_path: Path) -> None:
    """Pickles, other formats and unlisted shards in the folder are not read."""
    folder = by_hand.checkpoint(tmp_path / "c")
    for name in ("pytorch_model.bin", "optimizer.pt", "model-00009-of-00009.safetensors", "flax_model.msgpack"):
        (folder / name).write_bytes(b"garbage")
    built(folder, tmp_path / "c.mlpackage")


# The hub's cache

COMMIT, OLD = "a" * 40, "b" * 40


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the repository some/model: `main` at COMMIT, the branch `old` at OLD with other weights; and with
    some/pickle, whose weights are no safetensors."""
    cache = tmp_path_factory.mktemp("hub")
    snapshot = by_hand.checkpoint(cache / "models--some--pickle" / "snapshots" / COMMIT)
    (snapshot / "model.safetensors").rename(snapshot / "pytorch_model.bin")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(COMMIT)
    repository = cache / "models--some--model"
    for branch, commit, seed in (("main", COMMIT, 1), ("old", OLD, 2)):
        by_hand.checkpoint(repository / "snapshots" / commit, by_hand.tensors(seed=seed))
        (repository / "snapshots" / commit / "README.md").write_text("---\nlicense: mit\ntags: [x]\n---\nA model.\n")
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / branch).write_text(commit)
    return cache


@pytest.mark.parametrize(("revision", "seed"), [(None, 1), ("main", 1), ("old", 2), (COMMIT, 1), (OLD, 2)])
def test_hub_id_from_the_cache(
    revision: str | None, seed: int, hub: Path, command: CommandLine, tmp_path: Path
) -> None:
    before = files(hub)
    chosen = () if revision is None else ("--revision", revision)
    result = command("build", "some/model", "out.mlpackage", *chosen, cwd=tmp_path)
    assert result.code == 0, result.err
    same = built(by_hand.checkpoint(tmp_path / "same", by_hand.tensors(seed=seed)), tmp_path / "same.mlpackage")
    assert weights(tmp_path / "out.mlpackage") == weights(same)
    assert files(hub) == before


def test_hub_id_is_named_in_the_package(hub: Path, command: CommandLine, tmp_path: Path) -> None:
    """With the author and the license of the card."""
    command("build", "some/model", "out.mlpackage", cwd=tmp_path)
    found = json.loads(command("inspect", "out.mlpackage", "--json", cwd=tmp_path).out)["metadata"]
    assert (found["milbuild.source"], found["author"], found["license"]) == ("some/model", "some", "mit")
    assert re.fullmatch("[0-9a-f]{40}", found["milbuild.commit"])


@pytest.mark.parametrize(
    ("card", "license_"),
    [
        (None, ""),
        ("no front matter", ""),
        ("---\nlanguage: en\n---\n", ""),
        ("---\nlicense: mit\n---\n", "mit"),
        ('---\nlicense: "apache-2.0"\n---\n', "apache-2.0"),
        ("---\nlicense:\n- bsd\n- mit\n---\n", "bsd"),
        ("---\nlicense: other\nlicense_name: some-license\n---\n", "some-license"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\nlicense: [mit]  # the code\n---\n", "mit"),
        ("---\ntags:\n- license: gpl\nlicense: mit\n---\n", "mit"),
        ("---\nlicense: [a: b: c\n---\n", ""),
        ("---\n- license\n---\n", ""),
        ("---\nlicense: 3\n---\n", ""),
        ("---\nlicense: []\n---\n", ""),
        ("---\nlicense: !!python/object:os.x mit\n---\n", ""),
        ("\ud800", ""),
    ],
)
def test_license_of_the_card(card: str | None, license_: str, tmp_path: Path) -> None:
    """What no card says is not made up."""
    folder = by_hand.checkpoint(tmp_path / "c")
    if card is not None:
        (folder / "README.md").write_text(card, "utf-8", errors="surrogatepass")
    assert milbuild.build(folder).get_spec().description.metadata.license == license_
    assert COMMIT_KEY not in milbuild.build(folder).user_defined_metadata


@pytest.mark.parametrize(
    ("source", "revision", "words"),
    [
        ("some/model", "no-such-branch", "some/model at revision no-such-branch"),
        ("some/model", "c" * 40, f"some/model at revision {'c' * 40}"),
        ("some/other", None, "some/other"),
    ],
)
def test_what_the_cache_has_not(
    source: str, revision: str | None, words: str, hub: Path, command: CommandLine, tmp_path: Path
) -> None:
    before = files(hub)
    chosen = () if revision is None else ("--revision", revision)
    result = command("build", source, "out.mlpackage", *chosen, cwd=tmp_path)
    assert_refused(result, words, "local cache", hint="local cache")
    assert files(tmp_path) == {}
    assert files(hub) == before


def test_hub_id_with_a_pickle_only(command: CommandLine, tmp_path: Path) -> None:
    """A snapshot without safetensors is refused like a folder without them."""
    assert_refused(
        command("build", "some/pickle", "o.mlpackage", cwd=tmp_path), "pickle", hint="safe_serialization=True"
    )
    assert files(tmp_path) == {}


def test_a_folder_goes_before_the_hub(hub: Path, command: CommandLine, tmp_path: Path) -> None:
    by_hand.checkpoint(tmp_path / "some" / "model", by_hand.tensors(seed=3))
    result = command("build", "some/model", "out.mlpackage", cwd=tmp_path)
    assert result.code == 0, result.err
    assert weights(tmp_path / "out.mlpackage") == weights(
        built(tmp_path / "some" / "model", tmp_path / "same.mlpackage")
    )


# Reading safetensors


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Arrays of every type of the format and of many shapes, with any bits."""
    dtype = draw(st.sampled_from(sorted(by_hand.CODES, key=str)))
    shape = draw(st.lists(st.integers(0, 5), max_size=4))
    count = int(np.prod(shape, dtype=int))
    if dtype == np.bool_:
        return np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)), np.bool_).reshape(shape)
    data = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    return np.frombuffer(data, dtype).reshape(shape)


@QUICK
@given(stored=st.dictionaries(st.text(max_size=8).filter(lambda name: name != "__metadata__"), arrays(), max_size=6))
def test_read_is_exact(stored: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Every tensor comes back as it was stored, and nothing can write to it."""
    file = tmp_path / "x.safetensors"
    file.write_bytes(by_hand.safetensors(stored))
    found = reader.read(file)
    assert list(found) == list(stored)
    for name, array in stored.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()
        assert found[name].size == 0 or not found[name].flags.writeable


def test_read_agrees_with_the_formats_own_library(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    stored = {str(dtype): random.integers(0, 2, (3, 4)).astype(dtype) for dtype in by_hand.CODES if dtype != BFLOAT16}
    save_file(stored, tmp_path / "x.safetensors", {"format": "pt", "note": "ä"})
    found, expected = reader.read(tmp_path / "x.safetensors"), load_file(tmp_path / "x.safetensors")
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    (tmp_path / "y.safetensors").write_bytes(by_hand.safetensors(stored))  # and the tests' writer writes the format
    assert load_file(tmp_path / "y.safetensors").keys() == stored.keys()


# Conversion


def every(dtype: Any) -> np.ndarray:
    """All finite values of a type of 16 bits."""
    values = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    with np.errstate(invalid="ignore"):
        return values[np.isfinite(values.astype(np.float64))]


def as_numpy(array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """What numpy makes of an array, flat; bfloat16, which it does not know, goes through float32, where it fits exactly."""
    return np.ascontiguousarray((array.astype(np.float32) if array.dtype == BFLOAT16 else array).astype(dtype)).reshape(
        -1
    )


def converted(array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    pieces = [piece.copy() for piece in Tensor("t", "t", array).pieces(dtype)]
    assert all(piece.ndim == 1 and piece.dtype == dtype for piece in pieces)
    return np.concatenate([*pieces, np.empty(0, dtype)])


def same_bits(value: np.ndarray, expected: np.ndarray) -> None:
    assert value.dtype == expected.dtype
    assert value.tobytes() == np.ascontiguousarray(expected).tobytes()


def test_every_bfloat16_as_float16() -> None:
    """All patterns that are finite and fit, bit by bit; of the others the smallest, and many more one by one."""
    values = every(BFLOAT16)
    with np.errstate(over="ignore"):
        expected = values.astype(np.float32).astype(np.float16)
    fits = np.isfinite(expected)
    assert int(fits.sum()) > 30_000
    same_bits(converted(values[fits], HALF), expected[fits])
    assert expected[fits][np.abs(values[fits].astype(np.float32)) == 1.0].tolist() == [1.0, -1.0]
    refused = values[~fits]
    assert np.abs(refused.astype(np.float32)).min() == 65536
    for value in [*refused[np.abs(refused.astype(np.float32)) == 65536], *refused[::97]]:
        with pytest.raises(milbuild.Error, match="1 of 1 values overflow float16"):
            converted(np.array([value]), HALF)


def test_every_bfloat16_and_float16_as_float32() -> None:
    for dtype in (BFLOAT16, HALF):
        same_bits(converted(every(dtype), SINGLE), every(dtype).astype(np.float32))


def test_every_float16_stays_what_it_is() -> None:
    """-0 and subnormal numbers too."""
    same_bits(converted(every(HALF), HALF), every(HALF))


@pytest.mark.parametrize("target", [HALF, SINGLE], ids=str)
@pytest.mark.parametrize("source", sorted(by_hand.CODES, key=str), ids=str)
def test_every_type_converts_as_numpy_does(source: np.dtype[Any], target: np.dtype[Any]) -> None:
    random = np.random.default_rng(0)
    if source.kind in "iu":
        limit = min(np.iinfo(source).max, 65504)
        array = random.integers(0 if source.kind == "u" else -min(limit, 2000), limit, 10_000).astype(source)
    elif source == np.bool_:
        array = random.integers(0, 2, 10_000).astype(np.bool_)
    else:
        # From numbers that round to zero to the largest: ties of rounding and subnormal numbers among them.
        wide = random.standard_normal(10_000) * 10.0 ** random.uniform(-9, 4, 10_000)
        array = np.clip(np.concatenate([wide, [0.0, -0.0, 2049.0, 2051.0, 65504.0, 2**-25, 2**-24]]), -65504, 65504)
        array = array.astype(source)
        array = array[np.abs(array.astype(np.float64)) < 65520]
    same_bits(converted(array, target), as_numpy(array, target))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, BFLOAT16, HALF], ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, PIECE - 1, PIECE, PIECE + 1])
def test_what_is_not_finite_is_found_everywhere(dtype: Any, bad: float, at: int) -> None:
    """In the first place, the last, and at both sides of a piece's border; straight or transposed."""
    array = np.zeros(PIECE + 2, dtype)
    array[at] = bad
    for data in (array, array.reshape(-1, 2).T, array.reshape(2, -1).T):
        for target in (HALF, SINGLE):
            with pytest.raises(milbuild.Error, match=rf"t: \d of {PIECE + 2:,} values are NaN and \d are infinite"):
                converted(data, target)


SIZES = [0, 1, 2, 63, 64, 65, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE - 1, 2 * PIECE, 2 * PIECE + 1, 3 * PIECE + 17]


def _numbers(count: int, dtype: Any, seed: int = 0) -> np.ndarray:
    """Distinct-looking finite numbers: a piece that is left out, doubled or shifted does not go unseen."""
    return np.random.default_rng(seed).standard_normal(count).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, BFLOAT16, HALF, np.int32], ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_borders_of_pieces(size: int, dtype: Any) -> None:
    array = (_numbers(size, np.float64) * 100).astype(dtype)
    for target in (HALF, SINGLE):
        same_bits(converted(array, target), as_numpy(array, target))


@pytest.mark.parametrize("dtype", [np.float32, BFLOAT16, HALF], ids=str)
@pytest.mark.parametrize(
    "shape",
    [
        (1, PIECE),
        (PIECE, 1),
        (1, PIECE + 1),
        (PIECE + 1, 1),
        (2, PIECE - 1),
        (3, PIECE // 2 + 1),
        (PIECE // 2 + 1, 3),
        (255, 257),
        (256, 256),
        (257, 256),
        (256, 257),
        (300, 700),
        (0, 5),
        (5, 0),
    ],
)
def test_borders_of_transposed_bands(shape: tuple[int, int], dtype: Any) -> None:
    """A matrix that is transposed while it is written, around the sizes where a band ends."""
    array = _numbers(shape[0] * shape[1], dtype).reshape(shape)
    for target in (HALF, SINGLE):
        tensor = Tensor("t", "t", array).T
        assert tensor.shape == shape[::-1]
        pieces = [piece.copy() for piece in tensor.pieces(target)]
        same_bits(np.concatenate([*pieces, np.empty(0, target)]), as_numpy(array.T, target))


@QUICK
@given(
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    dtype=st.sampled_from([np.float64, np.float32, BFLOAT16, HALF, np.int16]),
    target=st.sampled_from([HALF, SINGLE]),
    data=st.data(),
)
def test_pieces_are_what_numpy_gives(shape: list[int], dtype: Any, target: Any, data: st.DataObject) -> None:
    """Plain, sliced, transposed, and both in either order."""
    array = (_numbers(int(np.prod(shape)), np.float64) * 50).astype(dtype).reshape(shape)
    tensor, expected = Tensor("t", "t", array), array
    for step in data.draw(st.lists(st.sampled_from(["rows", "T"]), max_size=3)):
        if step == "T":
            tensor, expected = tensor.T, expected.T
        else:
            start = data.draw(st.integers(0, len(expected)))
            stop = data.draw(st.integers(start, len(expected)))
            tensor, expected = tensor.rows(start, stop), expected[start:stop]
    assert tensor.shape == expected.shape
    pieces = [piece.copy() for piece in tensor.pieces(np.dtype(target))]
    flat = np.concatenate([*pieces, np.empty(0, target)])
    same_bits(flat, as_numpy(expected, np.dtype(target)))
    if expected.size:
        np.testing.assert_array_equal(tensor.values(), expected.astype(np.float32))


def test_pieces_do_not_write_into_the_checkpoint(tmp_path: Path) -> None:
    folder = by_hand.checkpoint(tmp_path / "c")
    before = (folder / "model.safetensors").read_bytes()
    for precision in ("float16", "float32"):
        built(folder, tmp_path / "c.mlpackage", precision=precision)
    assert (folder / "model.safetensors").read_bytes() == before


def test_keys_tell_contents_apart() -> None:
    """Equal keys are stored once, so whatever is done to a tensor has to show in its key."""
    tensor = Tensor("t", "t", np.zeros((6, 6), np.float32))
    views = [tensor, tensor.T, tensor.rows(0, 3), tensor.rows(1, 3), tensor.rows(0, 3).T, tensor.T.rows(0, 3)]
    assert len({view.key for view in views}) == len(views)
    assert tensor.rows(0, 3).key == tensor.rows(0, 3).key


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, BFLOAT16], ids=str)
@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_package_holds_the_checkpoint(dtype: Any, precision: str, tmp_path: Path) -> None:
    """End to end: every parameter, found in the package by the name of its module, is numpy's conversion of it."""
    stored = {name: array.astype(dtype) for name, array in by_hand.tensors().items()}
    package = built(by_hand.checkpoint(tmp_path / "c", stored), tmp_path / "c.mlpackage", precision=precision)
    found = constants(package)
    for name, array in stored.items():
        if name == "transformer.wpe.weight":
            continue  # a slice of it, below
        expected = as_numpy(array, np.dtype(precision)).reshape(array.shape)
        if expected.ndim == 2 and ".h." in name:
            expected = expected.T
        value = next(v for key, v in found.items() if key.startswith(re.sub(r"\W", "_", name)))
        np.testing.assert_array_equal(value, expected, err_msg=name)


@pytest.mark.parametrize("tokens", [1, 7, POSITIONS])
def test_position_table_is_cut_to_the_tokens(tokens: int, tmp_path: Path) -> None:
    stored = by_hand.tensors()
    package = built(by_hand.checkpoint(tmp_path / "c", stored), tmp_path / "c.mlpackage", sequence_length=tokens)
    value = next(v for key, v in constants(package).items() if key.startswith("transformer_wpe"))
    np.testing.assert_array_equal(value, stored["transformer.wpe.weight"][:tokens].astype(np.float16))


def test_mixed_types(tmp_path: Path) -> None:
    """A checkpoint may store each tensor in another type."""
    types = [np.float64, np.float32, np.float16, BFLOAT16]
    stored = {name: a.astype(np.float16).astype(types[i % 4]) for i, (name, a) in enumerate(by_hand.tensors().items())}
    exact = {name: array.astype(np.float32) for name, array in stored.items()}
    mixed = built(by_hand.checkpoint(tmp_path / "m", stored), tmp_path / "m.mlpackage")
    assert weights(mixed) == weights(built(by_hand.checkpoint(tmp_path / "e", exact), tmp_path / "e.mlpackage"))


# Names


def test_prefix_does_not_matter(tmp_path: Path) -> None:
    """With and without `transformer.` in front, and mixed: byte-identical packages."""
    plain = by_hand.tensors(prefix="")
    mixed = {name if i % 2 else f"transformer.{name}": array for i, (name, array) in enumerate(plain.items())}
    sources = {
        "one": by_hand.tensors(),
        "two": plain,
        "three": mixed,
    }
    packages = [
        content(built(by_hand.checkpoint(tmp_path / where / "model", stored), tmp_path / f"{where}.mlpackage"))
        for where, stored in sources.items()
    ]
    assert packages[0] == packages[1] == packages[2]


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_buffers_of_old_checkpoints_are_ignored(prefix: str, tmp_path: Path) -> None:
    stored = by_hand.tensors(prefix)
    expected = weights(built(by_hand.checkpoint(tmp_path / "new", stored), tmp_path / "new.mlpackage"))
    for i in range(LAYERS):
        stored[f"{prefix}h.{i}.attn.bias"] = np.tril(np.ones((1, 1, POSITIONS, POSITIONS), np.uint8))
        stored[f"{prefix}h.{i}.attn.masked_bias"] = np.array(-1e4, np.float32)
    old = built(by_hand.checkpoint(tmp_path / "old", stored), tmp_path / "old.mlpackage")
    assert weights(old) == expected


@pytest.mark.parametrize("name", ["h.0.attn.bias2", "h.x.attn.bias", "h.0.attn.masked_bias.weight", "attn.bias"])
def test_what_only_looks_like_an_old_buffer_is_not_ignored(name: str, tmp_path: Path) -> None:
    stored = by_hand.tensors() | {f"transformer.{name}": np.zeros(3, np.float32)}
    with pytest.raises(milbuild.Error, match="1 tensors that its architecture does not use"):
        milbuild.build(by_hand.checkpoint(tmp_path / "c", stored))


def test_gamma_and_beta() -> None:
    """The spelling of checkpoints from TensorFlow; a name that the file has in both spellings stays as it is."""
    one, two = np.zeros(3, np.float32), np.ones(3, np.float32)
    old = {"a.LayerNorm.gamma": one, "a.LayerNorm.beta": two, "b.LayerNorm.gamma": one, "b.LayerNorm.weight": two}
    found = Checkpoint("c", Path(), {}, {**old, "gamma": one, "c.LayerNorm.gammas": one, "c.LayerNormXgamma": two})
    assert list(found.tensors) == [
        "a.LayerNorm.weight",
        "a.LayerNorm.bias",
        "b.LayerNorm.gamma",
        "b.LayerNorm.weight",
        "gamma",
        "c.LayerNorm.gammas",
        "c.LayerNormXgamma",
    ]
    assert found.tensors["a.LayerNorm.weight"] is one
    assert found.tensors["a.LayerNorm.bias"] is two
    cursor = Cursor(found, HALF, "bert") / "bert.a" / "LayerNorm"
    assert cursor.tensor("weight", 3).data is one


def test_cursor() -> None:
    stored = {"transformer.h.0.w": np.zeros((2, 3), np.float32), "head.w": np.zeros(4, np.float32)}
    found = Checkpoint("c", Path(), {}, stored)
    root = Cursor(found, HALF, "transformer")
    layer = root / "transformer" / "h.0"
    assert (layer.path, layer.name) == ("transformer.h.0", "transformer_h_0")
    assert "w" in layer
    assert "v" not in layer
    assert layer.tensor("w", 2, 3).shape == (2, 3)
    with pytest.raises(milbuild.Error, match=r"1 tensors that its architecture does not use: head\.w"):
        found.check((), (), "transformer")
    found.check((), ("head",), "transformer")
    (layer.root / "head").tensor("w", 5)
    with pytest.raises(milbuild.Error, match=r"head.w has the shape \(4,\), config.json asks for \(5,\)"):
        found.check((), (), "transformer")
    layer.tensor("v", 2, 3)
    with pytest.raises(milbuild.Error, match=r"has no tensor transformer\.h\.0\.v of shape \(2, 3\)"):
        found.check((), (), "transformer")


# The head


HEAD = "lm_head.weight"
TABLE = "transformer.wte.weight"


def test_tied_head_stored_twice_is_stored_once(tmp_path: Path) -> None:
    tied = by_hand.tensors()
    twice = tied | {HEAD: tied[TABLE].copy()}
    one = built(by_hand.checkpoint(tmp_path / "a" / "m", tied), tmp_path / "one.mlpackage")
    two = built(by_hand.checkpoint(tmp_path / "b" / "m", twice), tmp_path / "two.mlpackage")
    assert content(one) == content(two)


@pytest.mark.parametrize("where", ["the first value", "the last value", "a zero's sign", "the type"])
def test_head_that_differs_is_used(where: str, tmp_path: Path) -> None:
    """However little: a head of its own, though the configuration says that it is tied."""
    stored = by_hand.tensors()
    stored[TABLE][5] = 0
    head = stored[TABLE].copy()
    if where == "the first value":
        head[0, 0] += 1
    elif where == "the last value":
        head[-1, -1] += 1
    elif where == "a zero's sign":
        head[5] = -0.0
    else:
        head = head.astype(np.float64)
    package = built(by_hand.checkpoint(tmp_path / "c", stored | {HEAD: head}), tmp_path / "c.mlpackage")
    tied = built(by_hand.checkpoint(tmp_path / "t", stored), tmp_path / "t.mlpackage")
    assert len(weights(package)) >= len(weights(tied)) + VOCABULARY * WIDTH * 2
    value = next(v for key, v in constants(package).items() if key.startswith("lm_head"))
    same_bits(value, head.astype(np.float16))


@pytest.mark.parametrize("at", [0, (1 << 20) - 1, 1 << 20, (1 << 21) + 2])
def test_large_heads_are_compared_to_the_last_byte(at: int) -> None:
    """They are compared in parts of a megabyte: no part is left out."""
    head = np.zeros((1 << 21) + 3, np.uint8)
    head[at] = 1
    stored = {"table": np.zeros_like(head), "head": head, "copy": head.copy(), "longer": np.append(head, np.uint8(0))}
    found = Checkpoint("c", Path(), {}, stored)
    assert found.same("head", "copy", "")
    assert not found.same("head", "table", "")
    assert not found.same("head", "longer", "")


@pytest.mark.parametrize("own", [False, True], ids=["equal", "own"])
def test_untied_head(own: bool, tmp_path: Path) -> None:
    """tie_word_embeddings false: the head of the file is the head, even where it equals the embedding."""
    stored = by_hand.tensors()
    head = stored[TABLE] * (2 if own else 1)
    folder = by_hand.checkpoint(tmp_path / "c", stored | {HEAD: head}, config={"tie_word_embeddings": False})
    package = built(folder, tmp_path / "c.mlpackage")
    value = next(v for key, v in constants(package).items() if key.startswith("lm_head"))
    same_bits(value, head.astype(np.float16))


def test_untied_head_that_is_missing(tmp_path: Path) -> None:
    folder = by_hand.checkpoint(tmp_path / "c", config={"tie_word_embeddings": False})
    said = r"no tensor lm_head\.weight of shape \(61, 32\) \(config\.json says tie_word_embeddings: false\); it has "
    with pytest.raises(milbuild.Error, match=said) as error:
        milbuild.build(folder)
    assert "set tie_word_embeddings to true" in (error.value.hint or "")
    built(folder, tmp_path / "c.mlpackage", task="feature-extraction")  # which needs none


@pytest.mark.parametrize("tied", [False, True])
def test_a_head_under_another_name(tied: bool, tmp_path: Path) -> None:
    """As hub files of GPT-NeoX call it. Where config.json ties the head, the table is the head, and the other is left over."""
    stored = by_hand.tensors() | {"embed_out.weight": np.ones((VOCABULARY, WIDTH), np.float32)}
    folder = by_hand.checkpoint(tmp_path / "c", stored, config={"tie_word_embeddings": tied})
    with pytest.raises(milbuild.Error) as error:
        milbuild.build(folder)
    if tied:
        assert "1 tensors that its architecture does not use: embed_out.weight" in error.value.message
    else:
        assert error.value.message == (
            "c has no tensor lm_head.weight of shape (61, 32) (config.json says tie_word_embeddings: false); "
            "of the same shape it has tensors that nothing uses: embed_out.weight for lm_head.weight"
        )
        assert "the same under another name" in (error.value.hint or "")


def test_missing_tensors_are_paired_with_unused_ones_of_their_shape(tmp_path: Path) -> None:
    """The most alike first, never one of another shape or one that is used."""
    stored = by_hand.tensors()
    for layer in range(LAYERS):
        stored[f"transformer.h.{layer}.norm_1.weight"] = stored.pop(f"transformer.h.{layer}.ln_1.weight")
    stored["transformer.h.0.ln_1.scale"] = np.ones(WIDTH + 1, np.float32)
    with pytest.raises(milbuild.Error) as error:
        milbuild.build(by_hand.checkpoint(tmp_path / "c", stored))
    said = error.value.message.split("nothing uses: ")[1].split(", ")
    assert len(said) == LAYERS
    for layer, pair in enumerate(said):
        names, path = pair.split(" for ")
        assert names.split(" or ")[0] == f"transformer.h.{layer}.norm_1.weight"
        assert path == f"transformer.h.{layer}.ln_1.weight"
    assert "ln_1.scale" not in error.value.message


@pytest.mark.parametrize(
    ("model_type", "task", "name"),
    [
        ("llama", "text-classification", "score.weight"),
        ("bert", "text-classification", "classifier.weight"),
        ("vit", "image-classification", "classifier.weight"),
        ("t5", "text-classification", "classification_head.out_proj.weight"),
        ("wav2vec2", "ctc", "lm_head.weight"),
        ("whisper", "audio-classification", "projector.weight"),
    ],
)
def test_any_head_under_another_name_is_paired(model_type: str, task: str, name: str, tmp_path: Path) -> None:
    shutil.copytree(checkpoint_of(model_type, task), tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["hub_head.weight"] = tensors.pop(name)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(milbuild.Error, match=re.escape(f"hub_head.weight for {name}")):
        milbuild.build(tmp_path, task=task, **TABLE_OF_ALL[model_type].options)


def test_head_of_another_task_is_left_out(tmp_path: Path) -> None:
    """A language model's own head does not stand in the way of its features, nor a classifier's of the language model."""
    stored = by_hand.tensors()
    plain = built(by_hand.checkpoint(tmp_path / "a" / "m", stored), tmp_path / "a.mlpackage", task="feature-extraction")
    own = stored | {HEAD: np.ones((VOCABULARY, WIDTH), np.float32), "score.weight": np.ones((2, WIDTH), np.float32)}
    folder = by_hand.checkpoint(tmp_path / "b" / "m", own)
    assert content(built(folder, tmp_path / "b.mlpackage", task="feature-extraction")) == content(plain)
    built(folder, tmp_path / "c.mlpackage", task="text-classification")
    built(folder, tmp_path / "d.mlpackage", task="text-generation")


def test_head_of_no_task_is_refused(tmp_path: Path) -> None:
    stored = by_hand.tensors() | {"value_head.weight": np.ones((1, WIDTH), np.float32)}
    with pytest.raises(milbuild.Error, match=r"does not use: value_head\.weight"):
        milbuild.build(by_hand.checkpoint(tmp_path / "c", stored))
    assert "value_head" not in {module for head in GPT2.heads.values() for module in head.modules}


# What the graph sees


UNREAD = Unread.of(Tensor("a.weight", "a.weight", np.ones((4, 3), np.float32)), HALF)


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x + 1,
        lambda x: -x,
        lambda x: x == 0,
        lambda x: x @ np.ones((3, 2)),
        lambda x: np.add.reduce(x),
        lambda x: np.add(np.ones((4, 3)), x),
        lambda x: np.multiply(np.ones((4, 3)), 2, out=x),
        np.isnan,
        np.sum,
        np.concatenate,
        lambda x: np.array_equal(x, x),
        np.transpose,
        lambda x: np.where(True, x, 0),
        lambda x: x.astype(np.float32),
        lambda x: x.any(),
        lambda x: x.all(),
        lambda x: x.max(),
        lambda x: x.sum(),
        lambda x: x.mean(),
        lambda x: x.tolist(),
        lambda x: x.tobytes(),
        lambda x: x.item(0),
        lambda x: x.flatten(),
        lambda x: x.copy(),
        lambda x: float(x[0, 0]),
        lambda x: list(x[0]),
        lambda x: bool(x[0, 0]),
    ],
    ids=lambda compute: "",
)
def test_unread_refuses_to_compute(compute: Callable[[Any], Any]) -> None:
    """Whoever looks at a value that is not read yet gets an error, never a zero. (What numpy lets nobody refuse, and what
    is not tried here: np.array(x).)"""
    with pytest.raises(AssertionError, match=r"a\.weight"):
        compute(UNREAD)


def test_unread_looks_like_its_tensor() -> None:
    assert (UNREAD.shape, UNREAD.dtype, UNREAD.size, UNREAD.ndim) == ((4, 3), HALF, 12, 2)
    assert UNREAD.tensor.name == "a.weight"
    assert isinstance(UNREAD, np.ndarray)
    assert UNREAD.base is not None, "it holds no memory of its own"
    assert UNREAD.strides == (0, 0)


def test_build_reads_no_weights(tmp_path: Path) -> None:
    """Building takes the header only: NaN is not seen before the model is saved."""
    stored = {name: np.full_like(array, np.nan) for name, array in by_hand.tensors().items()}
    model = milbuild.build(by_hand.checkpoint(tmp_path / "c", stored))
    with pytest.raises(milbuild.Error, match="NaN"):
        model.save(tmp_path / "c.mlpackage")


# Nothing but an error or a right answer


WHOLE = by_hand.safetensors(by_hand.tensors())
EXPECTED = by_hand.tensors()


def _mutations(data: bytes, head: int) -> st.SearchStrategy[bytes]:
    """Bytes changed, taken out, put in and cut off, most of them in the first `head` ones."""

    def mutate(edits: list[tuple[str, int, bytes]]) -> bytes:
        changed = bytearray(data)
        for kind, at, new in edits:
            at %= max(1, min(head, len(changed)))
            if kind == "write":
                changed[at : at + len(new)] = new
            elif kind == "insert":
                changed[at:at] = new
            elif kind == "delete":
                del changed[at : at + len(new)]
            else:
                del changed[at:]
        return bytes(changed)

    places = st.one_of(st.integers(0, 16), st.integers(0, head))
    tokens = st.sampled_from(
        [b"0", b"-1", b"9" * 20, b"1e9", b"[", b"]", b"{", b"}", b'"', b",", b":", b"null", b"NaN"]
    )
    new = st.one_of(st.binary(min_size=1, max_size=9), tokens)
    kinds = st.sampled_from(["write", "insert", "delete", "write", "insert", "cut"])
    return st.lists(st.tuples(kinds, places, new), min_size=1, max_size=4).map(mutate)


@settings(QUICK, max_examples=HEADERS)
@given(data=st.one_of(_mutations(WHOLE, 3000), _mutations(WHOLE, len(WHOLE)), st.binary(max_size=80)))
@pytest.mark.usefixtures("little_memory")
@pytest.mark.fuzz
def test_fuzzed_safetensors(data: bytes, tmp_path: Path) -> None:
    """Any bytes: `Error`, or arrays that are views on the file, of their shapes."""
    file = tmp_path / "x.safetensors"
    file.write_bytes(data)
    try:
        found = reader.read(file)
    except milbuild.Error as error:
        assert "x.safetensors" in error.message  # noqa: PT017
        return
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    body = data[8 + int.from_bytes(data[:8], "little") :]
    assert found.keys() == header.keys() - {"__metadata__"}
    for name, array in found.items():
        start, stop = header[name]["data_offsets"]
        assert list(array.shape) == header[name]["shape"]
        assert array.tobytes() == body[start:stop]


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 10**25), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)
ENTRIES = st.one_of(
    JSON,
    st.fixed_dictionaries(
        {},
        optional={
            "dtype": st.one_of(st.sampled_from([*reader.DTYPES, "F8_E4M3"]), JSON),
            "shape": st.one_of(st.lists(st.integers(-1, 4), max_size=70), JSON),
            "data_offsets": st.one_of(st.lists(st.integers(-4, 64), min_size=1, max_size=3), JSON),
        },
    ),
)


@settings(QUICK, max_examples=HEADERS)
@given(header=st.one_of(JSON, st.dictionaries(st.text(max_size=5), ENTRIES, max_size=3)), data=st.binary(max_size=64))
@pytest.mark.usefixtures("little_memory")
@pytest.mark.fuzz
def test_fuzzed_headers(header: Any, data: bytes, tmp_path: Path) -> None:
    """Any JSON for a header: types, shapes and offsets of every kind."""
    file = tmp_path / "x.safetensors"
    file.write_bytes(by_hand.with_header(json.dumps(header).encode(), data))
    try:
        found = reader.read(file)
    except milbuild.Error:
        return
    for name, array in found.items():
        start, stop = header[name]["data_offsets"]
        assert array.nbytes == stop - start
        assert array.tobytes() == data[start:stop]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return by_hand.sharded(tmp_path_factory.mktemp("shards") / "s")


NAMES = st.sampled_from(
    ["model-00001-of-00003.safetensors", "../x", "/etc/passwd", "", ".", "..", "config.json", "a\0b"]
)
INDICES = st.one_of(
    JSON,
    st.fixed_dictionaries({"weight_map": JSON}),
    st.fixed_dictionaries({"weight_map": st.dictionaries(st.text(max_size=5), st.one_of(NAMES, JSON), max_size=3)}),
)


@settings(QUICK, max_examples=200)
@given(index=INDICES, cut=st.one_of(st.none(), st.integers(0, 50)))
def test_fuzzed_index(index: Any, cut: int | None, shards: Path, tmp_path: Path) -> None:
    """Any JSON, or half of one, for an index."""
    folder = tmp_path / "s"
    if not folder.exists():
        shutil.copytree(shards, folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index)[:cut])
    try:
        found = Checkpoint.open(folder)
    except milbuild.Error:
        return
    mapped = index["weight_map"]
    assert mapped.keys() <= found.tensors.keys()
    assert set(found.tensors) <= set(EXPECTED)


# Not shrunk: a build takes its time, and the value is plain to see.
@settings(QUICK, max_examples=80, phases=[Phase.explicit, Phase.generate])
@given(
    field=st.sampled_from([*by_hand.CONFIG, "quantization_config", "tie_word_embeddings", "id2label", "dtype"]),
    value=st.one_of(JSON, st.sampled_from(["float16", "float99", 0, -1, 1, 3, 1.5, True])),
)
def test_fuzzed_config(field: str, value: Any, tmp_path: Path) -> None:
    """Any value in a field of config.json: `Error` or a package, never another exception."""
    folder = tmp_path / "c"
    if not folder.exists():
        by_hand.checkpoint(folder)
    (folder / "config.json").write_text(json.dumps(by_hand.CONFIG | {field: value}))
    try:
        milbuild.build(folder)
    except milbuild.Error as error:
        assert str(error)  # noqa: PT017


def test_hub_files_hold_no_pickle() -> None:
    """What is fetched of a repository: nothing that runs code when it is loaded."""
    from fnmatch import fnmatch

    wanted = [*checkpoint.HUB_FILES]
    for name in ("pytorch_model.bin", "model.pt", "tf_model.h5", "flax_model.msgpack", "model.onnx", "run.py", "x.pkl"):
        assert not any(fnmatch(name, pattern) for pattern in wanted), name
    for name in ("config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json", "README.md"):
        assert any(fnmatch(name, pattern) for pattern in wanted), name


def test_all_that_is_missing_or_misshapen_is_listed(tmp_path: Path) -> None:
    whole = by_hand.tensors()
    less = {name: value for name, value in whole.items() if ".ln_1." not in name}
    folder = by_hand.checkpoint(tmp_path / "less", less)
    with pytest.raises(milbuild.Error) as missing:
        milbuild.build(folder, sequence_length=4)
    for layer in range(by_hand.LAYERS):
        assert f"transformer.h.{layer}.ln_1.weight of shape ({by_hand.WIDTH},)" in str(missing.value)
        assert f"transformer.h.{layer}.ln_1.bias of shape ({by_hand.WIDTH},)" in str(missing.value)
    other = {name: value[:-1] if ".ln_2." in name else value for name, value in whole.items()}
    folder = by_hand.checkpoint(tmp_path / "other", other)
    with pytest.raises(milbuild.Error) as misshapen:
        milbuild.build(folder, sequence_length=4)
    assert str(misshapen.value).count("config.json asks for") == 2 * by_hand.LAYERS


RESHAPED = [("t5", ".relative_attention_bias."), ("bart", "final_logits_bias")]


@pytest.mark.parametrize(("model_type", "name"), RESHAPED)
def test_a_tensor_that_a_layer_reshapes_is_listed_too(model_type: str, name: str, tmp_path: Path) -> None:
    """What stands for a tensor that is missing or misshapen goes the whole way through the graph."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint_of(model_type, "text2text-generation"), folder)
    file = folder / "model.safetensors"
    whole = load_file(file)
    if name not in whole:
        whole["final_logits_bias"] = np.zeros((1, 1), np.float32)
    found = [key for key in whole if name in key]
    save_file({key: value[:, :1] if key in found else value for key, value in whole.items()}, file)
    with pytest.raises(milbuild.Error) as misshapen:
        milbuild.build(folder, sequence_length=4)
    assert all(key in str(misshapen.value) for key in found)
    assert str(misshapen.value).count("config.json asks for") == len(found) > 0


def test_absurd_sizes_are_refused_before_the_graph_is_tried(tmp_path: Path) -> None:
    """A default that coremltools makes of such a width would not fit into any memory."""
    folder = by_hand.checkpoint(tmp_path / "absurd", config={"n_embd": 308_720_619_164_272})
    with pytest.raises(
        milbuild.Error, match=r"wte\.weight has the shape \(61, 32\), config\.json asks for \(61, 308720619164272\)"
    ):
        milbuild.build(folder, sequence_length=4)


def test_float32_becomes_float16_as_numpy_rounds_it() -> None:
    """Every sign, exponent and upper place, with what is cut off below, at and above the half; and any bits at all."""
    upper = np.arange(1 << 19, dtype=np.uint32) << 13
    words = [upper | np.uint32(lower) for lower in (0, 1, 0xFFF, 0x1000, 0x1001, 0x1FFF)]
    words.append(np.random.default_rng(0).integers(0, 1 << 32, 1 << 20, np.uint64).astype(np.uint32))
    values = np.concatenate(words).view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(np.float16).view(np.uint16)
    found = np.concatenate([piece.copy() for piece in _converted(values, np.dtype(np.float16))])
    assert np.array_equal(found.view(np.uint16), expected)


@pytest.mark.parametrize("target", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("source", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_matrices_are_transposed_in_tiles(source: Any, target: Any) -> None:
    """Of fewer, of as many and of more rows and columns than a tile, in numbers that go into wider ones and that do not."""
    random = np.random.default_rng(0)
    for shape in ((1, 3), (4, 4), (7, 5), (2, 600), (130, 1026), (513, 129), (1028, 256)):
        matrix = random.standard_normal(shape).astype(source)
        for value in (matrix.T, np.ascontiguousarray(matrix.T).T):
            found = np.concatenate([piece.copy() for piece in _converted(value, np.dtype(target))])
            assert np.array_equal(found.reshape(value.shape), value.astype(target))
