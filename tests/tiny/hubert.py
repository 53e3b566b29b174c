from tests.tiny import _wav2vec2

ROW = _wav2vec2.row(
    "hubert",
    {
        "no norm of features": {"feat_proj_layer_norm": False},
        "batch norm": {"conv_pos_batch_norm": True},
        "batch norm, odd positions": {"conv_pos_batch_norm": True, "num_conv_pos_embeddings": 7},
    },
    in_files={"ctc": (*_wav2vec2.IN_FILES, "encoder.pos_conv_embed.batch_norm.num_batches_tracked")},
)
