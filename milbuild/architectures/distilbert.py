"""DistilBERT: BERT under other names, without token types and pooler, and with an epsilon that is fixed.

Reference: transformers/models/distilbert/modeling_distilbert.py.
"""

from coremltools.converters.mil.mil import Var

from milbuild.architectures.bert import Bert
from milbuild.heads.head import first_pooled, pooled, states
from milbuild.heads.text import choices, language_model, per_token, span
from milbuild.layers.normalization import layer_norm
from milbuild.weights import Cursor


class DistilBert(Bert):
    prefix = "distilbert"
    required_config = {}
    unused_config = (
        *("dropout", "attention_dropout", "qa_dropout", "seq_classif_dropout"),  # training
        "sinusoidal_pos_embds",  # how the position table begins, before training
        "pad_token_id",  # the mask says what is padding
    )
    ignored_weights = (r"embeddings\.position_ids",)
    attn, qkv, out = "attention", ("q_lin", "k_lin", "v_lin"), "attention.out_lin"
    first_sum, first_norm = "residual", "sa_layer_norm"
    ffn = ("ffn.lin1", "ffn.activation", "ffn.lin2")
    second_sum, second_norm = "output_residual", "output_layer_norm"
    inner, function = "hidden_dim", "activation"
    pool = staticmethod(first_pooled("pre_classifier", dense="", function="relu", act="relu", root=True))
    vocab = ("", "vocab_transform", "vocab_layer_norm", "vocab_projector")
    heads = {
        "feature-extraction": states(),
        "fill-mask": language_model(*vocab, function="activation", act="activation", bias="vocab_projector.bias"),
        "text-classification": pooled("classifier", pool, own="pre_classifier"),
        "multiple-choice": choices("classifier", pool, own="pre_classifier"),
        "token-classification": per_token("classifier"),
        "question-answering": span("qa_outputs"),
    }

    def hidden_states(self, input_ids: Var) -> Var:  # type: ignore[override]
        """int32 (B, T) -> (B, T, D)."""
        return super().hidden_states(input_ids, None)

    def layers(self) -> list[Cursor]:
        return [self.weights / f"transformer.layer.{i}" for i in range(self.config.n_layers)]

    def typed(self, x: Var, token_type_ids: Var | None, w: Cursor) -> Var:
        return x

    def norm(self, x: Var, w: Cursor) -> Var:
        return layer_norm(x, w, 1e-12)
