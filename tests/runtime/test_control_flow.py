"""Choosing, lists, and what the engine runs itself: branches, loops and states.

Random programs with blocks and states are run by numpy, too, where every value is a copy of its own.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Function, types
from hypothesis import given
from hypothesis import strategies as st

from milbuild import Error, runtime
from milbuild.runtime.registry import OPERATIONS
from tests.runtime.harness import KINDS, TARGETS, Fault, arrays, close, covers, run, run_graph, save

ANY = st.sampled_from([np.float32, np.int32, np.bool_])


def run_states(
    build: Any, calls: list[dict[str, np.ndarray]], states: dict[str, tuple[int, ...]], precision: str = "declared"
) -> tuple[list[list[np.ndarray]], dict[str, np.ndarray]]:
    """What `build` returns at each of several calls on one state, and what the state holds after them."""
    variables: dict[str, Any] = {
        name: mb.placeholder(array.shape, KINDS[array.dtype.name]) for name, array in calls[0].items()
    }
    variables |= {name: mb.state_tensor_placeholder(shape, types.fp16) for name, shape in states.items()}
    with Function(variables, opset_version=TARGETS[8]) as function:
        outputs = list(build(**function.inputs))
        function.set_outputs(outputs)
    with tempfile.TemporaryDirectory() as folder:
        model = runtime.load(save(function, Path(folder) / "x.mlpackage"), precision=precision)
    state, results = model.make_state(), []
    for inputs in calls:
        found: dict[str, Any] = dict(model._body.constants)

        def collect(operation: Any, values: tuple[Any, ...], found: dict[str, Any] = found) -> None:
            found.update((value.name, result) for value, result in zip(operation.outputs, values, strict=True))

        model.predict(inputs, state, callback=collect)
        found.update((name, torch.from_numpy(array)) for name, array in inputs.items())
        # Looked at when all is over: what was read before may not have changed since.
        results.append([found[var.name].numpy().copy() for var in outputs])
    return results, {name: state.read_state(name) for name in states}


def vector(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def entry(x: Any, index: int) -> Any:
    """A scalar of the program."""
    return mb.slice_by_index(x=x, begin=[index], end=[0], squeeze_mask=[True])


# Choosing


@covers("select")
@given(data=st.data())
def test_select(data: Any) -> None:
    shape = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))

    def part() -> tuple[int, ...]:
        """Of the same rank or less, some axes of one entry."""
        kept = shape[data.draw(st.integers(0, len(shape) - 1)) :]
        return tuple(data.draw(st.sampled_from([1, size])) for size in kept)

    kind = data.draw(ANY)
    cond = data.draw(arrays(part(), np.bool_))
    # coremltools declares the shape without looking at the condition's.
    a, b = data.draw(arrays(tuple(shape), kind)), data.draw(arrays(part(), kind))
    a, b = (a, b) if data.draw(st.booleans()) else (b, a)
    expected = np.empty(shape, kind)
    for place in np.ndindex(*shape):
        expected[place] = (
            np.broadcast_to(a, shape) if np.broadcast_to(cond, shape)[place] else np.broadcast_to(b, shape)
        )[place]
    result = run("select", {"cond": cond, "a": a, "b": b})
    assert result.dtype == kind
    close(result, expected)


@covers("select")
def test_select_hides_what_is_not_chosen() -> None:
    inputs = {"cond": np.array([True, False]), "a": vector(1, np.nan), "b": vector(np.inf, 2)}
    close(run("select", inputs), vector(1, 2))


# Lists


@covers("make_list", "list_length", "list_read", "list_write", "list_gather", "list_scatter")
@given(data=st.data())
def test_lists(data: Any) -> None:
    """A random sequence of writes and reads, beside a Python list."""
    kind = data.draw(st.sampled_from(["fp32", "int32", "bool"]))
    dtype = {"fp32": np.float32, "int32": np.int32, "bool": np.bool_}[kind]
    shape = tuple(data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=2)))
    length = data.draw(st.integers(1, 3))
    values = data.draw(arrays((4, *shape), dtype))
    expected_list = [np.zeros(shape, dtype)] * length
    expected: list[np.ndarray] = []

    def extend(index: int) -> None:
        expected_list.extend([np.zeros(shape, dtype)] * (index + 1 - len(expected_list)))

    def build(values: Any, numbers: Any) -> list[Any]:
        ls = mb.make_list(init_length=length, elem_shape=shape, dtype=kind)
        older, made = ls, []
        for _ in range(data.draw(st.integers(1, 5))):
            what = data.draw(st.sampled_from(["write", "scatter", "read", "gather", "length"]))
            index = data.draw(st.integers(0, 4))
            if what == "write":
                extend(index)
                source = data.draw(st.integers(0, 3))
                one = mb.gather(x=mb.cast(x=values, dtype="fp32"), indices=np.int32(source), axis=0)
                ls = mb.list_write(ls=ls, index=entry(numbers, index), value=mb.cast(x=one, dtype=kind))
                expected_list[index] = original[source]
            elif what == "scatter":
                places = data.draw(st.lists(st.integers(0, 4), min_size=4, max_size=4))
                ls = mb.list_scatter(ls=ls, indices=np.array(places, np.int32), value=values)
                for place, value in zip(places, original, strict=True):
                    extend(place)
                    expected_list[place] = value
            elif what == "length":
                made.append(mb.list_length(ls=ls))
                expected.append(np.array(len(expected_list), np.int32))
            elif what == "read":
                index %= len(expected_list)
                made.append(mb.list_read(ls=ls, index=np.int32(index)))
                expected.append(expected_list[index].copy())
            else:
                places = [place % len(expected_list) for place in data.draw(st.lists(st.integers(0, 4), min_size=1))]
                made.append(mb.list_gather(ls=ls, indices=np.array(places, np.int32)))
                expected.append(np.stack([expected_list[place] for place in places]))
        # What was written changed no older list.
        made += [mb.list_read(ls=older, index=0), mb.list_length(ls=older)]
        expected.extend([np.zeros(shape, dtype), np.array(length, np.int32)])
        return made

    original = values
    results = run_graph(build, {"values": values, "numbers": np.arange(5, dtype=np.int32)})
    for result, wanted in zip(results, expected, strict=True):
        assert result.dtype == wanted.dtype
        close(result, wanted)


@covers("make_list", "list_length")
def test_a_length_that_the_call_tells() -> None:
    def build(x: Any) -> Any:
        ls = mb.make_list(init_length=entry(x, 1), elem_shape=(2,), dtype="int32")
        return mb.list_length(ls=ls), mb.list_gather(ls=ls, indices=[0, 2])

    length, values = run_graph(build, {"x": np.array([7, 3], np.int32)})
    assert length == 3
    close(values, np.zeros((2, 2), np.int32))


@covers("make_list")
def test_elements_of_a_shape_that_the_first_write_tells() -> None:
    def build(x: Any) -> Any:
        ls = mb.list_write(ls=mb.make_list(elem_shape=("unknown_size", 2)), index=2, value=x)
        return mb.list_length(ls=ls), mb.list_gather(ls=ls, indices=[2, 1])

    x = np.ones((3, 2), np.float32)
    length, values = run_graph(build, {"x": x})
    assert length == 3
    close(values, np.stack([x, np.zeros_like(x)]))


@covers("list_read", "list_write", "list_gather", "list_scatter")
def test_lists_have_an_end(operation: str) -> None:
    """There is nothing to read; a write makes the list longer, but there is nothing before its beginning."""
    function, ls = OPERATIONS[operation].function, [torch.zeros(2)] * 3
    for wrong in (3, -1) if operation in ("list_read", "list_gather") else (-1,):
        arguments: dict[str, Any] = (
            {"index": wrong} if operation in ("list_read", "list_write") else {"indices": [0, wrong]}
        )
        if operation == "list_write":
            arguments["value"] = torch.ones(2)
        elif operation == "list_scatter":
            arguments["value"] = torch.ones(2, 2)
        with pytest.raises(IndexError, match=f"the index {wrong} is outside of a list of 3"):
            function(ls=ls, **arguments)
    if operation == "list_scatter":
        with pytest.raises(ValueError, match=r"shorter|longer"):
            function(ls=ls, indices=[0, 1], value=torch.ones(1, 2))


@covers("make_list", "list_write", "list_scatter")
def test_fixed_lists_do_not_grow() -> None:
    x = np.ones(2, np.float32)

    def written(index: int, scatter: bool) -> np.ndarray:
        def build(x: Any) -> Any:
            ls = mb.make_list(init_length=3, elem_shape=(2,), dynamic_length=False)
            ls = mb.list_write(ls=ls, index=0, value=x)
            if scatter:
                ls = mb.list_scatter(ls=ls, indices=np.int32([index]), value=mb.expand_dims(x=x, axes=[0]))
            else:
                ls = mb.list_write(ls=ls, index=index, value=x)
            return mb.list_gather(ls=ls, indices=[0, 1, 2])

        return run_graph(build, {"x": x})[0]

    for scatter in (False, True):
        close(written(2, scatter), np.stack([x, np.zeros_like(x), x]))
        with pytest.raises(Error, match="the index 3 is outside of a list of 3"):
            written(3, scatter)


# Branches


@covers("cond")
def test_both_branches() -> None:
    def build(p: Any, x: Any) -> Any:
        return mb.cond(
            pred=entry(p, 0),
            _true_fn=lambda: (mb.add(x=x, y=1.0), mb.mul(x=x, y=2.0)),
            _false_fn=lambda: (mb.add(x=x, y=-1.0), x),
        )

    x = vector(2, 3)
    for p, expected in ((True, [x + 1, x * 2]), (False, [x - 1, x])):
        for result, wanted in zip(run_graph(build, {"p": np.array([p]), "x": x}), expected, strict=True):
            close(result, wanted)


@covers("cond")
def test_a_branch_of_nothing_but_what_stands_around_it() -> None:
    """The results are values of the outer block: a constant, an input, and one that is read again afterwards. Or constants
    of the branch."""
    constant = vector(7, 8)

    def build(p: Any, x: Any) -> Any:
        y, outer = mb.add(x=x, y=1.0), mb.const(val=constant)
        a, b = mb.cond(pred=entry(p, 0), _true_fn=lambda: (outer, y), _false_fn=lambda: (x, x))
        return mb.add(x=a, y=y), mb.add(x=b, y=outer)

    x = vector(2, 3)
    for p, expected in ((True, [constant + x + 1, x + 1 + constant]), (False, [2 * x + 1, x + constant])):
        for result, wanted in zip(run_graph(build, {"p": np.array([p]), "x": x}), expected, strict=True):
            close(result, wanted)

    def constants(p: Any) -> Any:
        def branch(value: np.ndarray) -> Any:
            return lambda: mb.const(val=value)

        return mb.cond(pred=entry(p, 0), _true_fn=branch(constant), _false_fn=branch(-constant))

    for p, sign in ((True, 1), (False, -1)):
        close(run_graph(constants, {"p": np.array([p])})[0], sign * constant)


@covers("cond", "while_loop")
def test_constants_of_one_name_in_both_blocks(operation: str) -> None:
    """The blocks of a program may name their constants and values alike."""

    def first(x: Any) -> Any:
        return mb.add(x=x, y=mb.const(val=np.float32(10), name="number"), name="sum")

    def second(x: Any) -> Any:
        return mb.sub(x=x, y=mb.const(val=np.float32(1), name="number"), name="sum")

    if operation == "cond":

        def build(p: Any, x: Any) -> Any:
            return mb.cond(pred=entry(p, 0), _true_fn=lambda: first(x), _false_fn=lambda: second(x))

        for p, expected in ((1.0, 15), (0.0, 4)):
            (result,) = renamed(build, {"p": vector(p) > 0, "x": vector(5)})
            close(result, vector(expected))
    else:

        def build(x: Any) -> Any:
            results = mb.while_loop(
                _cond=lambda x: mb.less(x=mb.squeeze(x=first(x)), y=np.float32(20)),
                _body=lambda x: mb.sub(x=second(x), y=np.float32(-3)),
                loop_vars=(x,),
            )
            return results if isinstance(results, list | tuple) else [results]

        (result,) = renamed(build, {"x": vector(5)})
        close(result, vector(11))


def renamed(build: Any, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """coremltools renames those that occur twice; here they are put back before the program is saved."""
    placeholders = {name: mb.placeholder(array.shape, KINDS[array.dtype.name]) for name, array in inputs.items()}
    with Function(placeholders, opset_version=TARGETS[8]) as function:
        made = build(**function.inputs)
        outputs = list(made) if isinstance(made, list | tuple) else [made]
        function.set_outputs(outputs)
    for outer in function.operations:
        for block in outer.blocks:
            for op in block.operations:
                for var in op.outputs:
                    if var.name.startswith(("number", "sum")):
                        var.name = op.name = var.name.partition("_")[0]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = runtime.load(save(function, Path(folder) / "x.mlpackage"))
    model.predict(
        inputs, callback=lambda op, values: found.update(zip((v.name for v in op.outputs), values, strict=True))
    )
    return [found[var.name].numpy().copy() for var in outputs]


@covers("cond")
def test_branches_within_branches() -> None:
    def build(p: Any, x: Any) -> Any:
        def inner(amount: float) -> Any:
            y = mb.add(x=x, y=np.float32(amount))
            return mb.cond(pred=entry(p, 1), _true_fn=lambda: mb.mul(x=y, y=x), _false_fn=lambda: mb.sub(x=y, y=x))

        return mb.cond(pred=entry(p, 0), _true_fn=lambda: inner(1), _false_fn=lambda: inner(2))

    x = vector(3, 4)
    for p in ((True, True), (True, False), (False, True), (False, False)):
        y = x + (1 if p[0] else 2)
        close(run_graph(build, {"p": np.array(p), "x": x})[0], y * x if p[1] else y - x)


# Loops


def loop(x: Any, limit: Any, body: Any) -> Any:
    """x after `body` as often as `limit` says."""

    def step(i: Any, value: Any) -> Any:
        return mb.add(x=i, y=np.int32(1)), body(value, i)

    return mb.while_loop(_cond=lambda i, _: mb.less(x=i, y=limit), _body=step, loop_vars=(np.int32(0), x))[1]


@covers("while_loop")
def test_loops_of_every_length() -> None:
    """Zero times, too: then the result is what came in."""

    def build(x: Any, n: Any) -> Any:
        y = mb.mul(x=x, y=np.float32(2))
        return loop(x, entry(n, 0), lambda value, i: mb.add(x=value, y=y)), y

    x = vector(1, -2)
    for n in range(4):
        result, y = run_graph(build, {"x": x, "n": np.array([n], np.int32)})
        close(result, x + n * 2 * x)
        close(y, 2 * x)


@covers("while_loop")
def test_loops_within_loops() -> None:
    def build(x: Any, n: Any) -> Any:
        def outer(value: Any, i: Any) -> Any:
            doubled = mb.add(x=value, y=x)
            return loop(
                doubled, entry(n, 1), lambda inner, j: mb.add(x=inner, y=mb.cast(x=mb.add(x=i, y=j), dtype="fp32"))
            )

        return loop(x, entry(n, 0), outer)

    x = vector(1, 5)
    for m in range(3):
        for n in range(3):
            expected = x + sum(x + sum(i + j for j in range(n)) for i in range(m))
            close(run_graph(build, {"x": x, "n": np.array([m, n], np.int32)})[0], expected)


@covers("while_loop")
def test_a_loop_within_a_loop_over_the_same_variable() -> None:
    """coremltools calls the input of both blocks x_x0; after the inner loop the name is the outer loop's again."""

    def up_to(limit: float, x: Any, body: Any) -> Any:
        ask = lambda value: mb.less(x=entry(value, 0), y=np.float32(limit))  # noqa: E731
        return mb.while_loop(_cond=ask, _body=body, loop_vars=(x,))

    def build(x: Any) -> Any:
        def outer(value: Any) -> Any:
            inside = up_to(3, x, lambda y: mb.add(x=y, y=np.float32(1)))  # x itself, as the outer loop
            return mb.add(x=inside, y=mb.mul(x=value, y=np.float32(0.5)))

        return up_to(5, x, outer)

    # 1, then half of it and 3, ...
    close(run_graph(build, {"x": vector(1)})[0], vector(5.375))


