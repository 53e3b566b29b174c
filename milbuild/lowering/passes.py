"""What is done to a program between building and lowering it: a short list, each with a reason and a test.

coremltools' own pipeline is never run: it casts, guards gathers, reorders state reads and renames (coremltools issues
2786, 2742; docs/design.md section 5).
"""

from collections.abc import Callable

from coremltools.converters.mil.mil import Function, Operation, Program

from milbuild.weights import Unread


def drop_implicit_biases(function: Function) -> None:
    """Removes the zero bias that the builder adds to a `linear` written without one.

    The default would be in the file otherwise: for a language model's head as many zeros as the vocabulary has entries.
    """
    for operation in list(function.operations):
        bias = operation.inputs.get("bias") if operation.op_type == "linear" else None
        if bias is None or isinstance(bias.val, Unread) or bias.val.any():
            continue
        bias.remove_child_op(operation)
        operation._input_vars["bias"] = None
        operation.bias = None


def drop_unread_operations(function: Function) -> None:
    """Removes operations whose values are not read, with what only they read: the pooler of a sentence embedding, what
    made an output that was left out, constants that other passes and the builder's defaults leave over.

    Their weights are not written then. A state is written for the next call, whether or not this one reads it.
    """
    unread: set[Operation] = set()
    for operation in reversed(list(function.operations)):
        read = any(
            value.consuming_blocks or any(reader not in unread for reader in value.child_ops)
            for value in operation.outputs
        )
        if not read and operation.op_type != "coreml_update_state":
            unread.add(operation)
    function.remove_ops(list(unread))


PASSES: tuple[Callable[[Function], None], ...] = (drop_implicit_biases, drop_unread_operations)


def run(program: Program) -> None:
    for function in program.functions.values():
        for apply in PASSES:
            apply(function)
