from tests.tiny._row import VISION, Tiny

ROW = Tiny(
    "resnet",
    {"embedding_size": 10, "hidden_sizes": [12, 20, 28], "depths": [2, 1, 3], "num_labels": 7},
    operations=4 + 7 * 6 + 3,
    flags={
        "plain": {},
        "basic": {"layer_type": "basic"},
        "smaller from the first stage": {"downsample_in_first_stage": True},
        "smaller in the first convolution": {"downsample_in_bottleneck": True},
        "basic, smaller from the first stage": {"layer_type": "basic", "downsample_in_first_stage": True},
        "as wide as the stem": {"embedding_size": 12},
        "gray": {"num_channels": 1},
        "gelu": {"hidden_act": "gelu"},
    },
    module_outputs=(
        "resnet.embedder",
        *(
            f"resnet.encoder.stages.*{part}"
            for part in ("", ".layers.*", ".layers.*.layer.*", ".layers.*.shortcut.normalization")
        ),
        "resnet.encoder.stages.*.layers.*.layer.*.normalization",
    ),
    kind=VISION,
    size=(64, 40),
    in_files={"image-classification": ("embedder.embedder.normalization.num_batches_tracked",)},
    processor="ConvNext",
)