@covers("while_loop")
def test_values_that_change_places() -> None:
    """Every variable of the next round comes from the last round."""

    def build(a: Any, b: Any, n: Any) -> Any:
        def body(i: Any, a: Any, b: Any) -> Any:
            return mb.add(x=i, y=np.int32(1)), b, mb.add(x=a, y=b)

        limit = entry(n, 0)
        return mb.while_loop(_cond=lambda i, a, b: mb.less(x=i, y=limit), _body=body, loop_vars=(np.int32(0), a, b))[1:]

    for n, expected in ((0, (0, 1)), (1, (1, 1)), (2, (1, 2)), (7, (13, 21))):
        a, b = run_graph(build, {"a": vector(0), "b": vector(1), "n": np.array([n], np.int32)})
        assert (a.item(), b.item()) == expected


@covers("while_loop")
def test_a_loop_of_nothing_but_what_stands_around_it() -> None:
    def build(x: Any, n: Any) -> Any:
        y, z = mb.add(x=x, y=np.float32(1)), mb.mul(x=x, y=np.float32(3))

        def body(i: Any, a: Any, b: Any) -> Any:
            return mb.add(x=i, y=np.int32(1)), y, z

        limit = entry(n, 0)
        return mb.while_loop(_cond=lambda i, a, b: mb.less(x=i, y=limit), _body=body, loop_vars=(np.int32(0), x, x))[1:]

    x = vector(1, 2)
    for n, expected in ((0, (x, x)), (1, (x + 1, 3 * x)), (2, (x + 1, 3 * x))):
        for result, wanted in zip(run_graph(build, {"x": x, "n": np.array([n], np.int32)}), expected, strict=True):
            close(result, wanted)


