"""Weights as constants, and what multiplies by them."""

from typing import Any, Literal

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var, types
from coremltools.converters.mil.mil.ops.defs.iOS15.control_flow import Const

from milbuild.errors import Error
from milbuild.layers.layout import layer
from milbuild.weights import Cursor, Joined, Tensor, Unread, zeros

# How model classes name an axis.
Axis = Literal["tokens", "features", "heads", "channels"]


class const(Const):  # type: ignore[misc]  # an operation is called as its class is
    """A constant whose value is a tensor that is not read yet: its type is at hand, where coremltools works out that of any
    value three times over."""

    def type_value_inference(self, overwrite_output: bool = False) -> None:
        array = self.val.val
        value = types.tensor(types.numpy_type_to_builtin_type(array.dtype), array.shape)()
        value.val = array
        self._output_vars = [Var(self.name, type(value), value, op=self, op_output_idx=0)]


def constant(tensor: Tensor, w: Cursor, name: str) -> Var:
    """A checkpoint's tensor as a constant of the graph, in the graph's precision, unread until it is saved."""
    return mb._add_op(const, val=Unread.of(tensor, w.dtype), name=f"{w.name}_{name}")


def like(x: Var, value: float | list[float]) -> Any:
    """A number, or a row of them, in the type of `x`: MIL promotes nothing."""
    return types.nptype_from_builtin(x.dtype)(value)


def add(x: Var, y: Var, w: Cursor) -> Var:
    """x + y; in a residual stream the sum is the output of the module `w`."""
    return mb.add(x=x, y=y, name=w.name)


def mul(x: Var, y: Var, w: Cursor) -> Var:
    """x * y, as the output of `w`."""
    return mb.mul(x=x, y=y, name=w.name)


@layer
def split(x: Var, sizes: list[int], w: Cursor, axis: Axis = "tokens") -> list[Var]:
    """Parts of an axis, of these sizes: (B, T, D) along tokens or features, (B, H, T, E) along heads, (B, C, ...) along
    channels."""
    return list(mb.split(x=x, split_sizes=sizes, axis=-1 if axis == "features" else 1, name=f"{w.name}_parts"))


@layer
def plain(x: Var) -> Var:
    """Hidden states in any layout -> (B, T, D), in which heads read them."""
    return x


@layer
def last_tokens(x: Var, name: str) -> Var:
    """(B, T, D) -> (B, 1, D), the last token of this call, as an operation of that name."""
    if x.shape[1] == 1:
        return x
    masks = {"begin_mask": [True, False, True], "end_mask": [True, True, True]}
    return mb.slice_by_index(x=x, begin=[0, -1, 0], end=[0, 0, 0], **masks, name=name)


@layer
def first_token(x: Var, w: Cursor) -> Var:
    """(B, T, D) -> (B, D), the first token."""
    keep = [True, False, True]
    return mb.slice_by_index(
        x=x,
        begin=[0, 0, 0],
        end=[0, 1, 0],
        begin_mask=keep,
        end_mask=keep,
        squeeze_mask=[False, True, False],
        name=f"{w.name}_first",
    )


def shift_right(ids: Var, first: int | None) -> Var:
    """int32 (B, T) -> (B, T): one place on, with the id `first` in front; the last is gone. As transformers makes a
    decoder's input of a text that it reads itself. Raises `Error` without a `first`."""
    if first is None:
        raise Error("config.json names no decoder_start_token_id, which comes before the first token of a decoder")
    batch, tokens = ids.shape
    start = np.full((batch, 1), first, np.int32)
    if tokens == 1:
        return mb.const(val=start, name="decoder_input_ids")
    keep = mb.slice_by_index(
        x=ids, begin=[0, 0], end=[0, -1], begin_mask=[True, True], end_mask=[True, False], name="ids_but_the_last"
    )
    return mb.concat(values=[start, keep], axis=1, name="decoder_input_ids")


