from tests.tiny._row import Tiny

ROW = Tiny(
    "distilbert",
    {
        "vocab_size": 61,
        "dim": 24,
        "n_layers": 3,
        "n_heads": 4,
        "hidden_dim": 52,
        "max_position_embeddings": 29,
        "pad_token_id": 5,
        "num_labels": 7,
    },
    operations=48,
    flags={"plain": {}, "untied": {"tie_word_embeddings": False}, "relu": {"activation": "relu"}},
    module_outputs=(
        "distilbert.embeddings",
        *(f"distilbert.transformer.layer.*{part}" for part in ("", ".attention", ".ffn", ".sa_layer_norm")),
    ),
    in_files={"fill-mask": ("embeddings.position_ids",)},
)