@covers("while_loop", "cond")
def test_a_loop_that_turns_off() -> None:
    """A branch within a loop within a branch, that reads the values of all three."""

    def build(p: Any, x: Any, n: Any) -> Any:
        def body(value: Any, i: Any) -> Any:
            even = mb.equal(x=mb.mod(x=i, y=np.int32(2)), y=np.int32(0))
            more = mb.add(x=value, y=x)
            return mb.cond(pred=even, _true_fn=lambda: mb.add(x=more, y=x), _false_fn=lambda: mb.sub(x=value, y=one))

        one = mb.const(val=np.float32(1))
        return mb.cond(
            pred=entry(p, 0), _true_fn=lambda: loop(x, entry(n, 0), body), _false_fn=lambda: mb.mul(x=x, y=one)
        )

    x = vector(3, 4)
    for n, expected in ((0, x), (1, 3 * x), (2, 3 * x - 1), (3, 5 * x - 1)):
        close(run_graph(build, {"p": np.array([True]), "x": x, "n": np.array([n], np.int32)})[0], expected)
        close(run_graph(build, {"p": np.array([False]), "x": x, "n": np.array([n], np.int32)})[0], x)


@covers("while_loop", "list_write", "list_gather", "list_length", "make_list")
def test_a_list_in_a_loop() -> None:
    def build(x: Any, n: Any) -> Any:
        def body(i: Any, ls: Any) -> Any:
            value = mb.mul(x=x, y=mb.cast(x=i, dtype="fp32"))
            return mb.add(x=i, y=np.int32(1)), mb.list_write(ls=ls, index=i, value=value)

        ls, limit = mb.make_list(init_length=1, elem_shape=(2,)), entry(n, 0)
        _, ls = mb.while_loop(_cond=lambda i, _: mb.less(x=i, y=limit), _body=body, loop_vars=(np.int32(0), ls))
        length = mb.list_length(ls=ls)
        return mb.list_gather(ls=ls, indices=mb.range_1d(start=0, end=length, step=1)), length

    x = vector(1, 2)
    for n in (0, 1, 4):
        values, length = run_graph(build, {"x": x, "n": np.array([n], np.int32)})
        assert length == max(1, n)
        close(values, np.arange(max(1, n), dtype=np.float32)[:, None] * x)


