"""BERT, and every checkpoint with its config schema (MiniLM, BGE, E5, GTE-base).

Post-norm encoder with learned positions and token types; a decoder with a cache where the configuration says is_decoder.
Reference: transformers/models/bert/modeling_bert.py.

Shapes: B batch, T tokens, S key slots, D hidden_size, H num_attention_heads, E = D / H.
"""

from functools import partial

import numpy as np
from coremltools.converters.mil.mil import Var

from milbuild import caches
from milbuild.architectures.family import Family
from milbuild.heads.head import first_pooled, pooled, pooled_states
from milbuild.heads.text import choices, language_model, per_token, span
from milbuild.layers.attention import Positions, padding_mask
from milbuild.layers.blocks import feed_forward, self_attention
from milbuild.layers.linear import add, embedding
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

    # Paths of modules in a layer, and of sums, which are no modules; fields of the configuration.
    attn, qkv, out = "attention.self", ("query", "key", "value"), "attention.output.dense"
    first_sum, first_norm = "attention.output.residual", "attention.output.LayerNorm"
    ffn = ("intermediate.dense", "intermediate.intermediate_act_fn", "output.dense")
    second_sum, second_norm = "output.residual", "output.LayerNorm"
    embedding_width, inner, function = "hidden_size", "intermediate_size", "hidden_act"

    pool = staticmethod(first_pooled("pooler"))
    language_head = language_model(
        "cls.predictions", "transform.dense", "transform.LayerNorm", act="transform.transform_act_fn"
    )
    heads = {
        "feature-extraction": pooled_states("pooler", pool),
        "fill-mask": language_head,
        "text-generation": language_head,
        "next-sentence-prediction": pooled("cls.seq_relationship", pool, width=2),
        "text-classification": pooled("classifier", pool),
        "multiple-choice": choices("classifier", pool),
        "token-classification": per_token("classifier"),
        "question-answering": span("qa_outputs"),
    }

    @staticmethod
    def bidirectional(config: Config) -> bool:
        return not getattr(config, "is_decoder", False) or not looks_backwards(config)

    def hidden_states(self, input_ids: Var, token_type_ids: Var | None) -> Var:
        """int32 (B, T) twice -> (B, T, D)."""
        x = self.embeddings(input_ids, token_type_ids, self.weights / "embeddings")
        mask = self.mask(self.weights)
        for i, w in enumerate(self.layers()):
            x = self.block(x, w, i, mask)
        return x

    def layers(self) -> list[Cursor]:
        return [self.weights / f"encoder.layer.{i}" for i in range(self.config.num_hidden_layers)]

    def mask(self, w: Cursor) -> Var | None:
        if getattr(self.config, "is_decoder", False):
            return caches.mask(self.config, self.cache, w)
        return padding_mask(self.cache.attention_mask, w)

    def embeddings(self, input_ids: Var, token_type_ids: Var | None, w: Cursor) -> Var:
        config, width = self.config, getattr(self.config, self.embedding_width)
        x = self.typed(embedding(input_ids, w / "word_embeddings", config.vocab_size, width), token_type_ids, w)
        table = w / "position_embeddings", config.max_position_embeddings, width
        return self.norm(add(x, embedding(self.positions(input_ids, w), *table), w / "placed"), w / "LayerNorm")

    def typed(self, x: Var, token_type_ids: Var | None, w: Cursor) -> Var:
        types = np.array([0]) if token_type_ids is None else token_type_ids
        table = w / "token_type_embeddings", self.config.type_vocab_size, getattr(self.config, self.embedding_width)
        return add(x, embedding(types, *table), w / "typed")

    def positions(self, input_ids: Var, w: Cursor) -> Positions:
        return self.cache.query_positions

    def norm(self, x: Var, w: Cursor) -> Var:
        return layer_norm(x, w, self.config.layer_norm_eps)

    def block(self, x: Var, w: Cursor, i: int, mask: Var | None) -> Var:
        config, width, heads = self.config, self.config.hidden_size, self.config.num_attention_heads
        update = partial(self.cache.update, i)
        y = self_attention(x, w / self.attn, width, heads, mask, update, names=self.qkv, out=w / self.out)
        x = self.norm(add(x, y, w / self.first_sum), w / self.first_norm)
        y = feed_forward(x, w, getattr(config, self.inner), width, getattr(config, self.function), self.ffn)
        return self.norm(add(x, y, w / self.second_sum), w / self.second_norm)
