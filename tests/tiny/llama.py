from typing import Any

from tests.tiny import _llama
from tests.tiny._row import Tiny


def _rope(**parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 10000.0, **parameters}}


ROPES = {
    "theta": _rope(rope_type="default", rope_theta=500.0),
    "linear": _rope(rope_type="linear", factor=2.5),
    "dynamic, longer than trained": _rope(rope_type="dynamic", factor=3.0) | {"max_position_embeddings": 7},
    "dynamic": _rope(rope_type="dynamic", factor=3.0),
    "yarn": _rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=8),
    "yarn, all of it": _rope(
        rope_type="yarn",
        factor=4.0,
        original_max_position_embeddings=8,
        beta_fast=8.0,
        beta_slow=2.0,
        mscale=0.7,
        mscale_all_dim=0.3,
    ),
    "yarn, factor given": _rope(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=8, attention_factor=1.3, truncate=False
    ),
    "llama3": _rope(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16
    ),
    "longrope, long": _rope(
        rope_type="longrope",
        factor=3.0,
        short_factor=[1.0, 1.1, 1.2, 1.3, 1.4],
        long_factor=[2.0, 2.1, 2.2, 2.3, 2.4],
        original_max_position_embeddings=10,
    ),
    "longrope, short": _rope(
        rope_type="longrope",
        factor=3.0,
        short_factor=[1.0, 1.1, 1.2, 1.3, 1.4],
        long_factor=[2.0, 2.1, 2.2, 2.3, 2.4],
        original_max_position_embeddings=20,
        attention_factor=0.9,
    ),
    "proportional": _rope(rope_type="proportional", partial_rotary_factor=0.6, factor=2.0),
}
ROW = Tiny(
    "llama",
    _llama.WITH_HEAD_DIM | {"num_hidden_layers": 3},
    operations=98,
    flags={
        **_llama.FLAGS,
        **ROPES,
        **_llama.ATTENTION_BIAS,
        "mlp bias": {"mlp_bias": True},
        "head width follows": {"head_dim": None},
    },
    module_outputs=_llama.MODULE_OUTPUTS,
    in_files={"text-generation": _llama.IN_FILES},
)
