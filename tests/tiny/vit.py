from tests.tiny import _vit
from tests.tiny._row import VISION, Tiny

ROW = Tiny(
    "vit",
    _vit.CONFIG,
    operations=9 + 15 * 3,
    flags={
        **_vit.FLAGS,
        "pooler": {"pooler_output_size": 20, "pooler_act": "relu"},
        "another stride": {"encoder_stride": 4},
        "trained on oblongs": {"image_size": (24, 40)},
        "oblong patches": {"patch_size": (8, 4)},
    },
    module_outputs=(*_vit.MODULE_OUTPUTS, "vit.layernorm"),
    kind=VISION,
    size=(32, 32),
    in_files={
        "image-classification": (
            "embeddings.mask_token",
            "pooler.dense.weight",
            "pooler.dense.bias",
        )
    },
    processor="ViT",
)
