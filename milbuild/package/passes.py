"""What is done to a program between building and lowering it: a short list, each with a reason and a test.

coremltools' own pipeline is never run: it casts, guards gathers, reorders state reads and renames (coremltools issues
2786, 2742; docs/design.md section 5).
"""

from collections.abc import Callable

from coremltools.converters.mil.mil import Function, Program

from milbuild.weights import Unread


def drop_implicit_biases(function: Function) -> None:
    """Takes away the zero bias that the builder adds to a `linear` written without one.

    The default stands in the file otherwise: for a language model's head as many zeros as the vocabulary has entries.
    """
    for operation in list(function.operations):
        bias = operation.inputs.get("bias") if operation.op_type == "linear" else None
        if bias is None or isinstance(bias.val, Unread) or bias.val.any():
            continue
        bias.remove_child_op(operation)
        operation._input_vars["bias"] = None
        operation.bias = None


def drop_unused_constants(function: Function) -> None:
    """Takes away constants that no operation reads: what other passes and the builder's defaults leave behind."""
    outputs = set(function.outputs)
    unused = [
        op
        for op in function.operations
        if op.op_type == "const" and not op.outputs[0].child_ops and op.outputs[0] not in outputs
    ]
    function.remove_ops(unused)


PASSES: tuple[Callable[[Function], None], ...] = (drop_implicit_biases, drop_unused_constants)


def run(program: Program) -> None:
    for function in program.functions.values():
        for apply in PASSES:
            apply(function)
