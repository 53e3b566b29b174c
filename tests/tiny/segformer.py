from tests.tiny import _vision
from tests.tiny._row import VISION, Tiny

BLOCK = ("", ".attention", ".attention.sequence_reduction", ".mlp", ".mlp.dwconv", ".layernorm_after")
ROW = Tiny(
    "segformer",
    {
        "num_encoder_blocks": 3,
        "hidden_sizes": [12, 20, 28],
        "depths": [2, 1, 2],
        "sr_ratios": [4, 2, 1],
        "patch_sizes": [7, 3, 5],
        "strides": [4, 2, 2],
        "num_attention_heads": [1, 2, 4],
        "mlp_ratios": [3, 4, 2],
        "decoder_hidden_size": 22,
        "num_labels": 7,
    },
    operations=154,
    flags={
        "plain": {},
        "nothing reduced": {"sr_ratios": [1, 1, 1]},
        "gray": {"num_channels": 1},
        # The only shape in which transformers' own decoder takes such states: as many patches as features, both a square.
        "last stage as patches": {
            "reshape_last_stage": False,
            "hidden_sizes": [12, 20, 16],
            "image_size": [64, 64],
        },
        **_vision.ACTIVATIONS,
    },
    module_outputs=(
        *(f"segformer.stages.*.blocks.*{part}" for part in BLOCK),
        "segformer.stages.*.patch_embeddings",
        "segformer.stages.*.layer_norm",
    ),
    kind=VISION,
    size=(64, 96),
    processor="Segformer",
)
