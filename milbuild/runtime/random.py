"""Random numbers (coremltools: ops/defs/iOS15/random.py).

A seed of 0 or more gives the same numbers at every call, on every machine; without one they differ from call to call.
They are torch's, not Core ML's: only their distribution is the same.
"""

import torch
from torch import Generator, Tensor

from milbuild.package.reader import Value
from milbuild.runtime.registry import operation


@operation
def random_bernoulli(shape: list[int], prob: float = 0.5, seed: int = -1) -> Tensor:
    return (torch.rand(shape, generator=_generator(seed)) < prob).float()


@operation
def random_categorical(x: Tensor, mode: str = "logits", size: int = 1, seed: int = -1) -> Tensor:
    if mode not in ("logits", "probs"):
        raise ValueError(f"mode is {mode!r}; it must be one of logits, probs")
    rows = x.float().reshape(-1, x.shape[-1])
    probabilities = torch.softmax(rows, -1) if mode == "logits" else rows
    drawn = torch.multinomial(probabilities, size, replacement=True, generator=_generator(seed))
    return drawn.float().reshape(*x.shape[:-1], size)


@operation
def random_normal(shape: list[int], mean: float = 0.0, stddev: float = 1.0, seed: int = -1) -> Tensor:
    return mean + stddev * torch.randn(shape, generator=_generator(seed))


@operation
def random_uniform(
    shape: list[int], low: float = 0.0, high: float = 1.0, seed: int = -1, *, results: tuple[Value, ...]
) -> Tensor:
    drawn = low + (high - low) * torch.rand(shape, generator=_generator(seed))
    # `high` is excluded, however the sum is rounded: here, or to float16 afterwards.
    kind = torch.float16 if results[0].dtype == "FLOAT16" else torch.float32
    last = torch.nextafter(torch.tensor(high, dtype=kind), torch.tensor(low, dtype=kind))
    return torch.minimum(drawn, last.float())


def _generator(seed: int) -> Generator:
    generator = Generator()
    if seed < 0:
        generator.seed()
        return generator
    return generator.manual_seed(seed)