# States


@covers("read_state", "write_state")
def test_a_state_lives_from_call_to_call() -> None:
    def build(x: Any, s: Any) -> Any:
        before = mb.read_state(input=s)
        return before, mb.coreml_update_state(state=s, value=mb.add(x=before, y=x))

    calls = [{"x": np.array([n, 1], np.float16)} for n in (1, 2, 3)]
    results, state = run_states(build, calls, {"s": (2,)})
    total = np.zeros(2, np.float32)
    for inputs, (before, after) in zip(calls, results, strict=True):
        close(before, total)
        total = total + inputs["x"]
        close(after, total)
    close(state["s"], total)


@covers("write_state")
def test_a_state_holds_float16() -> None:
    for precision, expected in (("declared", np.float32(np.float16(0.1))), ("float32", np.float32(0.1))):
        inputs = {"x": np.array([0.1], np.float32)}

        def build(x: Any, s: Any) -> Any:
            return [mb.coreml_update_state(state=s, value=mb.cast(x=x, dtype="fp16"))]

        (((value,),), state) = run_states(build, [inputs], {"s": (1,)}, precision)
        assert value.item() == state["s"].item() == expected


@covers("write_state")
def test_a_written_value_is_not_shared_with_the_state() -> None:
    """The state may be written over in place; the value that was written is read again."""
    for precision in ("declared", "float32"):

        def build(x: Any, s: Any) -> Any:
            y = mb.add(x=x, y=np.float16(1))
            first = mb.coreml_update_state(state=s, value=y)
            update = mb.slice_update(x=first, update=np.array([9], np.float16), begin=[0], end=[1])
            return y, mb.coreml_update_state(state=s, value=update)

        (((y, after),), _) = run_states(build, [{"x": np.array([1, 2], np.float16)}], {"s": (2,)}, precision)
        close(y, vector(2, 3))
        close(after, vector(9, 3))


