"""Products with weights (coremltools: ops/defs/iOS15/linear.py)."""

from coreai import authoring as ai
from coreai.authoring import Value

from milbuild.coreai.registry import Refused, rule
from milbuild.coreai.rules.values import rank, reshaped, shape, signed, unsigned


@rule
def linear(x: Value, weight: Value, bias: Value | None = None) -> Value:
    y = _product(x, ai.transpose(weight, unsigned([1, 0])))
    return y if bias is None else ai.broadcasting_add(y, bias)


@rule
def matmul(x: Value, y: Value, transpose_x: bool = False, transpose_y: bool = False) -> Value:
    if rank(x) < 2 or rank(y) < 2:
        raise Refused("a vector is a factor")
    return _product(swapped(x) if transpose_x else x, swapped(y) if transpose_y else y)


def swapped(x: Value) -> Value:
    """The last two axes in the other order."""
    axes = list(range(rank(x)))
    return ai.transpose(x, unsigned([*axes[:-2], axes[-1], axes[-2]]))


def _product(x: Value, y: Value) -> Value:
    """Of any ranks; those before the last two axes broadcast."""
    if rank(x) == rank(y) == 1:
        raise Refused("both factors are vectors")
    if rank(x) == 1:
        found = ai.broadcasting_batch_matmul(reshaped(x, [1, -1]), y)
        return ai.shrink_dims(found, signed([rank(found) - 2]))
    return ai.broadcasting_batch_matmul(x, y)


@rule
def einsum(values: list[Value], equation: str) -> Value:
    """Products of two values, as MIL has them: the axes that both keep first, then a product of matrices."""
    left, _, right = equation.replace(" ", "").partition("->")
    parts = left.split(",")
    if len(values) != 2 or len(parts) != 2 or any(len(set(part)) != len(part) for part in (*parts, right)):
        raise Refused(f"the equation is {equation}")
    x, y = values
    both = [axis for axis in parts[0] if axis in parts[1] and axis in right]
    summed = [axis for axis in parts[0] if axis in parts[1] and axis not in right]
    rows = [axis for axis in parts[0] if axis not in parts[1]]
    columns = [axis for axis in parts[1] if axis not in parts[0]]
    if not set(rows + columns) <= set(right):
        raise Refused(f"the equation is {equation}")
    lengths = dict(zip(parts[0], shape(x), strict=True)) | dict(zip(parts[1], shape(y), strict=True))
    if any(length is None for length in lengths.values()):
        raise Refused("a length of the equation is known only at the call")

    def matrix(value: Value, part: str, order: list[list[str]]) -> Value:
        moved = ai.transpose(value, unsigned([part.index(axis) for group in order for axis in group]))
        sizes = [lengths[axis] or 0 for axis in order[0]]
        for group in order[1:]:
            size = 1
            for axis in group:
                size *= lengths[axis] or 0
            sizes.append(size)
        return reshaped(moved, sizes)

    product = ai.broadcasting_batch_matmul(
        matrix(x, parts[0], [both, rows, summed]), matrix(y, parts[1], [both, summed, columns])
    )
    order = [*both, *rows, *columns]
    wide = reshaped(product, [lengths[axis] or 0 for axis in order])
    return ai.transpose(wide, unsigned([order.index(axis) for axis in right]))
