"""What the layers of an encoder that looks both ways are made of. Names of modules are data: models differ by little else.

Shapes: B batch, T tokens, D features, H heads, E the width of a head.
"""

from coremltools.converters.mil.mil import Var

from milbuild.layers.activation import activation
from milbuild.layers.attention import attention, merge_heads, split_heads
from milbuild.layers.linear import first_token, fused_linear, linear
from milbuild.weights import Cursor


def self_attention(
    x: Var,
    w: Cursor,
    names: tuple[str, str, str, str],
    heads: int,
    width: int,
    *,
    each: int | None = None,
    mask: Var | None = None,
    bias: bool = True,
) -> Var:
    """(B, T, D) -> (B, T, `width`) by the modules of queries, keys, values and what is made of them. E is `each`, by default
    width / H; `mask` is added to the scores; `bias` is that of the first three."""
    each = width // heads if each is None else each
    *parts, output = names
    x = fused_linear(x, [(w / name, heads * each) for name in parts], w, bias)
    q, k, v = split_heads(x, heads, w, parts=3)  # (B, H, T, E) each
    return linear(merge_heads(attention(q, k, v, mask, each**-0.5, w), w), w / output, width)


def feed_forward(x: Var, w: Cursor, names: tuple[str, str, str], inner: int, function: str, width: int) -> Var:
    """(B, T, D) -> (B, T, `width`) through `inner` features: a product, an activation function and a product."""
    first, act, second = names
    return linear(activation(linear(x, w / first, inner), function, w / act), w / second, width)


def pooler(x: Var, w: Cursor, width: int, function: str) -> Var:
    """(B, T, D) -> (B, `width`): the first token through `dense` and an activation function."""
    return activation(linear(first_token(x, w), w / "dense", width), function, w / "activation")
