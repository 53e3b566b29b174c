from tests.tiny import _wav2vec2

ROW = _wav2vec2.row(
    "wav2vec2",
    {
        "adapter": {"add_adapter": True},
        "adapter, narrower": {"add_adapter": True, "output_hidden_size": 16, "num_adapter_layers": 2},
        "adapter, another step": {
            "add_adapter": True,
            "adapter_kernel_size": 4,
            "adapter_stride": 3,
            "num_adapter_layers": 1,
        },
        "attention adapters": {"adapter_attn_dim": 9, "do_stable_layer_norm": True},
        "attention adapters unused": {"adapter_attn_dim": 9},
    },
    tdnn_dim=[18, 16, 22],
    tdnn_kernel=[3, 2, 1],
    tdnn_dilation=[1, 2, 1],
    xvector_output_dim=19,
    in_files={
        "ctc": (
            *_wav2vec2.IN_FILES,
            "quantizer.codevectors",
            "quantizer.weight_proj.bias",
            "project_hid.weight",
            "project_q.bias",
            "objective.weight",
            "feature_extractor.weight",
            "feature_extractor.bias",
        )
    },
)
