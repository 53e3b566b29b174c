"""What the rows of bart and its subclasses have in common."""

LAYERS = (
    *(
        f"model.{side}.layers.*{part}"
        for side in ("encoder", "decoder")
        for part in ("", ".self_attn", ".self_attn_layer_norm", ".fc1", ".fc2", ".final_layer_norm")
    ),
    *("model.decoder.layers.*.encoder_attn", "model.decoder.layers.*.encoder_attn_layer_norm"),
)
