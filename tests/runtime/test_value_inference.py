"""The runtime against coremltools itself: the values that it infers for operations whose arguments are all constants.

Each case is built twice: of constants, where coremltools has the result in `val`, and of inputs that only the call brings.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Function, Operation
from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry
from coremltools.converters.mil.mil.types.type_mapping import nptype_from_builtin

from milbuild.runtime.registry import OPERATIONS
from tests.runtime.harness import TARGETS, close, covers, run_graph
from tests.runtime.test_signatures import ELSEWHERE, NOT_FOR_PROGRAMS, REGISTRY

RNG = np.random.default_rng(20)
# (inputs, constants) or (inputs, a function of the inputs that builds the operation).
Case = tuple[dict[str, np.ndarray], dict[str, Any] | Callable[..., Any]]


def some(*shape: int, low: float = -4, high: float = 4) -> np.ndarray:
    return RNG.uniform(low, high, shape).astype(np.float32)


def whole(*shape: int, low: int = -4, high: int = 4) -> np.ndarray:
    return RNG.integers(low, high, shape, np.int32, endpoint=True)


def truths(*shape: int) -> np.ndarray:
    return RNG.random(shape) < 0.5


def ints(*values: Any) -> np.ndarray:
    return np.int32(values)


def unary(low: float = -4, high: float = 4, **constants: Any) -> list[Case]:
    kept = {name: np.float32(value) for name, value in constants.items()}
    return [({"x": some(*shape, low=low, high=high)}, kept) for shape in ((5,), (2, 1, 3), (2, 3, 1, 2, 2))]


def binary(make: Callable[..., np.ndarray], low: float = -4, **range_of_y: Any) -> list[Case]:
    extra = {} if make is truths else {"low": low}
    shapes = [((5,), (5,)), ((2, 3, 1), (1, 4)), ((3,), (2, 1, 1, 2, 3))]
    return [({"x": make(*x, **extra), "y": make(*y, **{**extra, **range_of_y})}, {}) for x, y in shapes]


def reductions(name: str) -> list[Case]:
    low = 0.5 if name == "reduce_log_sum" else -2
    options: list[dict[str, Any]] = [{}, {"axes": [1]}, {"axes": [-1, 0], "keep_dims": True}, {"keep_dims": True}]
    if "arg" in name:
        options = [{}, {"axis": 0}, {"axis": -2, "keep_dims": True}, {"axis": 1, "output_dtype": "uint16"}]
    cases: list[Case] = [({"x": some(2, 3, 4, low=low, high=2)}, constants) for constants in options]
    if name in ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod"):
        cases.append(({"x": whole(3, 2)}, {"axes": [0]}))
    return cases


def constant_branches(x: Any) -> Any:
    return mb.cond(pred=mb.squeeze(x=x), _true_fn=lambda: mb.add(x=1.0, y=2.0), _false_fn=lambda: mb.add(x=4.0, y=8.0))


def written_list(x: Any) -> Any:
    ls = mb.make_list(init_length=3, dynamic_length=False, elem_shape=(2,))
    return mb.list_length(ls=mb.list_write(ls=ls, index=0, value=x))


def listed(operation: str, **constants: Any) -> Callable[..., Any]:
    return lambda **values: getattr(mb, operation)(values=tuple(values.values()), **constants)


def numbers(operation: str) -> Callable[..., Any]:
    """Arguments of rank 0, which the inputs of a program cannot be."""
    return lambda **values: getattr(mb, operation)(**{name: mb.squeeze(x=value) for name, value in values.items()})


CHANNELS = np.float32([0.25, -0.5, 2])
X, WEIGHT = some(2, 3, 4), some(5, 4)
ORDERS = np.argsort(some(2, 3, 4), 1).astype(np.int32)

CASES: dict[str, list[Case]] = {
    **{
        name: unary()
        for name in "abs atan ceil cos cosh erf exp exp2 floor round sign sin sinh square tan tanh".split()
    },
    **{name: unary() for name in "relu relu6 sigmoid softplus softsign".split()},
    **{name: unary(-0.9, 0.9) for name in ("acos", "asin", "atanh")},
    **{name: [*unary(0.1), *unary(0, 1e-5, epsilon=1e-3)] for name in ("inverse", "log", "rsqrt")},
    "sqrt": unary(0),
    "clip": unary(alpha=-1, beta=2),
    "threshold": [*unary(alpha=0.5), ({"x": whole(7)}, {"alpha": np.int32(1)})],
    "logical_not": [({"x": truths(2, 3)}, {})],
    "cast": [
        *(
            ({"x": some(2, 5, low=-100, high=100)}, {"dtype": kind})
            for kind in ("int32", "int8", "int16", "fp32", "bool")
        ),
        *(({"x": some(5, low=0, high=255)}, {"dtype": kind}) for kind in ("uint8", "uint16")),
        *(({"x": whole(9, low=-70000, high=70000)}, {"dtype": kind}) for kind in ("int8", "uint8", "int16", "uint16")),
        *(({"x": ints(0, 1, -5)}, {"dtype": kind}) for kind in ("fp16", "fp32", "bool")),
        *(({"x": truths(5)}, {"dtype": kind}) for kind in ("fp32", "int32")),
    ],
    "clamped_relu": [*unary(alpha=0.3, beta=2), *unary(alpha=-0.5, beta=1)],
    "elu": [*unary(alpha=1), *unary(alpha=0.3)],
    "gelu": [
        (x, {"mode": mode}) for mode in ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION") for x, _ in unary(-2)
    ],
    "leaky_relu": [*unary(alpha=0.1), *unary(alpha=2)],
    "linear_activation": unary(alpha=0.3, beta=-2),
    "prelu": [
        ({"x": some(2, 3, 4, 2)}, {"alpha": CHANNELS}),
        ({"x": some(1, 3, 4)}, {"alpha": np.full_like(CHANNELS, 0.2)}),
    ],
    "scaled_tanh": unary(alpha=1.5, beta=0.4),
    "sigmoid_hard": unary(alpha=0.3, beta=0.4),
    "softplus_parametric": [({"x": some(2, 3, 4)}, {"alpha": CHANNELS, "beta": CHANNELS[::-1].copy()})],
    "softmax": [({"x": some(2, 3, 4)}, {"axis": axis}) for axis in (-1, 0, 1)] + [({"x": some(4)}, {})],
    "thresholded_relu": unary(alpha=0.7),
    **{name: binary(some) + binary(whole) for name in ("add", "sub", "mul", "maximum", "minimum")},
    **{name: binary(some, low=0.5) for name in ("floor_div", "mod", "real_div", "pow")},
    **{name: binary(whole) for name in "equal not_equal greater greater_equal less less_equal".split()},
    **{name: binary(truths) for name in ("logical_and", "logical_or", "logical_xor")},
    "linear": [
        ({"x": some(2, 4)}, {"weight": WEIGHT, "bias": some(5)}),
        ({"x": some(2, 3, 4)}, {"weight": WEIGHT}),
        ({"x": some(4)}, {"weight": WEIGHT}),
        ({"x": whole(2, 4)}, {"weight": whole(5, 4), "bias": whole(5)}),
    ],
    "matmul": [
        ({"x": some(2, 3), "y": some(3, 4)}, {}),
        ({"x": some(2, 1, 3, 2), "y": some(5, 3, 4)}, {"transpose_x": True}),
        ({"x": some(2, 3), "y": some(2, 4, 3)}, {"transpose_y": True}),
        ({"x": some(3), "y": some(3, 4)}, {}),
        ({"x": whole(2, 3), "y": whole(3, 2)}, {}),
    ],
    "einsum": [
        ({"a": some(2, 3, 4, 5), "b": some(2, 5, 4, 6)}, listed("einsum", equation="nchw,nwhu->nchu")),
        ({"a": some(1, 3, 4, 5), "b": some(2, 5, 1, 6)}, listed("einsum", equation="nchw,nwhu->nchu")),
        ({"a": some(3, 4, 5), "b": some(5, 4, 6)}, listed("einsum", equation="abc,cbd->abd")),
    ],
    "l2_norm": [({"x": some(2, 3, 4, 2)}, {}), ({"x": some(3, 4, 2)}, {"epsilon": np.float32(0.3)})],
    "layer_norm": [
        ({"x": X}, {"axes": [-1], "gamma": some(4), "beta": some(4)}),
        ({"x": X}, {"axes": [1, 2], "epsilon": np.float32(0.1)}),
        ({"x": X}, {"axes": [1], "gamma": some(3)}),
    ],
    **{name: reductions(name) for name in REGISTRY if name.startswith("reduce_")},
    "gather": [
        ({"x": X, "indices": ints(2, 0, 1)}, {"axis": 1}),
        ({"x": X, "indices": ints([1, 0], [0, 1])}, {}),
        ({"x": X, "indices": ints([2, 0], [1, 1])}, {"axis": 1, "batch_dims": 1}),
        ({"x": X, "indices": ints(2, 0)}, {"axis": -1, "validate_indices": False}),
        ({"x": whole(4), "indices": ints(3, 1)}, {}),
    ],
    "gather_along_axis": [
        ({"x": X, "indices": whole(2, 3, 4, low=0, high=2)}, {"axis": 1}),
        ({"x": X, "indices": whole(1, 3, 4, low=0, high=1)}, {"axis": 0}),
        ({"x": X, "indices": whole(2, 3, 2, low=0, high=3)}, {"axis": -1, "validate_indices": False}),
    ],
    "scatter_along_axis": [
        ({"data": X, "indices": ORDERS, "updates": some(2, 3, 4)}, {"axis": 1, "mode": "update"}),
        (
            {"data": X, "indices": ORDERS, "updates": some(2, 3, 4)},
            {"axis": -2, "mode": "update", "validate_indices": True},
        ),
        ({"data": X, "indices": whole(1, 3, 4, low=0, high=1), "updates": some(1, 3, 4)}, {"mode": "update"}),
    ],
    "band_part": [({"x": some(3, 4)}, {"lower": low, "upper": up}) for low, up in ((0, 1), (1, 0), (-1, 1), (2, -1))]
    + [({"x": some(2, 3, 3)}, {"lower": 0})],
    "cumsum": [
        ({"x": X}, {}),
        ({"x": X}, {"axis": 1}),
        ({"x": X}, {"axis": -1, "reverse": True}),
        ({"x": whole(5)}, {"reverse": True}),
    ],
    "fill": [({"shape": ints(2, 3)}, {"value": np.float32(1.5)}), ({"shape": ints(4)}, {"value": np.int32(3)})],
    "fill_like": [({"ref_tensor": X}, {"value": np.float32(1.5)}), ({"ref_tensor": X}, {})],
    "non_zero": [({"x": np.float32(truths(2, 3))}, {}), ({"x": np.int32(truths(2, 2, 3))}, {})],
    "pad": [
        ({"x": X}, {"pad": [1, 2], "mode": "constant", "constant_val": np.float32(1.5)}),
        ({"x": X}, {"pad": [0, 1, 2, 0, 1, 1]}),
        ({"x": some(1, 3, 4, 4)}, {"pad": [1, 2, 2, 1], "mode": "reflect"}),
        ({"x": some(1, 3, 4, 4)}, {"pad": [1, 2, 2, 1], "mode": "replicate"}),
    ],
    "range_1d": [
        ({"start": np.array([low]), "end": np.array([high]), "step": np.array([step])}, numbers("range_1d"))
        for low, high, step in (ints(0, 5, 1), ints(2, 9, 3), ints(5, 0, -2), np.float32([0.5, 2.0, 0.25]))
    ],
    "tile": [({"x": X}, {"reps": [1, 2, 3]}), ({"x": X}, {"reps": [2, 1, 1]})],
    "argsort": [({"x": X}, {"axis": axis, "ascending": up}) for axis, up in ((-1, False), (1, True), (0, False))],
    "topk": [({"x": X}, {"k": 2, "axis": axis, "ascending": up}) for axis, up in ((-1, False), (1, True), (0, False))]
    + [({"x": X}, {"k": 1, "output_indices_dtype": "uint16"}), ({"x": X}, {"k": 2, "return_indices": False})],
    "flatten2d": [({"x": X}, {"axis": axis}) for axis in (1, 2, -1)],
    "shape": [({"x": X}, {}), ({"x": whole(5)}, {})],
    "concat": [
        ({"a": X, "b": some(2, 1, 4)}, listed("concat", axis=1)),
        ({"a": X, "b": some(2, 3, 4)}, listed("concat", axis=-1)),
        ({"a": X, "b": X, "c": X}, listed("concat", axis=0, interleave=False)),
    ],
    "stack": [({"a": X, "b": some(2, 3, 4), "c": X}, listed("stack", axis=axis)) for axis in (0, 1, -1)],
    "split": [
        ({"x": X}, {"num_splits": 2, "axis": 2}),
        ({"x": X}, {"split_sizes": [1, 3], "axis": -1}),
        ({"x": X}, {"num_splits": 3, "split_sizes": [1, 1, 1], "axis": 1}),
    ],
    "identity": [({"x": X}, {}), ({"x": whole(3)}, {})],
    "expand_dims": [({"x": X}, {"axes": axes}) for axes in ([0], [1, -1], [-2])],
    "reshape": [({"x": X}, {"shape": shape}) for shape in ([4, 6], [-1], [2, -1, 2], [2, 3, 4, 1])],
    "reverse": [({"x": X}, {"axes": [1]}), ({"x": X}, {"axes": [-1, 0]}), ({"x": X}, {})],
    "slice_by_index": [
        ({"x": X}, {"begin": [0, 1, 0], "end": [2, 3, 4], "stride": [1, 1, 2]}),
        ({"x": X}, {"begin": [-1, -2, -4], "end": [2, 3, -1]}),
        (
            {"x": X},
            {"begin": [1, 2, 1], "end": [1, 0, 3], "begin_mask": [True, False, False], "end_mask": [True, True, False]},
        ),
        ({"x": X}, {"begin": [1, 0, 3], "end": [0, 3, 0], "stride": [1, 2, -1], "squeeze_mask": [True, False, False]}),
        ({"x": X}, {"begin": [1, 2, 3], "end": [2, 3, 4], "squeeze_mask": [True, True, True]}),
    ],
    "slice_by_size": [
        ({"x": X, "begin": ints(0, 1, 2)}, {"size": [2, 1, 2]}),
        ({"x": X, "begin": ints(1, 0, 1)}, {"size": [-1, 2, -1]}),
    ],
    "slice_update": [
        ({"x": X, "update": some(1, 2, 4)}, {"begin": [1, 0, 0], "end": [2, 2, 4]}),
        (
            {"x": X, "update": some(2, 3, 2)},
            {"begin": [0, 0, 0], "end": [0, 0, 4], "stride": [1, 1, 2]} | {"end_mask": [True, True, False]},
        ),
        ({"x": X, "update": some(3, 4)}, {"begin": [1, 0, 0], "end": [2, 3, 4], "squeeze_mask": [True, False, False]}),
    ],
    "squeeze": [({"x": some(1, 3, 1, 2)}, {}), ({"x": some(1, 3, 1, 2)}, {"axes": [-2]}), ({"x": some(1)}, {})],
    "transpose": [({"x": X}, {"perm": perm}) for perm in ([2, 0, 1], [-1, -2, -3], [0, 1, 2])],
    "select": [
        ({"cond": truths(2, 3), "a": some(2, 3), "b": some(2, 3)}, {}),
        ({"cond": truths(3, 1), "a": some(2, 1, 4), "b": some(1, 3, 4)}, {}),
    ],
    "quantize": [
        ({"input": some(2, 3, low=-300, high=300)}, {"scale": np.float32(1.7), "output_dtype": "int8"}),
        ({"input": some(2, 3)}, {"scale": np.float32(0.1), "zero_point": np.uint8(9), "output_dtype": "uint8"}),
        (
            {"input": some(2, 3)},
            {"scale": CHANNELS**2, "zero_point": np.int8([1, 2, 3]), "axis": 1, "output_dtype": "int8"},
        ),
    ],
    "scaled_dot_product_attention": [
        ({"query": some(2, 3, 4), "key": some(2, 5, 4), "value": some(2, 5, 6)}, {}),
        ({"query": some(1, 2, 3, 4), "key": some(1, 2, 5, 4), "value": some(1, 2, 5, 6), "attn_mask": some(3, 5)}, {}),
        ({"query": some(2, 3, 4), "key": some(2, 3, 4), "value": some(2, 3, 4)}, {"attn_mask": np.tri(3, dtype=bool)}),
    ],
    "cond": [({"x": np.array([truth])}, constant_branches) for truth in (True, False)],
    "list_length": [({"x": some(2)}, written_list)],
    "const": [({"x": some(1)}, lambda x, value=value: mb.const(val=value)) for value in (X, whole(3), truths(4))],
}

# Where what coremltools infers is not what it documents: an example, and why.
DEVIATIONS: dict[str, tuple[Case, str]] = {
    "clamped_relu": (
        unary(alpha=0.5, beta=-1)[0],
        "where beta is negative it counts twice: min(x, beta) + min(0, beta)",
    ),
    "concat": (({"a": X, "b": some(2, 3, 4)}, listed("concat", axis=1, interleave=True)), "it does not interleave"),
    "scaled_dot_product_attention": (
        (
            {name: some(1, 2, 2) for name in ("query", "key", "value")},
            {"attn_mask": np.array([[True, True], [False, False]])},
        ),
        "a query that may look at nothing gives no numbers; PyTorch, which the documentation names, gives zeros",
    ),
    "scatter_along_axis": (
        ({"data": X, "indices": whole(2, 3, 4, low=0, high=0), "updates": X}, {"axis": 1, "mode": "mul"}),
        "it knows no mode but update",
    ),
}
# Where it breaks off.
FAILURES: dict[str, tuple[Case, str]] = {
    "cumsum": (({"x": X}, {"exclusive": True}), "it takes the data for a type"),
    "flatten2d": (({"x": X}, {"axis": 0}), "the product of no sizes is a float"),
    "pow": (({"x": ints(2), "y": ints(-1)}, {}), "numpy has no negative powers of integers"),
    "squeeze": (({"x": some(1, 1)}, {}), "it takes a row of two axes for the number"),
}
# Nothing but "TODO".
UNWRITTEN = {"reverse_sequence"}

# Operations of which coremltools infers no value: the property tests of their groups replace it.
NOT_INFERRED = """
affine avg_pool batch_norm batch_to_space classify constexpr_affine_dequantize constexpr_blockwise_shift_scale
constexpr_cast constexpr_lut_to_dense constexpr_lut_to_sparse constexpr_sparse_blockwise_shift_scale
constexpr_sparse_to_dense conv conv_transpose crop crop_resize depth_to_space dequantize gather_nd gru instance_norm
l2_pool list_gather list_read list_scatter list_write local_response_norm lstm make_list max_pool
non_maximum_suppression one_hot pixel_shuffle pixel_unshuffle random_bernoulli random_categorical random_normal
random_uniform read_state resample reshape_like resize resize_bilinear resize_nearest_neighbor reverse_sequence rnn
scatter scatter_nd silu sliding_windows space_to_batch space_to_depth upsample_bilinear upsample_nearest_neighbor
while_loop write_state
""".split()


def inferred(operation: str) -> dict[int, Any]:
    """The versions, from iOS15 on, that infer values, by the first opset that has them."""
    found: dict[int, Any] = {}
    versions = SSAOpRegistry.core_ops.get(operation, {})
    for opset, target in TARGETS.items():
        known = [version for since, version in versions.items() if since <= target]
        if known and known[-1] not in found.values() and known[-1].value_inference is not Operation.value_inference:
            found[opset] = known[-1]
    return found


def builds(operation: str, version: Any, case: Case) -> Callable[..., Any] | None:
    """None for a version that lacks one of the case's parameters."""
    inputs, how = case
    if not isinstance(how, dict):
        return how
    if operation == "cast" and how["dtype"] not in version.supported_dtypes():
        return None
    known = {*inputs, *how} <= version.input_spec.input_types.keys()
    return (lambda **values: getattr(mb, operation)(**values, **how)) if known else None


