"""Llama 1 to 3, and every checkpoint with its config schema (TinyLlama, Vicuna, Yi, SmolLM 1 and 2).

A decoder with RMS norms, rotary positions, grouped key/value heads and a gated MLP.
Reference: transformers/models/llama/modeling_llama.py.

Shapes: B batch, T tokens in this call, S key slots, D hidden_size, H query heads, K key/value heads, E head_dim.
"""

from coremltools.converters.mil.mil import Var

from milbuild.architectures.decoder import Decoder, Layer
from milbuild.heads.head import states
from milbuild.heads.text import last_token, per_token, span, tied
from milbuild.layers.blocks import gated_feed_forward, rotary_heads
from milbuild.layers.normalization import rms_norm
from milbuild.layers.rope import Rotation, ropes, rotation, settled
from milbuild.weights import Cursor
from milbuild.weights.fields import Config


class Llama(Decoder):
    prefix = "model"
    function = "hidden_act"  # the field of the MLP's activation
    unused_config: tuple[str, ...] = ("attention_dropout", "pretraining_tp")
    spellings: tuple[tuple[str, str], ...] = ((r"^transformer\.", "model."),)  # the base model for question answering
    ignored_weights: tuple[str, ...] = (r"rotary_emb\.inv_freq", r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
    heads = {
        "feature-extraction": states(),
        "text-generation": tied("lm_head", to="embed_tokens"),
        "text-classification": last_token("score"),
        "token-classification": per_token("score", bias="token_classification_bias"),
        "question-answering": span("qa_outputs"),
    }

    @staticmethod
    def longest(config: Config) -> int:
        """The context; a rope of type dynamic stretches it."""
        stretch = max(p.get("factor", 1.0) if p.get("rope_type") == "dynamic" else 1.0 for p in ropes(config))
        return int(config.max_position_embeddings * stretch)

    @staticmethod
    def settled(config: Config) -> int | None:
        return min((n for p in ropes(config) if (n := settled(p, config)) is not None), default=None)

    def rotations(self, w: Cursor) -> list[Rotation | None]:
        config, cache = self.config, self.cache
        options = config.rope_parameters, config, cache.query_positions, cache.longest, w, self.rotary_width()
        return [rotation(*options)] * config.num_hidden_layers

    def rotary_width(self) -> int | None:
        """How many features of a head are rotated; None for all."""
        return None

    def norm(self, x: Var, w: Cursor) -> Var:
        return rms_norm(x, w, self.config.rms_norm_eps)

    def qkv(self, x: Var, w: Cursor, layer: Layer) -> tuple[Var, Var, Var]:
        sizes = self.config.num_attention_heads, self.kv_heads(self.config), self.head_width(self.config)
        return rotary_heads(x, w, sizes, layer.rotation, self.bias("qkv"), lambda qk: self.head_norms(qk, w))

    def head_norms(self, qk: Var, w: Cursor) -> Var:
        """(B, H + K, T, E) -> the same: heads of queries and keys before they are rotated."""
        return qk

    def bias(self, where: str) -> bool:
        return bool(self.config.mlp_bias if where == "mlp" else self.config.attention_bias)

    def mlp(self, x: Var, w: Cursor) -> Var:
        sizes = self.config.intermediate_size, self.config.hidden_size
        return gated_feed_forward(x, w, *sizes, getattr(self.config, self.function), bias=self.bias("mlp"))
