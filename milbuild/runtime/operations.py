"""All operation groups, imported for what they register. The files bear the names of coremltools' ops/defs."""

from milbuild.runtime import (
    activation,
    elementwise_binary,
    elementwise_unary,
    linear,
    normalization,
    reduction,
    scatter_gather,
    tensor_operation,
    tensor_transformation,
    transformers,
)

__all__ = [
    "activation",
    "elementwise_binary",
    "elementwise_unary",
    "linear",
    "normalization",
    "reduction",
    "scatter_gather",
    "tensor_operation",
    "tensor_transformation",
    "transformers",
]
