from tests.tiny import _vision
from tests.tiny._row import VISION, Tiny

ROW = Tiny(
    "convnext",
    {
        "num_stages": 3,
        "hidden_sizes": [12, 20, 28],
        "depths": [2, 1, 3],
        "patch_size": 4,
        "image_size": [56, 40],
        "layer_scale_init_value": 0.1,
        "num_labels": 7,
    },
    operations=4 + 2 * 4 + 9 * 6,
    flags={
        "plain": {},
        "no layer scale": {"layer_scale_init_value": 0.0},
        "gray": {"num_channels": 1},
        "oblong patches": {"patch_size": (4, 2)},
        "one stage": {"num_stages": 1, "hidden_sizes": [12], "depths": [2]},
        "large epsilon": {"layer_norm_eps": 1e-1},
        **_vision.ACTIVATIONS,
    },
    module_outputs=(
        "convnext.embeddings.patch_embeddings",
        "convnext.embeddings.layernorm",
        "convnext.encoder.stages.*",
        "convnext.encoder.stages.*.downsampling_layer.*",
        *(f"convnext.encoder.stages.*.layers.*{part}" for part in ("", ".dwconv", ".layernorm", ".act", ".pwconv2")),
        "convnext.layernorm",
    ),
    kind=VISION,
    size=(56, 40),
    processor="ConvNext",
)
