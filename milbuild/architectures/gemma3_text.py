"""Gemma 3, text only: Qwen 3's attention with a window in five layers of six, each kind with rotary positions of its own.

Scaled token embeddings, norms that multiply by 1 + weight, before and after each part of a block.
Reference: transformers/models/gemma3/modeling_gemma3.py.
"""

from coremltools.converters.mil.mil import Var

from milbuild.architectures.decoder import Layer
from milbuild.architectures.qwen3 import Qwen3
from milbuild.heads.head import states
from milbuild.heads.text import last_token, tied
from milbuild.layers.attention import position_mask
from milbuild.layers.blocks import groups
from milbuild.layers.linear import add, embedding
from milbuild.layers.normalization import rms_norm, rms_norm_heads
from milbuild.layers.rope import Rotation, rotation
from milbuild.weights import Cursor


class Gemma3(Qwen3):
    function = "hidden_activation"
    also = ("sliding_window_pattern",)  # transformers' class makes layer_types of it
    unused_config = ("attention_dropout", "attn_logit_softcapping")  # which transformers' attention leaves out, too
    spellings = ()
    heads = {
        "feature-extraction": states(),
        "text-generation": tied("lm_head", to="embed_tokens", softcap="final_logit_softcapping"),
        "text-classification": last_token("score"),
    }

    def mask(self, window: int | None, w: Cursor) -> Var | None:
        """With use_bidirectional_attention (EmbeddingGemma) a window to both sides, whose ends do not count; transformers'
        configuration has halved it already. Where is_causal is false too, that wins."""
        if not self.config.use_bidirectional_attention or not getattr(self.config, "is_causal", True):
            return super().mask(window, w)
        shared = groups(self.config.num_attention_heads, self.kv_heads(self.config))
        reach, cache = None if window is None else window - 1, self.cache
        return position_mask(cache.query_positions, cache.key_positions(window), w, reach, reach, shared)

    def embeddings(self, input_ids: Var, w: Cursor) -> Var:
        width = self.config.hidden_size
        return embedding(input_ids, w / self.tokens, self.config.vocab_size, width, scale=width**0.5)

    def rotations(self, w: Cursor) -> list[Rotation | None]:
        config, cache = self.config, self.cache
        found = {
            kind: rotation(config.rope_parameters[kind], config, cache.query_positions, cache.longest, w / kind)
            for kind in dict.fromkeys(config.layer_types)
        }
        return [found[kind] for kind in config.layer_types]

    def norm(self, x: Var, w: Cursor) -> Var:
        return rms_norm(x, w, self.config.rms_norm_eps, offset=1.0)

    def block(self, x: Var, w: Cursor, layer: Layer) -> Var:
        y = self.attention(self.norm(x, w / "input_layernorm"), w / "self_attn", layer)
        x = add(x, self.norm(y, w / "post_attention_layernorm"), w / "residual")
        y = self.mlp(self.norm(x, w / "pre_feedforward_layernorm"), w / "mlp")
        return add(x, self.norm(y, w / "post_feedforward_layernorm"), w)

    def head_norms(self, qk: Var, w: Cursor) -> Var:
        return rms_norm_heads(qk, self.normed_heads(w), w, self.config.rms_norm_eps, offset=1.0)

    def scale(self, i: int) -> float:
        return float(self.config.query_pre_attn_scalar**-0.5)
