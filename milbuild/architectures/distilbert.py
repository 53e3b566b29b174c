"""DistilBERT: BERT's blocks under other names, without token types and pooler, and with epsilons that are fixed.

Reference: transformers/models/distilbert/modeling_distilbert.py.
"""

from coremltools.converters.mil.mil import Var

from milbuild.architectures.bert import Bert
from milbuild.heads.head import pooled, states
from milbuild.heads.text import choices, language_model, per_token, span
from milbuild.layers.activation import activation
from milbuild.layers.attention import attention, merge_heads, padding_mask, split_heads
from milbuild.layers.linear import add, embedding, first_token, fused_linear, linear
from milbuild.layers.normalization import layer_norm
from milbuild.weights import Cursor
from milbuild.weights.fields import Config


class DistilBert(Bert):
    prefix = "distilbert"
    required_config = {}
    unused_config = (
        *("dropout", "attention_dropout", "qa_dropout", "seq_classif_dropout"),  # training
        "sinusoidal_pos_embds",  # how the position table begins, before training
        "pad_token_id",  # the mask says what is padding
    )
    ignored_weights = (r"embeddings\.position_ids",)

    @staticmethod
    def bidirectional(config: Config) -> bool:
        return True

    def hidden_states(self, input_ids: Var) -> Var:  # type: ignore[override]
        """int32 (B, T) -> (B, T, D)."""
        x, w, config = self.embed(input_ids, self.weights / "embeddings"), self.weights, self.config
        mask = padding_mask(self.cache.attention_mask, w)
        for i in range(config.n_layers):
            x = self.block(x, w / f"transformer.layer.{i}", i, mask)
        return x

    def embed(self, input_ids: Var, w: Cursor) -> Var:
        config = self.config
        x = embedding(input_ids, w / "word_embeddings", config.vocab_size, config.dim)
        places = embedding(
            self.cache.query_positions, w / "position_embeddings", config.max_position_embeddings, config.dim
        )
        return self.norm(add(x, places, w / "placed"), w / "LayerNorm")

    def norm(self, x: Var, w: Cursor) -> Var:
        return layer_norm(x, w, 1e-12)

    def block(self, x: Var, w: Cursor, i: int, mask: Var | None) -> Var:
        x = self.norm(add(x, self.attention(x, w / "attention", i, mask), w / "residual"), w / "sa_layer_norm")
        y = activation(linear(x, w / "ffn.lin1", self.config.hidden_dim), self.config.activation, w / "ffn.activation")
        y = linear(y, w / "ffn.lin2", self.width)
        return self.norm(add(x, y, w / "output_residual"), w / "output_layer_norm")

    def attention(self, x: Var, w: Cursor, i: int, mask: Var | None) -> Var:
        heads = self.config.n_heads
        x = fused_linear(x, [(w / name, self.width) for name in ("q_lin", "k_lin", "v_lin")], w)
        q, k, v = split_heads(x, heads, w, parts=3)
        y = attention(q, k, v, mask, (self.width // heads) ** -0.5, w)
        return linear(merge_heads(y, w), w / "out_lin", self.width)

    def classified(self, hidden: Var) -> Var:
        """(B, T, D) -> (B, D), of the first token."""
        w = self.weights.root / "pre_classifier"
        return activation(linear(first_token(hidden, w), w, self.width), "relu", w / "relu")

    heads = {
        "feature-extraction": states(),
        "fill-mask": language_model(
            "",
            "vocab_transform",
            "vocab_layer_norm",
            "vocab_projector",
            function="activation",
            act="activation",
            bias="vocab_projector.bias",
        ),
        "text-classification": pooled("classifier", classified, own="pre_classifier"),
        "multiple-choice": choices("classifier", classified, own="pre_classifier"),
        "token-classification": per_token("classifier"),
        "question-answering": span("qa_outputs"),
    }
