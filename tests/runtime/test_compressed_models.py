"""Traced models, compressed in every way of coremltools.optimize.coreml, against torch with coremltools' own decoded weights."""

import functools
import tempfile
from pathlib import Path
from typing import Any

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import pytest
import torch

from milbuild import runtime
from tests.conftest import difference

Quantizer, Palettizer = cto.OpLinearQuantizerConfig, cto.OpPalettizerConfig
Magnitude, Threshold = cto.OpMagnitudePrunerConfig, cto.OpThresholdPrunerConfig
FP16, FP32 = ct.precision.FLOAT16, ct.precision.FLOAT32


# torch finds tracing out of date, scikit-learn finds too few distinct weights: that is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(4, 16, 3, padding=1)
        self.first = torch.nn.Linear(64, 32)
        self.second = torch.nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(x))
        x = torch.nn.functional.avg_pool2d(x, 4).flatten(1)
        return self.second(torch.nn.functional.gelu(self.first(x)))


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@functools.cache
def converted(precision: Any, target: Any) -> Any:
    traced = torch.jit.trace(net(), torch.zeros(2, 4, 8, 8))
    return ct.convert(
        traced,
        inputs=[ct.TensorType("x", (2, 4, 8, 8))],
        outputs=[ct.TensorType("y")],
        minimum_deployment_target=target,
        compute_precision=precision,
        skip_model_load=True,
    )


def compressed(model: Any, *steps: Any) -> Any:
    """One after the other; each but the first compresses what the one before left."""
    for number, step in enumerate(steps):
        config = cto.OptimizationConfig(global_config=step)
        joint = {"joint_compression": True} if number else {}
        if isinstance(step, Quantizer):
            model = cto.linear_quantize_weights(model, config, **joint)
        elif isinstance(step, Palettizer):
            if step.mode.lower() == "kmeans":  # which it spells in capitals
                pytest.importorskip("sklearn", reason="coremltools' k-means needs the test dependency scikit-learn")
            model = cto.palettize_weights(model, config, **joint)
        else:
            model = cto.prune_weights(model, config, **joint)
    return model


def decoded(engine: Any) -> dict[str, int]:
    """Where the weights are that the package holds in fewer bits, by name."""
    made = {op.outputs[0].name for op in engine.function.operations if op.type.startswith("constexpr_")}
    return {name: value.data_ptr() for name, value in engine._body.constants.items() if name in made}


