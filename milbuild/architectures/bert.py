"""BERT, and every checkpoint with its config schema (MiniLM, BGE, E5, GTE-base).

Post-norm encoder with learned positions and token types; a decoder with a cache where the configuration says is_decoder.
Reference: transformers/models/bert/modeling_bert.py.

Shapes: B batch, T tokens, S key slots, D hidden_size, H num_attention_heads, E = D / H.
"""

from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Var

from milbuild import caches
from milbuild.architectures.family import Family
from milbuild.caches import Cache
from milbuild.heads.head import pooled, pooled_states
from milbuild.heads.text import choices, language_model, per_token, span
from milbuild.layers.activation import activation
from milbuild.layers.attention import attention, merge_heads, padding_mask, split_heads
from milbuild.layers.linear import add, embedding, first_token, fused_linear, linear
from milbuild.layers.normalization import layer_norm
from milbuild.weights import Cursor
from milbuild.weights.fields import Config, looks_backwards


class Bert(Family):
    prefix = "bert"
    required_config = {"add_cross_attention": (False, "there is no encoder whose states it could attend to")}
    unused_config: tuple[str, ...] = (
        *("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"),  # training
        "pad_token_id",  # the mask says what is padding
    )
    ignored_weights: tuple[str, ...] = (r"embeddings\.(position|token_type)_ids", r"pooler\.dense\.(weight|bias)")

    def __init__(self, config: Config, weights: Cursor, cache: Cache) -> None:
        super().__init__(config, weights, cache)
        self.width = config.hidden_size

    @staticmethod
    def bidirectional(config: Config) -> bool:
        return not config.is_decoder or not looks_backwards(config)

    def hidden_states(self, input_ids: Var, token_type_ids: Var | None) -> Var:
        """int32 (B, T) twice -> (B, T, D)."""
        x, w = self.embeddings(input_ids, token_type_ids, self.weights / "embeddings"), self.weights
        mask = self.mask(w)
        for i in range(self.config.num_hidden_layers):
            x = self.block(x, w / f"encoder.layer.{i}", i, mask)
        return x

    def mask(self, w: Cursor) -> Var | None:
        if self.config.is_decoder:
            return caches.mask(self.config, self.cache, w)
        return padding_mask(self.cache.attention_mask, w)

    def embeddings(self, input_ids: Var, token_type_ids: Var | None, w: Cursor) -> Var:
        config, width = self.config, self.embedding_width()
        types = np.array([0]) if token_type_ids is None else token_type_ids
        x = embedding(input_ids, w / "word_embeddings", config.vocab_size, width)
        x = add(x, embedding(types, w / "token_type_embeddings", config.type_vocab_size, width), w / "typed")
        places = embedding(
            self.positions(input_ids, w), w / "position_embeddings", config.max_position_embeddings, width
        )
        return self.norm(add(x, places, w / "placed"), w / "LayerNorm")

    def embedding_width(self) -> int:
        return int(self.config.hidden_size)

    def positions(self, input_ids: Var, w: Cursor) -> Any:
        return self.cache.query_positions

    def norm(self, x: Var, w: Cursor) -> Var:
        return layer_norm(x, w, self.config.layer_norm_eps)

    def block(self, x: Var, w: Cursor, i: int, mask: Var | None) -> Var:
        y = linear(self.attention(x, w / "attention.self", i, mask), w / "attention.output.dense", self.width)
        x = self.norm(add(x, y, w / "attention.output.residual"), w / "attention.output.LayerNorm")
        y = linear(x, w / "intermediate.dense", self.config.intermediate_size)
        y = activation(y, self.config.hidden_act, w / "intermediate.intermediate_act_fn")
        y = linear(y, w / "output.dense", self.width)
        return self.norm(add(x, y, w / "output.residual"), w / "output.LayerNorm")

    def attention(self, x: Var, w: Cursor, i: int, mask: Var | None) -> Var:
        heads = self.config.num_attention_heads
        x = fused_linear(x, [(w / name, self.width) for name in ("query", "key", "value")], w)
        q, k, v = split_heads(x, heads, w, parts=3)  # (B, H, T, E) each
        k, v = self.cache.update(i, k, v)  # (B, H, S, E)
        return merge_heads(attention(q, k, v, mask, (self.width // heads) ** -0.5, w), w)

    def pooler(self, hidden: Var) -> Var:
        """(B, T, D) -> (B, D), of the first token."""
        w = self.weights / "pooler"
        return activation(linear(first_token(hidden, w), w / "dense", self.width), "tanh", w / "activation")

    language_head = language_model(
        "cls.predictions", "transform.dense", "transform.LayerNorm", act="transform.transform_act_fn"
    )
    heads = {
        "feature-extraction": pooled_states("pooler", pooler),
        "fill-mask": language_head,
        "text-generation": language_head,
        "next-sentence-prediction": pooled("cls.seq_relationship", pooler, width=2),
        "text-classification": pooled("classifier", pooler),
        "multiple-choice": choices("classifier", pooler),
        "token-classification": per_token("classifier"),
        "question-answering": span("qa_outputs"),
    }
