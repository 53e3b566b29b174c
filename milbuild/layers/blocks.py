"""Parts of a block, which many model types compose: the paths of modules and the widths are arguments, layers do the rest.

Shapes: B batch, T tokens in this call, S key slots, D width of a state, H query heads, K key/value heads, E width of a head.
"""

from collections.abc import Callable, Sequence

from coremltools.converters.mil.mil import Var

from milbuild.errors import Error
from milbuild.layers.activation import activation
from milbuild.layers.attention import attention, fused_heads, merge_heads, split_heads
from milbuild.layers.linear import add, fused_linear, linear, mul, split
from milbuild.layers.rope import Rotation, rotate
from milbuild.weights import Cursor

QKV = ("q_proj", "k_proj", "v_proj")
# A cache's `update` of one layer: keys and values of this call (B, K, T, E) -> all that are seen (B, K, S, E).
Update = Callable[[Var, Var], tuple[Var, Var]]
# What a module makes of a state.
Part = Callable[[Var], Var]


def pre_norm(x: Var, norm: Part, part: Part, total: Cursor) -> Var:
    """(B, T, D) -> (B, T, D): x + part(norm(x)), the output of the module `total`."""
    return add(x, part(norm(x)), total)


def post_norm(x: Var, norm: Part, part: Part, total: Cursor) -> Var:
    """(B, T, D) -> (B, T, D): norm(x + part(x)), whose sum is called `total`."""
    return norm(add(x, part(x), total))


def parallel(x: Var, norms: Sequence[Part], attention: Part, mlp: Part, w: Cursor) -> Var:
    """(B, T, D) -> (B, T, D): x + attention(norm(x)) + mlp(norm(x)), the output of `w`, with one norm for both or one for each.

    Needed by GPT-J, CodeGen, Phi, Cohere and StableLM (use_parallel_residual) with one, by GPT-NeoX and Falcon with two.
    """
    states = [norm(x) for norm in norms]
    x = add(x, attention(states[0]), w / "residual")
    return add(x, mlp(states[-1]), w)


def self_attention(
    x: Var,
    w: Cursor,
    width: int,
    heads: int,
    mask: Var | None,
    update: Update | None = None,
    names: Sequence[str] = QKV,
    out: Cursor | None = None,
    inner: int | None = None,
    bias: bool | list[bool] = True,
    scale: float | None = None,
) -> Var:
    """(B, T, D) -> (B, T, D): as many heads of keys as of queries, `inner` (D by default) wide together. `out` is the module
    after them (`out_proj`), `scale` that of the scores, E**-0.5 by default."""
    inner = inner or width
    x = fused_linear(x, [(w / name, inner) for name in names], w, bias)
    q, k, v = split_heads(x, heads, w, parts=3)  # (B, H, T, E) each
    k, v = update(k, v) if update else (k, v)  # (B, H, S, E)
    y = attention(q, k, v, mask, (inner // heads) ** -0.5 if scale is None else scale, w)
    return linear(merge_heads(y, w), out or w / "out_proj", width, bias if isinstance(bias, bool) else any(bias))


def cross_attention(
    x: Var,
    w: Cursor,
    width: int,
    heads: int,
    keys: tuple[Var, Var],
    mask: Var | None,
    names: Sequence[str] = ("q_proj", "out_proj"),
    inner: int | None = None,
    bias: bool = True,
    scale: float | None = None,
) -> tuple[Var, Var]:
    """(B, T, D), keys and values of an encoder (B, H, S, E) -> (B, T, D), and the queries (B, H, T, E)."""
    inner = inner or width
    (q,) = split_heads(linear(x, w / names[0], inner, bias), heads, w)
    y = attention(q, *keys, mask, (inner // heads) ** -0.5 if scale is None else scale, w)
    return linear(merge_heads(y, w), w / names[1], width, bias), q


def cross_heads(
    hidden: Var,
    modules: Sequence[Cursor],
    inner: int,
    heads: int,
    w: Cursor,
    names: Sequence[str] = ("k_proj", "v_proj"),
    bias: Sequence[bool] = (True, True),
) -> tuple[Var, Var]:
    """An encoder's states (B, S, D) -> keys and values that the `modules` of a decoder make of them, (B, modules * H, S, E)
    each."""
    keys, values = (
        fused_heads(hidden, [(module / name, inner) for module in modules], heads, w / title, has)
        for name, title, has in zip(names, ("cross_keys", "cross_values"), bias, strict=True)
    )
    return keys, values


def rotary_heads(
    x: Var,
    w: Cursor,
    sizes: tuple[int, int, int],
    rotation: Rotation | None,
    bias: bool = False,
    norm: Part | None = None,
    names: Sequence[str] = QKV,
) -> tuple[Var, Var, Var]:
    """(B, T, D) -> queries (B, H, T, E), keys and values (B, K, T, E) for `sizes` H, K, E: the first two rotated, if there is a
    rotation, after a `norm` of their heads. They are one value till then."""
    heads, shared, width = sizes
    parts = [(w / name, count * width) for name, count in zip(names, (heads, shared, shared), strict=True)]
    qk, v = split_heads(fused_linear(x, parts, w, bias), heads, w, parts=[heads + shared, shared])
    qk = norm(qk) if norm else qk
    q, k = split(qk if rotation is None else rotate(qk, rotation, w), [heads, shared], w, "heads")
    return q, k, v


def groups(heads: int, shared: int) -> int:
    """How many query heads share one of keys. Raises `Error` where that is no whole number."""
    if heads < 1 or shared < 1 or heads % shared:
        raise Error(
            f"num_attention_heads is {heads} and num_key_value_heads {shared}: each of the latter serves as many of the "
            "former",
            "Look into config.json.",
        )
    return heads // shared


def feed_forward(
    x: Var,
    w: Cursor,
    inner: int,
    width: int,
    function: str,
    names: Sequence[str] = ("fc1", "activation_fn", "fc2"),
    bias: bool = True,
) -> Var:
    """(B, T, D) -> (B, T, inner) -> (B, T, width): two products with an activation between them."""
    first, act, second = names
    return linear(activation(linear(x, w / first, inner, bias), function, w / act), w / second, width, bias)


def gated_feed_forward(
    x: Var,
    w: Cursor,
    inner: int,
    width: int,
    function: str,
    names: Sequence[str] = ("gate_proj", "act_fn", "up_proj", "down_proj"),
    bias: bool = False,
) -> Var:
    """(B, T, D) -> (B, T, inner) twice -> (B, T, width): the activation of one product times the other."""
    gate, act, up, down = names
    y = activation(linear(x, w / gate, inner, bias), function, w / act)
    return linear(mul(y, linear(x, w / up, inner, bias), w / "gated"), w / down, width, bias)
