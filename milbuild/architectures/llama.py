"""Llama 1 to 3, and every checkpoint with its config schema (TinyLlama, Vicuna, Yi, SmolLM 1 and 2).

Pre-norm decoder like GPT-2's, but RMS norms, rotary positions, grouped key/value heads and a gated MLP.
Reference: transformers/models/llama/modeling_llama.py.

Shapes: B batch, T tokens in this call, S key slots, D hidden_size, H query heads, K key/value heads, E head_dim.
"""

from typing import Any

from coremltools.converters.mil.mil import Var

from milbuild import caches
from milbuild.caches import Cache
from milbuild.errors import Error
from milbuild.heads import last_token, per_token, span, states, tied
from milbuild.layers.activation import activation
from milbuild.layers.attention import attention, merge_heads, split_heads
from milbuild.layers.linear import add, embedding, fused_linear, linear, mul, split
from milbuild.layers.normalization import rms_norm
from milbuild.layers.rope import Rotation, ropes, rotate, rotation, settled
from milbuild.weights import Cursor


class Llama:
    prefix = "model"
    required_config: dict[str, tuple[Any, str]] = {}
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

    def __init__(self, config: Any, weights: Cursor, cache: Cache) -> None:
        self.config, self.weights, self.cache = config, weights, cache
        self.windows = caches.windows(config)
        heads, shared = config.num_attention_heads, config.num_key_value_heads
        if heads < 1 or shared < 1 or heads % shared:
            raise Error(
                f"num_attention_heads is {heads} and num_key_value_heads {shared}: each of the latter serves as many of the "
                "former",
                "Look into config.json.",
            )
        self.layers, self.groups = config.num_hidden_layers, heads // shared

    @staticmethod
    def longest(config: Any) -> int:
        """The context; a rope of type dynamic stretches it."""
        stretch = max(p.get("factor", 1.0) if p.get("rope_type") == "dynamic" else 1.0 for p in ropes(config))
        return int(config.max_position_embeddings * stretch)

    @staticmethod
    def settled(config: Any) -> int | None:
        """The longest sequence up to which nothing but the tokens before it decides on a token; None for any."""
        return min((n for p in ropes(config) if (n := settled(p, config)) is not None), default=None)

    def hidden_states(self, input_ids: Var) -> Var:
        """int32 (B, T) -> (B, T, D), after the final norm."""
        w = self.weights
        x = self.embeddings(input_ids, w / "embed_tokens")
        masks = {window: self.mask(window, w) for window in dict.fromkeys(self.windows)}
        rotations = self.rotations(w / "rotary_emb")
        for i in range(self.layers):
            x = self.block(x, w / f"layers.{i}", i, masks[self.windows[i]], rotations[i])
        return self.norm(x, w / "norm")

    def mask(self, window: int | None, w: Cursor) -> Var | None:
        return caches.mask(self.config, self.cache, w, window, self.groups)

    def embeddings(self, input_ids: Var, w: Cursor) -> Var:
        return embedding(input_ids, w, self.config.vocab_size, self.config.hidden_size)

    def rotations(self, w: Cursor) -> list[Rotation | None]:
        """Of each layer; None for one without rotary positions."""
        parameters = self.config.rope_parameters
        return [rotation(parameters, self.config, self.cache.query_positions, self.cache.longest, w)] * self.layers

    def norm(self, x: Var, w: Cursor) -> Var:
        return rms_norm(x, w, self.config.rms_norm_eps)

    def block(self, x: Var, w: Cursor, i: int, mask: Var | None, rotation: Rotation | None) -> Var:
        y = self.attention(self.norm(x, w / "input_layernorm"), w / "self_attn", i, mask, rotation)
        x = add(x, y, w / "residual")
        return add(x, self.mlp(self.norm(x, w / "post_attention_layernorm"), w / "mlp"), w)

    def attention(self, x: Var, w: Cursor, i: int, mask: Var | None, rotation: Rotation | None) -> Var:
        config, (_, keys, width) = self.config, caches.shape(self.config)
        queries = config.num_attention_heads
        widths = (("q_proj", queries * width), ("k_proj", keys * width), ("v_proj", keys * width))
        x = fused_linear(x, [(w / name, size) for name, size in widths], w, self.bias("qkv"))
        # Queries and keys are rotated as one: their heads stand behind one another.
        qk, v = split_heads(x, queries, w, parts=[queries + keys, keys])  # (B, H + K, T, E), (B, K, T, E)
        qk = self.head_norms(qk, w)
        q, k = split(qk if rotation is None else rotate(qk, rotation, w), [queries, keys], w)
        k, v = self.cache.update(i, k, v)  # (B, K, S, E)
        y = attention(q, k, v, mask, self.scale(width), w)
        return linear(merge_heads(y, w), w / "o_proj", config.hidden_size, self.bias("o"))

    def bias(self, where: str) -> bool:
        """Whether the attention's "qkv" or "o" products have one."""
        return bool(self.config.attention_bias)

    def head_norms(self, qk: Var, w: Cursor) -> Var:
        return qk

    def scale(self, width: int) -> float:
        return float(width**-0.5)

    def mlp(self, x: Var, w: Cursor) -> Var:
        inner, bias = self.config.intermediate_size, self.mlp_bias()
        gate = activation(linear(x, w / "gate_proj", inner, bias), self.activation(), w / "act_fn")
        x = mul(gate, linear(x, w / "up_proj", inner, bias), w / "gated")
        return linear(x, w / "down_proj", self.config.hidden_size, bias)

    def activation(self) -> str:
        return str(self.config.hidden_act)

    def mlp_bias(self) -> bool:
        return bool(self.config.mlp_bias)
