"""Products of matrices, against numpy in float64."""

from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb
from hypothesis import given
from hypothesis import strategies as st

from milbuild.runtime.registry import OPERATIONS
from tests.runtime.harness import Fault, arrays, close, covers, run, run_graph

SIDES = st.integers(1, 4)


@covers("linear")
@given(data=st.data())
def test_linear(data: Any) -> None:
    """x times the transposed weight, on the last axis of any rank, with a bias or without."""
    batch = data.draw(st.lists(SIDES, max_size=4))
    wide, narrow = data.draw(SIDES), data.draw(SIDES)
    x, weight = data.draw(arrays((*batch, wide))), data.draw(arrays((narrow, wide)))
    bias = data.draw(st.none() | arrays((narrow,), low=-50, high=50))
    expected = x.astype(np.float64) @ weight.T.astype(np.float64) + (0 if bias is None else bias)
    constants = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    close(run("linear", {"x": x}, **constants), np.float32(expected))


@covers("linear")
@given(x=arrays((2, 1, 3), np.int32), weight=arrays((2, 3), np.int32, low=-(2**25), high=2**25))
def test_linear_of_integers(x: np.ndarray, weight: np.ndarray) -> None:
    """Exactly, beyond what float32 holds."""
    bias = np.int32([1, -2])
    result = run("linear", {"x": x}, weight=weight, bias=bias)
    assert result.dtype == np.int32
    close(result, (x.astype(np.int64) @ weight.T + bias).astype(np.int32))


@covers("linear")
def test_linear_of_two_types() -> None:
    """From iOS17 on a weight may be of another type than x, which is the result's: an integer's is truncated."""
    x, whole = np.float32([[0.5, 1.25, 3]]), np.int32([[1, 2, 3], [-4, 5, 6]])
    result = run("linear", {"x": x}, opset=7, weight=whole, bias=np.int32([1, 2]))
    assert result.dtype == np.float32
    close(result, np.float32(x @ whole.T + [1, 2]))
    result = run("linear", {"x": np.int32([[1, 2, -3]])}, opset=7, weight=np.float32([[0.5, 0.25, 0.5], [1, 1, 2]]))
    assert result.dtype == np.int32
    close(result, np.int32([[0, -3]]))
    half = run("linear", {"x": x}, opset=7, weight=np.float16([[0.5, 1, 2]]), bias=np.float16([0.25]))
    close(half, np.float32([[0.5 * 0.5 + 1.25 + 6 + 0.25]]))


@covers("matmul")
@given(data=st.data())
def test_matmul(data: Any) -> None:
    """The last two axes, each transposed or not; the others broadcast."""
    rows, inner, columns = (data.draw(SIDES) for _ in range(3))
    batch = data.draw(st.lists(SIDES, max_size=3))
    first, second = (
        tuple(side if data.draw(st.booleans()) else 1 for side in batch)[data.draw(st.integers(0, len(batch))) :]
        for _ in range(2)
    )
    transposed = {}
    shapes = {"x": (rows, inner), "y": (inner, columns)}
    for name, shape in shapes.items():
        flag = data.draw(st.sampled_from([None, False, True]))
        if flag is not None:
            transposed[f"transpose_{name}"] = flag
        shapes[name] = shape[::-1] if flag else shape
    x, y = data.draw(arrays(first + shapes["x"])), data.draw(arrays(second + shapes["y"]))
    a, b = x.astype(np.float64), y.astype(np.float64)
    a = a.swapaxes(-1, -2) if transposed.get("transpose_x") else a
    b = b.swapaxes(-1, -2) if transposed.get("transpose_y") else b
    close(run("matmul", {"x": x, "y": y}, **transposed), np.float32(a @ b))


@covers("matmul")
@given(x=arrays((3,)), y=arrays((3, 4)), transpose_y=st.booleans())
def test_matmul_of_a_vector(x: np.ndarray, y: np.ndarray, transpose_y: bool) -> None:
    expected = np.float32(x.astype(np.float64) @ y.astype(np.float64))
    y = y.T.copy() if transpose_y else y
    close(run("matmul", {"x": x, "y": y}, transpose_y=transpose_y), expected)


@covers("matmul")
def test_matmul_of_vectors_that_coremltools_does_not_build() -> None:
    """It declares a wrong shape for a vector by matrices, and fails on a vector on the right, though both are documented."""
    matmul = OPERATIONS["matmul"].function
    vector, matrices = torch.tensor([1.0, 2]), torch.arange(12.0).reshape(3, 2, 2)
    rows = [[sum(float(vector[i] * m[i, j]) for i in range(2)) for j in range(2)] for m in matrices]
    close(matmul(vector, matrices, results=[]).numpy(), np.float32(rows))
    close(matmul(matrices.mT, matrices, results=[]).numpy(), np.float32(matrices.mT.numpy() @ matrices.numpy()))
    # Transposing has no effect on a vector.
    close(matmul(matrices.mT, vector, transpose_y=True, results=[]).numpy(), np.float32(rows))
    close(matmul(vector, vector, transpose_x=True, transpose_y=True, results=[]).numpy(), np.float32(5))