@covers("read_state", "write_state")
def test_states_are_told_apart() -> None:
    def build(x: Any, s: Any, t: Any) -> Any:
        mb.coreml_update_state(state=t, value=x)
        return mb.read_state(input=s), mb.read_state(input=t)

    (((s, t),), state) = run_states(build, [{"x": np.array([4, 5], np.float16)}], {"s": (2,), "t": (2,)})
    close(s, vector(0, 0))
    close(t, vector(4, 5))
    close(state["t"], vector(4, 5))


@covers("while_loop", "read_state", "write_state")
def test_a_state_in_a_loop() -> None:
    """The loop writes row by row, in place; what was read before it, outside, stays."""

    def build(x: Any, n: Any, s: Any) -> Any:
        before = mb.read_state(input=s)

        def body(value: Any, i: Any) -> Any:
            first = mb.expand_dims(x=i, axes=[0])
            last = mb.add(x=first, y=np.int32(1))
            now = mb.slice_update(x=mb.read_state(input=s), update=value, begin=first, end=last)
            mb.coreml_update_state(state=s, value=now)
            return mb.add(x=value, y=np.float16(1))

        final = loop(x, entry(n, 0), body)
        return mb.identity(x=before), final, mb.read_state(input=s)

    calls = [{"x": np.array([x], np.float16), "n": np.array([n], np.int32)} for x, n in ((5, 3), (1, 1), (9, 0))]
    results, state = run_states(build, calls, {"s": (4,)})
    rows = np.zeros(4, np.float32)
    for inputs, (before, final, after) in zip(calls, results, strict=True):
        n = inputs["n"].item()
        close(before, rows)
        rows[:n] = inputs["x"].item() + np.arange(n)
        close(final, vector(inputs["x"].item() + n))
        close(after, rows)
    close(state["s"], rows)