def agrees(model: Any, kinds: str) -> None:
    """The package decodes its weights by these operations, and predicts what torch does with the decoded weights."""
    network = net()
    constants = cto.get_weights_metadata(cto.decompress_weights(model), weight_threshold=1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            (held,) = (constants[key].val for key in constants if key.startswith(name.replace(".", "_")))
            parameter.copy_(torch.tensor(held.astype(np.float32)))
    x = np.random.default_rng(1).normal(size=(2, 4, 8, 8)).astype(np.float16).astype(np.float32)
    expected = network(torch.tensor(x)).detach().numpy()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.mlpackage"
        model.save(str(path))
        exact, declared, again = (runtime.load(path, precision=each) for each in ("float32", "declared", "float32"))
    used = {op.type for op in exact.function.operations if op.type.startswith("constexpr_")}
    assert used == {f"constexpr_{kind}" for kind in kinds.split()}
    # Another function of the package decodes none of it once more.
    assert decoded(exact) == decoded(again)
    assert bool(decoded(exact)) == bool(used)
    # In a float16 package coremltools' decoded weights are rounded to float16; those of the precision float32 are not.
    assert difference(exact.predict({"x": x})["y"], expected) < 3e-4
    assert difference(declared.predict({"x": x})["y"], expected) < 1e-3


SMALL: dict[str, Any] = {"weight_threshold": 1}
BLOCKS: dict[str, Any] = {"granularity": "per_block", **SMALL}
GROUPS: dict[str, Any] = {"granularity": "per_grouped_channel", **SMALL}
WHOLE: dict[str, Any] = {"granularity": "per_tensor", **SMALL}
HALF = Magnitude(target_sparsity=0.5, **SMALL)

# What the program decodes by -> ways to get there, for iOS16 and for iOS18.
OLD: dict[str, list[list[Any]]] = {
    "affine_dequantize": [
        [Quantizer(mode=mode, dtype=dtype, granularity="per_channel", **SMALL)]
        for mode in ("linear", "linear_symmetric")
        for dtype in ("int8", "uint8")
    ]
    + [[Quantizer(mode="linear", granularity="per_tensor", **SMALL)]],
    "lut_to_dense": [[Palettizer(mode="kmeans", nbits=bits, **SMALL)] for bits in (2, 6, 1, 4, 8)]
    + [[Palettizer(mode="uniform", nbits=bits, **SMALL)] for bits in (4, 1, 2, 6, 8)],
    "sparse_to_dense": [[HALF], [Threshold(threshold=0.05, minimum_sparsity_percentile=0.01, **SMALL)]],
}
NEW: dict[str, list[list[Any]]] = {
    "blockwise_shift_scale": [
        [Quantizer(mode="linear", dtype="int4", block_size=16, **BLOCKS)],
        [Quantizer(mode="linear_symmetric", dtype="uint4", block_size=2, **BLOCKS)],
        [Quantizer(mode="linear_symmetric", dtype="int8", granularity="per_tensor", **SMALL)],
        [Quantizer(mode="linear", dtype="uint8", granularity="per_channel", **SMALL)],
        [Quantizer(mode="linear", dtype="int4", granularity="per_tensor", **SMALL)],
        [Quantizer(mode="linear_symmetric", dtype="int4", granularity="per_channel", **SMALL)],
        [Quantizer(mode="linear", dtype="int8", block_size=4, **BLOCKS)],
        [Quantizer(mode="linear", dtype="int8", granularity="per_channel", **SMALL)],
    ],
    "lut_to_dense": [
        [Palettizer(mode="kmeans", nbits=3, group_size=4, channel_axis=0, **GROUPS)],
        [Palettizer(mode="kmeans", nbits=2, cluster_dim=2, **SMALL)],
        [Palettizer(mode="uniform", nbits=3, **SMALL)],
        [Palettizer(mode="uniform", nbits=6, group_size=2, channel_axis=1, **GROUPS)],
        [Palettizer(mode="kmeans", nbits=4, cluster_dim=4, group_size=8, channel_axis=0, **GROUPS)],
        *([Palettizer(mode="kmeans", nbits=bits, **SMALL)] for bits in (1, 2, 3, 4, 6, 8)),
        *([Palettizer(mode="uniform", nbits=bits, **SMALL)] for bits in (1, 2, 4, 6, 8)),
        *([Palettizer(mode="kmeans", nbits=bits, group_size=8, **GROUPS)] for bits in (1, 2, 4, 6)),
        *([Palettizer(mode="kmeans", nbits=bits, cluster_dim=4, **SMALL)] for bits in (1, 3, 4, 6)),
    ],
    "sparse_to_dense": [
        [HALF],
        [Magnitude(target_sparsity=0.3, block_size=2, dim=0, **SMALL)],
        [Magnitude(n_m_ratio=(1, 4), dim=1, **SMALL)],
        [Threshold(threshold=0.05, minimum_sparsity_percentile=0.01, **SMALL)],
    ],
    "lut_to_dense blockwise_shift_scale": [
        [Palettizer(mode="kmeans", nbits=4, **SMALL), Quantizer(mode="linear", dtype="int8", **WHOLE)],
        [
            Palettizer(mode="kmeans", nbits=3, enable_per_channel_scale=True, group_size=4, **GROUPS),
        ],
        [
            Palettizer(mode="kmeans", nbits=4, group_size=4, **GROUPS),
            Quantizer(mode="linear_symmetric", dtype="int4", **WHOLE),
        ],
        [Palettizer(mode="kmeans", nbits=6, cluster_dim=2, **SMALL), Quantizer(mode="linear", dtype="uint8", **WHOLE)],
    ],
    "sparse_blockwise_shift_scale sparse_to_dense": [
        [HALF, Quantizer(mode="linear_symmetric", dtype="int8", granularity="per_channel", **SMALL)],
        [HALF, Quantizer(mode="linear", dtype="int4", block_size=8, **BLOCKS)],
        [HALF, Quantizer(mode="linear", dtype="uint8", granularity="per_tensor", **SMALL)],
    ],
    "lut_to_sparse sparse_to_dense": [
        [HALF, Palettizer(mode="kmeans", nbits=4, **SMALL)],
        [HALF, Palettizer(mode="kmeans", nbits=2, group_size=4, **GROUPS)],
        [HALF, Palettizer(mode="uniform", nbits=6, **SMALL)],
        [HALF, Palettizer(mode="kmeans", nbits=3, **SMALL)],  # coremltools makes no vectors of sparse weights
    ],
    "lut_to_sparse blockwise_shift_scale sparse_to_dense": [
        [HALF, Palettizer(mode="kmeans", nbits=4, **SMALL), Quantizer(mode="linear", dtype="int8", **WHOLE)],
    ],
}


def cases() -> list[Any]:
    """The first of each kind in both precisions and a second one in float16; all others are for `make test-all`."""
    found = []
    for target, ways in ((ct.target.iOS16, OLD), (ct.target.iOS18, NEW)):
        for kinds, listed in ways.items():
            for number, steps in enumerate(listed):
                for precision in (FP16, FP32):
                    late = number > 1 or (number and precision == FP32)
                    name = (
                        f"{target.name}-{kinds.replace(' ', '+')}-{number}-{precision.value[:1]}{precision.value[-2:]}"
                    )
                    marks = [pytest.mark.all] if late else []
                    found.append(pytest.param(target, precision, kinds, steps, id=name, marks=marks))
    return found


@pytest.mark.parametrize("precision", [FP16, FP32], ids=["fp16", "fp32"])
@pytest.mark.parametrize("target", [ct.target.iOS15, ct.target.iOS18], ids=lambda target: target.name)
def test_traced(target: Any, precision: Any) -> None:
    agrees(converted(precision, target), "")


@pytest.mark.parametrize(("target", "precision", "kinds", "steps"), cases())
def test_compressed(target: Any, precision: Any, kinds: str, steps: list[Any]) -> None:
    agrees(compressed(converted(precision, target), *steps), kinds)
