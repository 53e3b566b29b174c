"""ALBERT: BERT whose layers share their weights in groups, and whose token embeddings are narrower than its states.

Reference: transformers/models/albert/modeling_albert.py.
"""

from coremltools.converters.mil.mil import Var

from milbuild.architectures.bert import Bert
from milbuild.errors import Error
from milbuild.heads.head import first_pooled, pooled, pooled_states
from milbuild.heads.text import choices, language_model, per_token, span
from milbuild.layers.linear import linear
from milbuild.weights import Cursor


class Albert(Bert):
    prefix = "albert"
    required_config = {}
    unused_config = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob", "pad_token_id")
    ignored_weights = (r"embeddings\.(position|token_type)_ids", r"pooler\.(weight|bias)", r"sop_classifier\..*")
    attn, out, first_sum, first_norm = "attention", "attention.dense", "attention.residual", "attention.LayerNorm"
    ffn, second_sum, second_norm = ("ffn", "activation", "ffn_output"), "residual", "full_layer_layer_norm"
    embedding_width = "embedding_size"
    pool = staticmethod(first_pooled("pooler", dense=""))
    heads = {
        "feature-extraction": pooled_states("pooler", pool),
        "fill-mask": language_model("predictions", "dense", "LayerNorm", width="embedding_size", act="activation"),
        "text-classification": pooled("classifier", pool),
        "multiple-choice": choices("classifier", pool),
        "token-classification": per_token("classifier"),
        "question-answering": span("qa_outputs"),
    }

    def embeddings(self, input_ids: Var, token_type_ids: Var | None, w: Cursor) -> Var:
        x = super().embeddings(input_ids, token_type_ids, w)
        return linear(x, self.weights / "encoder.embedding_hidden_mapping_in", self.config.hidden_size)

    def mask(self, w: Cursor) -> Var | None:
        return super().mask(w / "encoder")

    def layers(self) -> list[Cursor]:
        """Those of one group after the other, each called by its own number."""
        groups, count = self.config.num_hidden_groups, self.config.num_hidden_layers
        if not 1 <= groups <= count:
            raise Error(
                f"num_hidden_groups is {groups} and num_hidden_layers {count}: a group is of one layer or more",
                "Look into config.json.",
            )
        w = self.weights / "encoder"
        return [
            (w / f"albert_layer_groups.{i * groups // count}.albert_layers.{j}").called(self.weights / f"layer.{i}.{j}")
            for i in range(count)
            for j in range(self.config.inner_group_num)
        ]