@covers("while_loop", "write_state")
def test_what_a_round_read_stays_in_the_next() -> None:
    """The state that a round hands on is not changed by the write of the next one, which would like to be in place."""

    def build(x: Any, s: Any) -> Any:
        def body(i: Any, handed: Any, total: Any) -> Any:
            row = mb.expand_dims(x=mb.cast(x=i, dtype="fp16"), axes=[0])
            now = mb.slice_update(x=mb.read_state(input=s), update=row, begin=[0], end=[1])
            mb.coreml_update_state(state=s, value=now)
            more = mb.add(x=total, y=handed)
            return mb.add(x=i, y=np.int32(1)), mb.read_state(input=s), more

        ask = lambda i, handed, total: mb.less(x=i, y=np.int32(5))  # noqa: E731
        return [mb.identity(x=mb.while_loop(_cond=ask, _body=body, loop_vars=(np.int32(1), x, x))[2])]

    ((total,),), state = run_states(build, [{"x": np.zeros(2, np.float16)}], {"s": (2,)})
    close(total, vector(0 + 1 + 2 + 3, 0))
    close(state["s"], vector(4, 0))


# Random programs. A step makes one value of four numbers; its indices count among the values so far.

INDEX = st.integers(0, 9)


def steps(depth: int) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    simple = st.one_of(
        st.just(("read",)),
        st.tuples(st.just("write"), INDEX),
        st.tuples(st.just("update"), INDEX, INDEX, st.integers(0, 2)),
        st.tuples(st.sampled_from(["more", "same", "turn"]), INDEX),
        st.tuples(st.just("larger"), INDEX, INDEX),
    )
    # What a cache does: read, write a part, keep.
    cache = st.tuples(st.just("cache"), INDEX, st.integers(0, 2))
    kinds = [simple, cache]
    if depth:
        inner = steps(depth - 1)
        kinds.append(st.tuples(st.just("cond"), st.integers(0, 2), inner, inner))
        kinds.append(st.tuples(st.just("loop"), st.integers(0, 2), INDEX, inner))
    return st.lists(st.one_of(*kinds), min_size=1, max_size=5 if depth else 3)