@covers("matmul")
@given(x=arrays((2, 2, 3), np.int32, low=-(2**20), high=2**20), y=arrays((3, 2), np.int32))
def test_matmul_of_integers(x: np.ndarray, y: np.ndarray) -> None:
    result = run("matmul", {"x": x, "y": y})
    assert result.dtype == np.int32
    close(result, (x.astype(np.int64) @ y).astype(np.int32))


@covers("matmul")
def test_matmul_of_two_types() -> None:
    """From iOS17 on a constant may be of another type than the argument, which gives the result its own."""
    x, whole = np.float32([[0.5, 1.25], [1, -1]]), np.int32([[1, 2], [-4, 5]])
    for inputs, constants, expected in (
        ({"x": x}, {"y": whole}, np.float32(x @ whole)),
        ({"y": x}, {"x": whole}, np.float32(whole @ x)),
        ({"x": whole}, {"y": x}, np.trunc(whole @ x).astype(np.int32)),
        ({"y": whole}, {"x": x}, np.trunc(x @ whole).astype(np.int32)),
    ):
        result = run("matmul", inputs, opset=7, **constants)
        assert result.dtype == expected.dtype
        close(result, expected)


# An equation, the shapes of its arguments by letter, and the letters whose axis may be 1 in one of the two.
EQUATIONS = {
    "nchw,nwhu->nchu": ("nchw", "nwhu", "nh"),
    "chw,whr->chr": ("chw", "whr", "h"),
    "abcd,adce->abce": ("abcd", "adce", "ac"),
    "xyz,zyw->xyw": ("xyz", "zyw", "y"),
}


@covers("einsum")
@given(data=st.data())
def test_einsum(data: Any) -> None:
    equation = data.draw(st.sampled_from(list(EQUATIONS)))
    first, second, broadcast = EQUATIONS[equation]
    sides = {letter: data.draw(SIDES) for letter in first + second}
    values = []
    for letters in (first, second):
        shape = [1 if letter in broadcast and data.draw(st.booleans()) else sides[letter] for letter in letters]
        values.append(data.draw(arrays(tuple(shape))))
    x, y = (array.astype(np.float64) for array in values)
    # Two matrices, of the axes -3 and -1, for every -2 (and -4).
    expected = (x.swapaxes(-3, -2) @ y.swapaxes(-3, -2)).swapaxes(-3, -2)
    result = run_graph(lambda x, y: mb.einsum(values=(x, y), equation=equation), {"x": values[0], "y": values[1]})[0]
    close(result, np.float32(expected))


@pytest.mark.parametrize("name", ["x", "y"])
def test_einsum_with_a_constant(name: str) -> None:
    values = {"x": np.float32([[[1, 2]], [[3, 4]]]), "y": np.float32([[[5, 6]], [[7, 8]]])}

    def build(**given: Any) -> Any:
        both = values | given
        return mb.einsum(values=(both["x"], both["y"]), equation="chw,whr->chr")

    close(run_graph(build, {name: values[name]})[0], np.float32([[[19, 22]], [[43, 50]]]))


FAULTS: dict[str, list[Fault]] = {
    "linear": [
        ("return F.linear(x, weight, bias)", "return F.linear(x, weight)"),
        ("return F.linear(x, weight, bias)", "return F.linear(x, -weight, bias)"),
        (
            "return F.linear(x, weight, bias)",
            "return F.linear(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)",
        ),
        ("None if bias is None else bias.float()", "None"),
        ('cast(product, "int32")', "product"),
        ('cast(product, "int32")', 'cast(product.floor(), "int32")'),
        ("if x.is_floating_point() == weight.is_floating_point():", "if True:"),
    ],
    "matmul": [
        ("x.mT if transpose_x and x.ndim > 1", "x.mT if transpose_y and x.ndim > 1"),
        ("y.mT if transpose_y and y.ndim > 1", "y.mT if transpose_x and y.ndim > 1"),
        ("x.mT if transpose_x and x.ndim > 1", "x.T if transpose_x and x.ndim > 1"),
        ("transpose_y: bool = False", "transpose_y: bool = True"),
        ("transpose_x: bool = False", "transpose_x: bool = True"),
        ("return torch.matmul(x, y)", "return torch.matmul(x.float(), y.float()).to(x.dtype)"),
        ('if results[0].dtype == "INT32"', "if x.dtype == torch.int32"),
        ('if results[0].dtype == "INT32"', "if y.dtype == torch.int32"),
        ('cast(product, "int32") if', "product if"),
    ],
    "einsum": [
        ("*values", "*reversed(values)"),
        ("torch.einsum(equation, *values)", 'torch.einsum("nchw,nwhu->nchu", *values)'),
        ("torch.einsum(equation, *values)", 'torch.einsum("chw,whr->chr", *values)'),
        ("torch.einsum(equation, *values)", "torch.matmul(*values)"),
        ("torch.einsum(equation, *values)", "-torch.einsum(equation, *values)"),
    ],
}
