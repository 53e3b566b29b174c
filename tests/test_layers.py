"""Layers and computed weights by themselves, where a whole model would not come to the point."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Function, Program, Var, get_new_symbol, types
from transformers import CohereConfig, GPTJConfig, GPTNeoXConfig, ModernBertConfig, SwinConfig
from transformers.masking_utils import create_bidirectional_sliding_window_mask
from transformers.models.bloom import modeling_bloom
from transformers.models.cohere import modeling_cohere
from transformers.models.cohere.modeling_cohere import CohereRotaryEmbedding
from transformers.models.gemma2 import modeling_gemma2
from transformers.models.gpt_neox import modeling_gpt_neox
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding
from transformers.models.gpt_oss import modeling_gpt_oss
from transformers.models.gptj import modeling_gptj
from transformers.models.m2m_100.modeling_m2m_100 import M2M100SinusoidalPositionalEmbedding
from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding
from transformers.models.mpt import modeling_mpt
from transformers.models.swin import modeling_swin
from transformers.models.swin.modeling_swin import SwinLayer
from transformers.models.whisper import modeling_whisper
from transformers.models.xlm import modeling_xlm

from milbuild import runtime
from milbuild.errors import Error
from milbuild.layers.alibi import alibi_mask, slopes
from milbuild.layers.attention import NOWHERE, attention, causal_mask, interleaved_heads, position_mask
from milbuild.layers.blocks import parallel
from milbuild.layers.convolution import transposed_convolution
from milbuild.layers.linear import embedding, linear
from milbuild.layers.normalization import group_norm, layer_norm, rms_norm
from milbuild.layers.rope import evens_first, rotate, rotate_part, rotation
from milbuild.layers.scores import sink_attention, softcapped_attention
from milbuild.layers.sinusoids import fairseq_sinusoids, interleaved_sinusoids, marian_sinusoids
from milbuild.layers.windows import from_windows, window_mask, windows
from milbuild.lowering.writer import Description, Feature, lower, write
from milbuild.weights import Checkpoint, Computed, Cursor, Joined, Tensor
from tests.test_runtime import program

WIDTH = 48


@pytest.mark.parametrize("scale", [1e-2, 1.0, 300.0, 10_000.0])
def test_rms_norm_in_float16(scale: float, tmp_path: Path) -> None:
    """Squares of more than 255 overflow float16; the norm of activations of 10,000 does not."""
    random = np.random.default_rng(0)
    weight, x = random.normal(1, 0.3, WIDTH).astype(np.float16), random.normal(size=(1, 5, WIDTH)) * scale
    x = np.clip(x, -60_000, 60_000).astype(np.float16)
    w = Cursor(Checkpoint("c", tmp_path, {}, {"norm.weight": weight}), np.dtype(np.float16), "", "norm")
    path = program(tmp_path, lambda x: [rms_norm(x, w, 1e-6)], {"x": x.shape})
    normed = runtime.load(path).predict({"x": x})["norm"]
    wide = torch.from_numpy(x.astype(np.float64))
    expected = wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt() * torch.from_numpy(weight.astype(np.float64))
    assert np.abs(normed - expected.numpy()).max() <= 2e-3 * expected.abs().max()


ONE = Tensor("one", "one", np.arange(6, dtype=np.float32).reshape(2, 3))
TWO = Tensor("two", "two", np.full((1, 3), 9, np.float16))


def test_joined_tensors_are_read_one_by_one() -> None:
    joined = Joined(ONE, TWO)
    assert (joined.shape, joined.name) == ((3, 3), "joined of one, two")
    expected = np.concatenate([ONE.data, TWO.data])
    for dtype in (np.float16, np.float32):
        pieces = [piece.copy() for piece in joined.pieces(np.dtype(dtype))]
        assert len(pieces) == 2
        assert np.array_equal(np.concatenate(pieces).reshape(3, 3), expected.astype(dtype))
    assert np.array_equal(joined.T.values(), expected.T)
    assert np.array_equal(joined.rows(1, 3).values(), expected[1:])
    assert joined.key != Joined(TWO, ONE).key


def test_computed_tensors_are_worked_out_in_float64() -> None:
    seen = []

    def compute(one: np.ndarray, two: np.ndarray) -> np.ndarray:
        seen.append((one.dtype, two.dtype))
        return one + two

    computed = Computed("the sum", compute, (2, 3), ONE, TWO)
    assert not seen, "nothing is worked out before it is asked for"
    assert np.array_equal(computed.values(), ONE.data + 9)
    assert seen == [(np.float64, np.float64)]
    assert computed.key != Computed("the difference", compute, (2, 3), ONE, TWO).key
    assert computed.key == Computed("the sum", compute, (2, 3), ONE, TWO).key


def test_computed_tensors_are_checked() -> None:
    with pytest.raises(AssertionError, match=r"the sum of one has the shape \(2, 3\), not \(3, 2\)"):
        Computed("the sum", lambda one: one, (3, 2), ONE).values()
    huge = Computed("the product", lambda one: one * 1e6, (2, 3), ONE)
    with pytest.raises(Error, match="the product of one: 5 of 6 values overflow float16"):
        huge.values(np.dtype(np.float16))


# Layers by themselves, against torch and transformers' own functions.

PRECISE = {"float32": 1e-5, "float16": 2e-3}  # of the reference's range


def layer(tmp_path: Path, build: Callable[..., Var], dtype: str, **feeds: Any) -> Any:
    """What `build` makes of the arrays, run as a package, with the oldest operations in float32 and new ones in float16:
    floats in `dtype`, whole numbers as int32. A tuple (array, axis) is fed to a function that leaves that axis open."""
    target = {"float32": ct.target.iOS15, "float16": ct.target.iOS18}[dtype]
    arrays = {name: feed[0] if isinstance(feed, tuple) else feed for name, feed in feeds.items()}
    kinds = {name: "int32" if array.dtype.kind == "i" else dtype for name, array in arrays.items()}
    shapes: dict[str, list[Any]] = {name: list(array.shape) for name, array in arrays.items()}
    for name, feed in feeds.items():
        if isinstance(feed, tuple):
            shapes[name][feed[1]] = (1, 64)
    symbolic = {
        name: [get_new_symbol() if isinstance(size, tuple) else size for size in shape]
        for name, shape in shapes.items()
    }
    element = {"float16": types.fp16, "float32": types.fp32, "int32": types.int32}
    with Function(
        {n: mb.placeholder(symbolic[n], element[kinds[n]]) for n in arrays}, opset_version=target
    ) as function:
        output = build(**function.inputs)
        function.set_outputs([output])
    whole = Program()
    whole.add_function("main", function)
    given = [Feature(name, kinds[name], tuple(shapes[name]), "") for name in arrays]
    known = tuple(output.shape) if all(isinstance(size, int | np.integer) for size in output.shape) else None
    model, plan = lower(whole, {"main": Description(given, [Feature(output.name, dtype, known, "")], [])}, target)
    path = tmp_path / f"{dtype}.mlpackage"
    write(model, plan, path)
    fed = {name: array.astype(kinds[name]) for name, array in arrays.items()}
    return runtime.load(path).predict(fed)[output.name]


def built(build: Callable[[], Any]) -> Any:
    """What `build` makes inside of a function: a constant, or nothing."""
    with Function({"x": mb.placeholder((1,))}, opset_version=ct.target.iOS15):
        return build()


def cursor(tmp_path: Path, dtype: str, **tensors: np.ndarray) -> Cursor:
    """The module `layer` with these parameters."""
    held = {f"layer.{name}": np.asarray(tensor, np.float32) for name, tensor in tensors.items()}
    return Cursor(Checkpoint("c", tmp_path, {}, held), np.dtype(dtype), "", "layer")


def same(actual: np.ndarray, expected: Any, dtype: str) -> None:
    """Within the precision's share of the reference's range."""
    expected = np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= PRECISE[dtype] * (expected.max() - expected.min())


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array)


by_precision = pytest.mark.parametrize("dtype", PRECISE)


@by_precision
def test_neighbours_are_rotated_as_in_cohere(dtype: str, tmp_path: Path) -> None:
    """Queries and keys stay in another order of features, which no score sees."""
    config = CohereConfig(hidden_size=30, num_attention_heads=3, num_key_value_heads=1)
    q, k, w = normal(2, 3, 7, 10), normal(2, 1, 7, 10, seed=1), cursor(tmp_path, dtype)
    cos, sin = CohereRotaryEmbedding(config)(tensor(q), torch.arange(7)[None])
    expected = modeling_cohere.apply_rotary_pos_emb(tensor(q), tensor(k), cos, sin)
    tables = rotation(config.rope_parameters, config, np.arange(7), 7, w)
    rotated = [
        layer(tmp_path, lambda x: rotate(evens_first(x, w), tables, w), dtype, x=(x, 2) if x is q else x)
        for x in (q, k)
    ]
    for ours, theirs in zip(rotated, expected, strict=True):
        same(ours, np.concatenate([theirs[..., ::2], theirs[..., 1::2]], axis=-1), dtype)
    scores = [(tensor(np.float32(a)) @ tensor(np.float32(b)).mT).numpy() for a, b in (rotated, expected)]
    same(*scores, dtype)


@by_precision
@pytest.mark.parametrize("rotary", [6, 10, None])
def test_part_of_neighbours_is_rotated_as_in_gptj(dtype: str, rotary: int | None, tmp_path: Path) -> None:
    x, w, width = normal(1, 3, 7, 10), cursor(tmp_path, dtype), rotary or 10
    sin, cos = modeling_gptj.create_sinusoidal_positions(7, width)[None].chunk(2, dim=-1)
    by_token = tensor(x).transpose(1, 2)
    part = modeling_gptj.apply_rotary_pos_emb(by_token[..., :width], sin, cos).transpose(1, 2).numpy()
    expected = np.concatenate([part[..., ::2], part[..., 1::2], x[..., width:]], axis=-1)
    tables = rotation({"rope_theta": 10_000.0}, GPTJConfig(n_embd=30, n_head=3), np.arange(7), 7, w, width)
    same(layer(tmp_path, lambda x: rotate_part(x, tables, w, neighbours=True), dtype, x=x), expected, dtype)


@by_precision
@pytest.mark.parametrize("kind", ["default", "linear", "dynamic"])
def test_part_is_rotated_as_in_gpt_neox(dtype: str, kind: str, tmp_path: Path) -> None:
    rope = {"rope_type": kind, "rope_theta": 5000.0, "partial_rotary_factor": 0.6} | (
        {} if kind == "default" else {"factor": 3.0}
    )
    config = GPTNeoXConfig(hidden_size=30, num_attention_heads=3, max_position_embeddings=5, rope_parameters=rope)
    x, w, places = normal(2, 3, 7, 10), cursor(tmp_path, dtype), np.arange(7, dtype=np.int32)
    cos, sin = GPTNeoXRotaryEmbedding(config)(tensor(x), torch.arange(7)[None])
    expected, _ = modeling_gpt_neox.apply_rotary_pos_emb(tensor(x), tensor(x), cos, sin)

    def build(x: Var, places: Var) -> Var:
        return rotate_part(x, rotation(config.rope_parameters, config, places, 9, w / "rotary", 6), w)

    same(layer(tmp_path, build, dtype, x=x, places=places), expected, dtype)


def test_features_to_rotate_are_pairs(tmp_path: Path) -> None:
    with pytest.raises(Error, match=r"a head has 5 features to rotate \(partial_rotary_factor"):
        rotation({"rope_theta": 1e4}, GPTJConfig(), np.arange(3), 3, cursor(tmp_path, "float32"), 5)


@pytest.mark.parametrize("heads", [1, 2, 3, 5, 8, 12, 16, 25])
def test_slopes_are_those_of_bloom_and_mpt(heads: int) -> None:
    bloom = modeling_bloom.build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)[:, 0, 1]
    assert np.allclose(slopes(heads), bloom, rtol=1e-6)
    for largest in (8, 5):
        mpt = -modeling_mpt.build_mpt_alibi_tensor(heads, 2, largest)[:, 0, 0]
        assert np.allclose(slopes(heads, largest), mpt, rtol=1e-6)


# Every kind of position arrays that a cache has; a key at NOWHERE is none.
PLACES = {
    "whole": (np.arange(5), np.arange(5)),
    "past": (np.arange(4, 9), np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, NOWHERE, NOWHERE])),
    "ring": (np.array([7]), np.array([4, 5, 6, 7, 0, 1, 2, 3])),
    "padded": (np.array([[0, 0, 1], [3, 4, 5]]), np.array([[NOWHERE, NOWHERE, 0, 1, NOWHERE], [1, 2, 3, 4, 5]])),
    "far": (np.array([3000]), np.array([0, 1000, 2990, 2999, 3000, NOWHERE])),
}


@by_precision
@pytest.mark.parametrize(
    ("places", "known"),
    [(p, known) for p in PLACES for known in ("both", "query", "key", "none") if p != "padded" or known == "none"],
)
def test_alibi(dtype: str, places: str, known: str, tmp_path: Path) -> None:
    """Probabilities, since Bloom's bias differs by a number for each row."""
    query, key = (x.astype(np.int32) for x in PLACES[places])
    w, by_head = cursor(tmp_path, dtype), slopes(6)
    feeds = {n: x for n, x in (("query", query), ("key", key)) if known not in ("both", n)}
    scores = normal(len(query) if query.ndim == 2 else 1, 6, query.shape[-1], key.shape[-1])

    def build(scores: Var, **given: Var) -> Var:
        mask = alibi_mask(given.get("query", query), given.get("key", key), by_head, w)
        assert list(mask.shape) in ([1, *scores.shape[1:]], list(scores.shape))
        return mb.softmax(x=mb.add(x=scores, y=mask), axis=-1, name="y")

    actual = layer(tmp_path, build, dtype, scores=scores, **feeds)
    rows = query.shape[-1]
    row, column = (
        query.reshape(-1, 1, rows, 1).astype(np.int64),
        key.reshape(len(key) if key.ndim == 2 else 1, 1, 1, -1),
    )
    bias = by_head[None, :, None, None] * np.where(column == NOWHERE, 0, column)
    expected = torch.softmax(tensor(np.where(column > row, -np.inf, scores + bias)), -1).numpy()
    same(actual, expected, dtype)
    wrong = torch.softmax(tensor(np.where(column > row, -np.inf, scores + bias[:, ::-1])), -1).numpy()
    assert np.abs(wrong - expected).max() > 10 * PRECISE[dtype], "slopes of other heads are seen"