def folded(build: Callable[..., Any], inputs: dict[str, np.ndarray], opset: int) -> list[np.ndarray]:
    """What coremltools infers, of the types that it declares."""
    with Function({}, opset_version=TARGETS[opset]):
        made = build(**{name: array.copy() for name, array in inputs.items()})
    variables = list(made) if isinstance(made, list | tuple) else [made]
    return [np.asarray(var.val).astype(nptype_from_builtin(var.dtype)) for var in variables]


@covers(*CASES)
def test_values(operation: str) -> None:
    for opset, version in inferred(operation).items():
        executed = 0
        for case in CASES[operation]:
            if build := builds(operation, version, case):
                executed += 1
                expected = folded(build, case[0], opset)
                results = run_graph(build, case[0], opset=opset)
                for result, wanted in zip(results, expected, strict=True):
                    assert result.dtype.kind == wanted.dtype.kind.replace("u", "i")
                    close(result, wanted)
        assert executed, version


@pytest.mark.parametrize("operation", DEVIATIONS)
def test_deviations(operation: str) -> None:
    """They are still there, or the reason must go."""
    (inputs, how), _ = DEVIATIONS[operation]
    opset, version = max(inferred(operation).items())
    build = builds(operation, version, (inputs, how))
    assert build is not None
    with np.errstate(all="ignore"):
        expected = folded(build, inputs, opset)[0]
    assert not np.allclose(run_graph(build, inputs, opset=opset)[0], expected)


@pytest.mark.parametrize("operation", FAILURES)
def test_failures(operation: str) -> None:
    (inputs, how), _ = FAILURES[operation]
    opset, version = max(inferred(operation).items())
    build = builds(operation, version, (inputs, how))
    assert build is not None
    run_graph(build, inputs, opset=opset)
    with pytest.raises((TypeError, ValueError)):
        folded(build, inputs, opset)


def test_no_operation_is_missed() -> None:
    infers = {name for name in REGISTRY if inferred(name)} - NOT_FOR_PROGRAMS.keys()
    assert infers - UNWRITTEN == CASES.keys()
    assert sorted({*OPERATIONS, *ELSEWHERE, "write_state"} - CASES.keys()) == NOT_INFERRED
