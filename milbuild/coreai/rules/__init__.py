"""All rules, imported for what they register. The files have the names of milbuild.runtime's, and so of coremltools' ops/defs."""

from milbuild.coreai.rules import (
    activation,
    conv,
    elementwise_binary,
    elementwise_unary,
    image_resizing,
    linear,
    normalization,
    pool,
    reduction,
    scatter_gather,
    tensor_operation,
    tensor_transformation,
    transformers,
)

__all__ = [
    "activation",
    "conv",
    "elementwise_binary",
    "elementwise_unary",
    "image_resizing",
    "linear",
    "normalization",
    "pool",
    "reduction",
    "scatter_gather",
    "tensor_operation",
    "tensor_transformation",
    "transformers",
]