@layer
def linear(x: Var, w: Cursor, width: int, bias: bool = True) -> Var:
    """(..., D) -> (..., width), with a weight stored (width, D), as torch.nn.Linear has it."""
    return _linear(x, w.tensor("weight", width, x.shape[-1]), w, width, bias)


@layer
def conv1d(x: Var, w: Cursor, width: int) -> Var:
    """(..., D) -> (..., width), with a weight stored (D, width), as transformers' Conv1D has it; transposed when saved."""
    return _linear(x, w.tensor("weight", x.shape[-1], width).T, w, width, bias=True)


@layer
def linear_from(x: Var, w: Cursor, weight: Tensor, bias: Tensor | None = None) -> Var:
    """(..., D) -> (..., V) with tensors (V, D) and (V,) of any module as those of `w`."""
    arguments = {} if bias is None else {"bias": constant(bias, w, "bias")}
    return mb.linear(x=x, weight=constant(weight, w, "weight"), name=w.name, **arguments)


def tied_weight(w: Cursor, table: Cursor, rows: int, width: int, shares: bool) -> Tensor:
    """The weight of a module that may share the token embedding's `table`, as transformers ties them: one that the file has
    and that differs is used whatever the configuration says; one that is missing is the table's, if `tie_word_embeddings`
    says so."""
    if "weight" in w:
        shares = shares and w.equals(table, "weight")
    elif not shares:
        w.expect("weight", "config.json says tie_word_embeddings: false")
    return table.tensor("weight", rows, width) if shares else w.tensor("weight", rows, width)


@layer
def embedding(
    ids: Var | np.ndarray, w: Cursor, rows: int, width: int, scale: float = 1.0, table: Tensor | None = None
) -> Var:
    """int32 (...) -> (..., width), by the table of `w` or another. Ids that are known when the graph is built (3, 4, 5, ...)
    become a slice of it."""
    table = w.tensor("weight", rows, width) if table is None else table
    if isinstance(ids, np.ndarray):
        if not np.array_equal(ids, np.arange(ids[0], ids[0] + len(ids))):
            raise AssertionError(f"ids known in advance must be consecutive, got {ids}")
        return constant(table.rows(int(ids[0]), int(ids[0]) + len(ids)), w, "weight")
    name = w.name if scale == 1 else f"{w.name}_rows"
    x = mb.gather(x=constant(table, w, "weight"), indices=ids, axis=0, name=name)
    return x if scale == 1 else mb.mul(x=x, y=like(x, scale), name=w.name)


def shared_embedding(
    ids: Var, w: Cursor, table: Cursor, rows: int, width: int, shares: bool, scale: float = 1.0
) -> Var:
    """`embedding` by the table of `w`, or by that of several modules together (`tied_weight`)."""
    return embedding(ids, w, rows, width, scale, tied_weight(w, table, rows, width, shares))


@layer
def fused_linear(x: Var, parts: list[tuple[Cursor, int]], w: Cursor, bias: bool | list[bool] = True) -> Var:
    """(..., D) -> (..., the widths' sum): modules that read the same tokens as one product, called after `w`. With a list,
    of some of them only has a bias."""
    weight = Joined(*(part.tensor("weight", width, x.shape[-1]) for part, width in parts))
    which = bias if isinstance(bias, list) else [bias] * len(parts)
    biases = [
        part.tensor("bias", width) if has else zeros(width) for (part, width), has in zip(parts, which, strict=True)
    ]
    arguments = {"bias": constant(Joined(*biases), w, "bias")} if any(which) else {}
    return mb.linear(x=x, weight=constant(weight, w, "weight"), name=f"{w.name}_joined", **arguments)


def _linear(x: Var, weight: Tensor, w: Cursor, width: int, bias: bool) -> Var:
    arguments = {"bias": constant(w.tensor("bias", width), w, "bias")} if bias else {}
    return mb.linear(x=x, weight=constant(weight, w, "weight"), name=w.name, **arguments)
