from tests.tiny._row import VISION, Tiny

CONVOLUTION = ("", ".normalization", ".activation")
ROW = Tiny(
    "mobilenet_v2",
    {
        "depth_multiplier": 0.1,
        "depth_divisible_by": 3,
        "min_depth": 5,
        "expand_ratio": 2.5,
        "image_size": [70, 45],
        "num_labels": 7,
    },
    operations=98,
    flags={
        "plain": {},
        "padding of torch": {"tf_padding": False},
        "every channel multiplied": {"finegrained_output": False, "depth_multiplier": 0.13},
        "as wide as published": {"depth_multiplier": 1.0, "depth_divisible_by": 8, "min_depth": 8, "expand_ratio": 6.0},
        "stem with an expansion": {"first_layer_is_expansion": False},
        "stride 16": {"output_stride": 16},
        "stride 8": {"output_stride": 8},
        "stride 8, padding of torch": {"output_stride": 8, "tf_padding": False},
        "large epsilon": {"layer_norm_eps": 1e-1},
        "gray": {"num_channels": 1},
        "relu": {"hidden_act": "relu"},
    },
    module_outputs=(
        *(f"mobilenet_v2.conv_stem{part}" for part in ("", ".first_conv", ".conv_3x3", ".reduce_1x1")),
        *(f"mobilenet_v2.layer.*{part}" for part in ("", ".expand_1x1", ".reduce_1x1")),
        *(f"mobilenet_v2.layer.*.conv_3x3{part}" for part in CONVOLUTION),
    ),
    kind=VISION,
    size=(70, 45),
    in_files={
        "semantic-segmentation": (
            "conv_stem.first_conv.normalization.num_batches_tracked",
            "conv_1x1.convolution.weight",
        )
    },
    processor="MobileNetV2",
)