def built(program: list[tuple[Any, ...]], values: list[Any], s: Any, flags: Any) -> list[Any]:
    """The values with those of the program's steps, as variables of MIL."""
    values = list(values)

    def block(inner: list[tuple[Any, ...]], *more: Any) -> Any:
        return built(inner, [*values, *more], s, flags)[-1]

    def part(i: int) -> Any:
        return mb.slice_by_index(x=values[i % len(values)], begin=[1], end=[3])

    for kind, *rest in program:
        x = values[rest[0] % len(values)] if rest else None
        if kind == "read":
            made = mb.read_state(input=s)
        elif kind == "write":
            made = mb.coreml_update_state(state=s, value=x)
        elif kind == "update":
            made = mb.slice_update(x=x, update=part(rest[1]), begin=[rest[2]], end=[rest[2] + 2])
        elif kind == "cache":
            read = mb.read_state(input=s)
            now = mb.slice_update(x=read, update=part(rest[0]), begin=[rest[1]], end=[rest[1] + 2])
            made = mb.coreml_update_state(state=s, value=now)
        elif kind == "more":
            made = mb.add(x=x, y=np.float16(1))
        elif kind == "same":
            made = mb.identity(x=x)
        elif kind == "turn":
            made = mb.reshape(x=mb.transpose(x=mb.reshape(x=x, shape=[2, 2]), perm=[1, 0]), shape=[4])
        elif kind == "larger":
            made = mb.maximum(x=x, y=values[rest[1] % len(values)])
        elif kind == "cond":
            flag = mb.less(x=np.int32(0), y=entry(flags, rest[0]))
            made = mb.cond(pred=flag, _true_fn=lambda a=rest[1]: block(a), _false_fn=lambda b=rest[2]: block(b))
        else:
            # coremltools names what runs through a loop after what goes in: loops within each other take it by two names.
            made = loop(
                mb.identity(x=values[rest[1] % len(values)]),
                entry(flags, rest[0]),
                lambda value, i, inner=rest[2]: block(inner, value),
            )
        values.append(made)
    return values


def simulated(
    program: list[tuple[Any, ...]], values: list[Any], s: np.ndarray, flags: np.ndarray
) -> tuple[list[Any], Any]:
    """The same, and the state, in numpy; every value is new."""
    values = list(values)
    for kind, *rest in program:
        x = values[rest[0] % len(values)].copy() if rest else None
        if kind in ("read", "cache"):
            x = s.copy()
        if kind in ("update", "cache"):
            source, begin = (rest[1], rest[2]) if kind == "update" else (rest[0], rest[1])
            x[begin : begin + 2] = values[source % len(values)][1:3]
        if kind in ("write", "cache"):
            s = x.copy()
        elif kind == "more":
            x += 1
        elif kind == "turn":
            x = x[[0, 2, 1, 3]]
        elif kind == "larger":
            x = np.maximum(x, values[rest[1] % len(values)])
        elif kind == "cond":
            inner, s = simulated(rest[1] if flags[rest[0]] > 0 else rest[2], values, s, flags)
            x = inner[-1].copy()
        elif kind == "loop":
            x = values[rest[1] % len(values)].copy()
            for _ in range(flags[rest[0]]):
                inner, s = simulated(rest[2], [*values, x], s, flags)
                x = inner[-1].copy()
        values.append(x)
    return values, s