@by_precision
def test_alibi_in_attention(dtype: str, tmp_path: Path) -> None:
    """As Bloom's eager attention: the fused operation of new systems takes the mask of each head, too."""
    q, k, v = normal(2, 6, 3, 8), normal(2, 6, 5, 8, seed=1), normal(2, 6, 5, 8, seed=2)
    w, at, keys = cursor(tmp_path, dtype), np.arange(2, 5), np.arange(5)

    def build(q: Var, k: Var, v: Var) -> Var:
        return attention(q, k, v, alibi_mask(at, keys, slopes(6), w), 8**-0.5, w)

    bias = modeling_bloom.build_alibi_tensor(torch.ones(2, 5), 6, torch.float32)
    scores = bias.baddbmm(tensor(q).flatten(0, 1), tensor(k).flatten(0, 1).mT, alpha=8**-0.5).unflatten(0, (2, 6))
    scores = scores.masked_fill(tensor(keys[None] > at[:, None]), -torch.inf)
    same(layer(tmp_path, build, dtype, q=q, k=k, v=v), scores.softmax(-1) @ tensor(v), dtype)


@by_precision
@pytest.mark.parametrize("shared", [2, 6])
def test_softcaps_are_those_of_gemma2(dtype: str, shared: int, tmp_path: Path) -> None:
    q, k, v = normal(2, 6, 3, 8), normal(2, shared, 5, 8, seed=1) * 4, normal(2, shared, 5, 7, seed=2)
    w, module = cursor(tmp_path, dtype), SimpleNamespace(num_key_value_groups=6 // shared, training=False)
    at, keys = np.arange(2, 5), np.arange(5)
    hidden = torch.where(tensor(keys[None] > at[:, None]), -1e4, 0.0)[None, None]

    def reference(cap: float) -> torch.Tensor:
        y, _ = modeling_gemma2.eager_attention_forward(
            module, tensor(q), tensor(k), tensor(v), hidden, scaling=0.3, softcap=cap
        )
        return y.transpose(1, 2)

    def build(q: Var, k: Var, v: Var) -> Var:
        return softcapped_attention(q, k, v, causal_mask(at, keys, w, groups=6 // shared), 0.3, 2.5, w)

    same(layer(tmp_path, build, dtype, q=q, k=k, v=v), reference(2.5), dtype)
    assert (reference(2.5) - reference(3.0)).abs().max() > 0.02, "another cap is seen"


@by_precision
@pytest.mark.parametrize("shared", [2, 6])
@pytest.mark.parametrize("open_", [False, True])
def test_sinks_are_those_of_gpt_oss(dtype: str, shared: int, open_: bool, tmp_path: Path) -> None:
    q, k, v, sinks = (
        normal(2, 6, 3, 8),
        normal(2, shared, 5, 8, seed=1),
        normal(2, shared, 5, 8, seed=2),
        normal(6, seed=3),
    )
    w, places = cursor(tmp_path, dtype, sinks=sinks), np.arange(2, 5, dtype=np.int32)
    module = SimpleNamespace(num_key_value_groups=6 // shared, training=False, sinks=tensor(sinks))
    hidden = torch.where(tensor(np.arange(5)[None] > places[:, None]), -1e4, 0.0)[None, None]

    def reference() -> torch.Tensor:
        y, _ = modeling_gpt_oss.eager_attention_forward(module, tensor(q), tensor(k), tensor(v), hidden, 0.3)
        return y.transpose(1, 2)

    def build(q: Var, k: Var, v: Var, places: Var) -> Var:
        return sink_attention(q, k, v, causal_mask(places, np.arange(5), w, groups=6 // shared), 0.3, w)

    fed = {"q": (q, 2), "places": (places, 0)} if open_ else {"q": q, "places": places}
    expected = reference()
    same(layer(tmp_path, build, dtype, k=k, v=v, **fed), expected, dtype)
    module.sinks = module.sinks.flip(0)
    assert (reference() - expected).abs().max() > 0.02, "sinks of other heads are seen"


@pytest.mark.parametrize("window", [0, 1, 3, 20])
def test_symmetric_windows_are_those_of_modernbert(window: int, tmp_path: Path) -> None:
    config = ModernBertConfig(
        local_attention=2 * window, hidden_size=8, num_attention_heads=2, attn_implementation="eager"
    )
    given = {"config": config, "inputs_embeds": torch.zeros(1, 9, 8), "attention_mask": None}
    mask = create_bidirectional_sliding_window_mask(**given)
    expected = np.ones((9, 9), bool) if mask is None else mask[0, 0].numpy() == 0
    places = np.arange(9, dtype=np.int32)
    known = built(lambda: position_mask(places, places, cursor(tmp_path, "float32"), window, window))
    assert np.array_equal(np.ones((9, 9), bool) if known is None else known.val == 0, expected)

    def build(places: Var) -> Var:
        return position_mask(places, np.arange(9), cursor(tmp_path, "float32"), window, window)

    assert np.array_equal(layer(tmp_path, build, "float32", places=places) == 0, expected)


@by_precision
@pytest.mark.parametrize(("grid", "shift"), [((6, 9), 0), ((6, 9), 1), ((7, 8), 1), ((7, 8), 2), ((3, 3), 1)])
def test_shifted_windows_are_those_of_swin(dtype: str, grid: tuple[int, int], shift: int, tmp_path: Path) -> None:
    batch, channels, side = 2, 5, 3
    x, w = normal(batch, grid[0] * grid[1], channels), cursor(tmp_path, dtype)
    config = SwinConfig(window_size=side, embed_dim=channels, num_heads=[1])
    swin = SwinLayer(config, channels, (64, 64), 1, shift_size=shift)
    there, _ = swin.maybe_pad(tensor(x).reshape(batch, *grid, channels), *grid)
    moved = torch.roll(there, (-shift, -shift), (1, 2))
    expected = modeling_swin.window_partition(moved, side).reshape(-1, side * side, channels)
    same(layer(tmp_path, lambda x: windows(x, grid, side, shift, w), dtype, x=x), expected, dtype)
    whole = there.shape[1:3]
    mask = swin.get_attn_mask(*whole, torch.float32, torch.device("cpu"))
    ours = built(lambda: window_mask(grid, side, shift, batch, w))
    assert (ours is None) == (mask is None)
    if mask is not None:
        assert np.array_equal(ours.val[:, 0], mask.repeat(batch, 1, 1).numpy())

    y = normal(*expected.shape, seed=1)  # whatever attention makes of them
    back = modeling_swin.window_reverse(tensor(y).reshape(-1, side, side, channels), side, *whole)
    back = torch.roll(back, (shift, shift), (1, 2))[:, : grid[0], : grid[1]].reshape(batch, -1, channels)
    same(layer(tmp_path, lambda x: from_windows(x, grid, side, shift, w), dtype, x=y), back, dtype)


@by_precision
@pytest.mark.parametrize(("groups", "shape"), [(1, (2, 6, 11)), (3, (2, 6, 11)), (6, (1, 6, 5)), (2, (2, 6, 5, 7))])
def test_group_norm(dtype: str, groups: int, shape: tuple[int, ...], tmp_path: Path) -> None:
    x, weight, bias = normal(*shape) * 3 + 1, normal(6, seed=1), normal(6, seed=2)
    w = cursor(tmp_path, dtype, weight=weight, bias=bias)
    expected = torch.nn.functional.group_norm(tensor(x), groups, tensor(weight), tensor(bias), 0.02)
    fed = (x, len(shape) - 1) if len(shape) == 3 else x
    same(layer(tmp_path, lambda x: group_norm(x, w, groups, 0.02), dtype, x=fed), expected, dtype)
    other = torch.nn.functional.group_norm(tensor(x), groups, tensor(weight), tensor(bias), 0.5)
    assert (other - expected).abs().max() > 10 * PRECISE[dtype], "another epsilon is seen"


def test_group_norm_over_a_long_time_in_float16(tmp_path: Path) -> None:
    x = normal(1, 4, 50_000) + 5
    w = cursor(tmp_path, "float16", weight=np.ones(4), bias=np.zeros(4))
    actual = layer(tmp_path, lambda x: group_norm(x, w, 1, 1e-12), "float16", x=x)
    same(actual, torch.nn.functional.group_norm(tensor(x), 1, eps=1e-12), "float16")


TRANSPOSED = [  # shape of x, shape of the weight, stride, padding, output_padding
    ((2, 5, 7), (5, 3, 4), 1, 0, 0),
    ((2, 5, 7), (5, 3, 4), 2, 1, 0),
    ((2, 5, 7), (5, 3, 6), 3, 2, 1),
    ((2, 5, 4, 7), (5, 3, 2, 2), 2, 0, 0),
    ((1, 5, 4, 7), (5, 3, 3, 5), 2, 1, 1),
]


@by_precision
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("shape", "kernel", "stride", "padding", "more"), TRANSPOSED)
def test_transposed_convolution(
    dtype: str, bias: bool, shape: Any, kernel: Any, stride: int, padding: int, more: int, tmp_path: Path
) -> None:
    x, weight, shift = normal(*shape), normal(*kernel, seed=1), normal(kernel[1], seed=2)
    w = cursor(tmp_path, dtype, weight=weight, bias=shift)
    reference = torch.nn.functional.conv_transpose1d if x.ndim == 3 else torch.nn.functional.conv_transpose2d
    how: dict[str, Any] = {"stride": stride, "padding": padding, "output_padding": more}
    expected = reference(tensor(x), tensor(weight), tensor(shift) if bias else None, **how)
    read = w.tensor("weight", *kernel)
    same(layer(tmp_path, lambda x: transposed_convolution(x, w, read, bias=bias, **how), dtype, x=x), expected, dtype)


def test_transposed_convolution_adds_nothing_beyond_its_reach(tmp_path: Path) -> None:
    w = cursor(tmp_path, "float32", weight=normal(5, 3, 4), bias=normal(3))
    with pytest.raises(AssertionError, match="output_padding 1 is more than padding 0"):
        transposed_convolution(None, w, w.tensor("weight", 5, 3, 4), stride=2, output_padding=1)


@pytest.mark.parametrize("width", [6, 7])
def test_sinusoids(width: int) -> None:
    for padding in (None, 1):
        theirs = M2M100SinusoidalPositionalEmbedding.get_embedding(11, width, padding)
        same(fairseq_sinusoids(11, width, padding).values(), theirs, "float32")
    same(
        marian_sinusoids(11, width).values(), MarianSinusoidalPositionalEmbedding(11, width).create_weight(), "float32"
    )
    theirs = modeling_xlm.create_sinusoidal_embeddings(11, width, torch.empty(11, width))
    same(interleaved_sinusoids(11, width).values(), theirs, "float32")
    if width % 2 == 0:
        same(fairseq_sinusoids(11, width).values(), modeling_whisper.sinusoids(11, width), "float32")
    keys = {t.key for t in (fairseq_sinusoids(11, width), fairseq_sinusoids(11, width, 1), fairseq_sinusoids(9, width))}
    assert len(keys) == 3


def test_sinusoids_are_looked_up(tmp_path: Path) -> None:
    ids, w = np.array([[4, 0, 9]], np.int32), cursor(tmp_path, "float16")
    table = marian_sinusoids(11, 6)
    actual = layer(tmp_path, lambda ids: embedding(ids, w, 11, 6, table=table), "float16", ids=ids)
    same(actual, table.values()[ids], "float16")


def neox_heads(x: torch.Tensor) -> Any:
    return x.view(2, 5, 6, 21).transpose(1, 2).chunk(3, dim=-1)


def falcon_heads(x: torch.Tensor) -> Any:
    by_group = x.view(2, 5, 2, 5, 7)  # three heads of queries, one of keys, one of values
    parts = by_group[..., :-2, :], by_group[..., [-2], :], by_group[..., [-1], :]
    return [part.flatten(2, 3).transpose(1, 2) for part in parts]


def codegen_heads(x: torch.Tensor) -> Any:
    parts = x.reshape(2, 5, 4, -1).split(2 * 7, dim=-1)  # eight heads in four groups: queries, values, keys
    return [part.reshape(2, 5, 8, 7).transpose(1, 2) for part in parts]


@by_precision
@pytest.mark.parametrize("open_", [False, True])
@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize(
    ("groups", "sizes", "reference"),
    [(6, [1, 1, 1], neox_heads), (2, [3, 1, 1], falcon_heads), (4, [2, 2, 2], codegen_heads)],
)
def test_interleaved_heads(
    dtype: str, open_: bool, which: int, groups: int, sizes: list[int], reference: Any, tmp_path: Path
) -> None:
    """As modeling_gpt_neox.py, modeling_falcon.py (_split_heads) and modeling_codegen.py part their fused products."""
    x, w = normal(2, 5, groups * sum(sizes) * 7), cursor(tmp_path, dtype)
    actual = layer(tmp_path, lambda x: interleaved_heads(x, groups, sizes, w)[which], dtype, x=(x, 1) if open_ else x)
    same(actual, reference(tensor(x))[which], dtype)


@by_precision
@pytest.mark.parametrize("names", [("first",), ("first", "second")])
def test_parallel_residual(dtype: str, names: tuple[str, ...], tmp_path: Path) -> None:
    """One norm for both parts, as in GPT-J and Phi, or one for each, as in GPT-NeoX."""
    x = normal(2, 3, 7)
    tensors = {f"{name}.{kind}": normal(7, seed=i) for i, name in enumerate(names) for kind in ("weight", "bias")}
    tensors |= {f"{name}.weight": normal(7, 7, seed=i) for i, name in enumerate(("attn", "mlp"), 5)}
    w = cursor(tmp_path, dtype, **tensors)

    def build(x: Var) -> Var:
        norms = [partial(layer_norm, w=w / name, epsilon=1e-5) for name in names]
        parts = [partial(linear, w=w / name, width=7, bias=False) for name in ("attn", "mlp")]
        return parallel(x, norms, *parts, w)

    def normed(name: str) -> torch.Tensor:
        weight, bias = (tensor(tensors[f"{name}.{kind}"]) for kind in ("weight", "bias"))
        return torch.nn.functional.layer_norm(tensor(x), (7,), weight, bias)

    attention, mlp = (
        normed(name) @ tensor(tensors[f"{part}.weight"]).mT for name, part in ((names[0], "attn"), (names[-1], "mlp"))
    )
    same(layer(tmp_path, build, dtype, x=x), tensor(x) + attention + mlp, dtype)
