from tests.tiny import _wav2vec2

ROW = _wav2vec2.row(
    "hubert",
    {
        "no norm of features": {"feat_proj_layer_norm": False},
        "batch norm": {"conv_pos_batch_norm": True},
        "batch norm, odd positions": {"conv_pos_batch_norm": True, "num_conv_pos_embeddings": 7},
    },
)