@covers("cond", "while_loop", "read_state", "write_state")
@given(data=st.data())
def test_random_programs(data: Any) -> None:
    program = data.draw(steps(2))
    calls = [
        {
            "x": data.draw(arrays((4,), np.int32, low=0, high=99)).astype(np.float16),
            "flags": data.draw(arrays((3,), np.int32, low=0, high=2)),
        }
        for _ in range(2)
    ]
    results, state = run_states(lambda x, flags, s: built(program, [x], s, flags), calls, {"s": (4,)})
    held = np.zeros(4, np.float32)
    for inputs, values in zip(calls, results, strict=True):
        expected, held = simulated(program, [inputs["x"].astype(np.float32)], held, inputs["flags"])
        for value, wanted in zip(values, expected, strict=True):
            close(value.astype(np.float32), wanted)
    close(state["s"], held)


BLOCKS: list[Fault] = [
    ("step.reads |= body.reads", "pass"),
    ("values.update(body.constants)", "pass"),
    ("(read | set(block.outputs)) & outer", "read & outer"),
]

FAULTS: dict[str, list[Fault]] = {
    "select": [
        ("cond, a, b)", "cond, b, a)"),
        ("torch.where(cond, a, b)", "cond * a + ~cond * b"),
        ("cond, a, b)", "~cond, a, b)"),
    ],
    "make_list": [
        ("* init_length", "* 1"),
        ("torch.zeros", "torch.ones"),
        ("isinstance(size, str)", "False"),
        ('"int32": torch.int32', '"int32": torch.float32'),
    ],
    "list_length": [("len(ls)", "len(ls) - 1"), ("torch.int32", "torch.float32")],
    "list_read": [
        ("_entry(ls, index)", "ls[index]"),
        ("_entry(ls, index)", "_entry(ls, index - 1)"),
        ("0 <= index < len(ls)", "index < len(ls)"),
    ],
    "list_gather": [
        ("_entry(ls, index)", "ls[index]"),
        ("in indices]", "in sorted(indices)]"),
        ("torch.stack", "torch.cat"),
    ],
    "list_write": [
        ("new = type(ls)(ls)", "new = ls"),
        ("torch.zeros_like", "torch.ones_like"),
        ("index + 1 - len", "index + 2 - len"),
        ("if index < 0 or", "if"),
    ],
    "list_scatter": [
        ("new = type(ls)(ls)", "new = ls"),
        ("strict=True", "strict=False"),
        ("zip(indices, value", "zip(indices[::-1], value"),
        ("if index < 0 or", "if"),
    ],
    "cond": [
        *BLOCKS,
        ("0 if _truth(values[step.data], step.place) else 1", "1 if _truth(values[step.data], step.place) else 0"),
    ],
    "while_loop": [
        *BLOCKS,
        ("for name in step.carried)", "for name in reversed(step.carried))"),
        ("while _truth(self._inside", "if _truth(self._inside"),
        ("if name not in around and name", "if name"),
        ("carried = self._inside(", "carried = carried[:1] + self._inside("),
        ("values.update(outer)", "pass"),
    ],
    "read_state": [
        ("return (buffers[step.state],)", "return (torch.zeros_like(buffers[step.state]),)"),
        ("return (buffers[step.state],)", "return (next(iter(buffers.values())),)"),
        ("return (buffers[step.state],)", "return (buffers[step.state] + 1,)"),
    ],
    "write_state": [
        ("_half(result) if self.rounds else result.clone()", "_half(result)"),
        ("else result.clone()", "else result"),
        ("buffers[step.state] = _half", "buffers[next(iter(buffers))] = _half"),
        ("if result is not buffers[step.state]:", "if False:"),
        ("if repeated:", "if False:"),
        ("state not in outside and", ""),
        ("if at < index", "if at == index"),
    ],
}

# Faults that cannot be seen, and why.
UNSEEN: dict[str, dict[str, str]] = {}
