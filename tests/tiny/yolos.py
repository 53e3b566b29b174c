from tests.tiny import _vit
from tests.tiny._row import VISION, Tiny

ROW = Tiny(
    "yolos",
    {name: value for name, value in _vit.CONFIG.items() if name != "encoder_stride"}
    | {"image_size": [24, 40], "num_detection_tokens": 6},
    operations=56,
    flags={
        **_vit.FLAGS,
        "positions at the beginning only": {"use_mid_position_embeddings": False},
    },
    # transformers has no module for its MLP.
    module_outputs=(
        *(part.replace(".mlp.activation_fn", ".mlp.fc1") for part in _vit.MODULE_OUTPUTS if part[-4:] != ".mlp"),
    ),
    kind=VISION,
    size=(24, 40),
    in_files={
        "object-detection": (
            "pooler.dense.weight",
            "pooler.dense.bias",
        )
    },
    processor="Yolos",
)
