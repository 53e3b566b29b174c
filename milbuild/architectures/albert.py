"""ALBERT: BERT whose layers share their weights in groups, and whose token embeddings are narrower than its states.

Reference: transformers/models/albert/modeling_albert.py.
"""

from coremltools.converters.mil.mil import Var

from milbuild.architectures.bert import Bert
from milbuild.caches import Cache
from milbuild.errors import Error
from milbuild.heads.head import pooled, pooled_states
from milbuild.heads.text import choices, language_model, per_token, span
from milbuild.layers.activation import activation
from milbuild.layers.attention import padding_mask
from milbuild.layers.linear import add, first_token, linear
from milbuild.weights import Cursor
from milbuild.weights.fields import Config


class Albert(Bert):
    prefix = "albert"
    required_config = {}
    unused_config = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob", "pad_token_id")
    ignored_weights = (r"embeddings\.(position|token_type)_ids", r"pooler\.(weight|bias)", r"sop_classifier\..*")

    def __init__(self, config: Config, weights: Cursor, cache: Cache) -> None:
        super().__init__(config, weights, cache)
        groups, layers = config.num_hidden_groups, config.num_hidden_layers
        if not 1 <= groups <= layers:
            raise Error(
                f"num_hidden_groups is {groups} and num_hidden_layers {layers}: a group is of one layer or more",
                "Look into config.json.",
            )

    @staticmethod
    def bidirectional(config: Config) -> bool:
        return True

    def hidden_states(self, input_ids: Var, token_type_ids: Var | None) -> Var:
        """int32 (B, T) twice -> (B, T, D)."""
        config, w = self.config, self.weights
        x = self.embeddings(input_ids, token_type_ids, w / "embeddings")
        x, w = linear(x, w / "encoder.embedding_hidden_mapping_in", self.width), w / "encoder"
        mask = padding_mask(self.cache.attention_mask, w)
        for i in range(config.num_hidden_layers):
            group = w / f"albert_layer_groups.{i * config.num_hidden_groups // config.num_hidden_layers}"
            for j in range(config.inner_group_num):
                x = self.block(x, (group / f"albert_layers.{j}").called(self.weights / f"layer.{i}.{j}"), i, mask)
        return x

    def embedding_width(self) -> int:
        return int(self.config.embedding_size)

    def block(self, x: Var, w: Cursor, i: int, mask: Var | None) -> Var:
        y = linear(self.attention(x, w / "attention", i, mask), w / "attention.dense", self.width)
        x = self.norm(add(x, y, w / "attention.residual"), w / "attention.LayerNorm")
        y = activation(linear(x, w / "ffn", self.config.intermediate_size), self.config.hidden_act, w / "activation")
        y = linear(y, w / "ffn_output", self.width)
        return self.norm(add(x, y, w / "residual"), w / "full_layer_layer_norm")

    def pooler(self, hidden: Var) -> Var:
        """(B, T, D) -> (B, D), of the first token."""
        w = self.weights / "pooler"
        return activation(linear(first_token(hidden, w), w, self.width), "tanh", w / "activation")

    heads = {
        "feature-extraction": pooled_states("pooler", pooler),
        "fill-mask": language_model("predictions", "dense", "LayerNorm", width="embedding_size", act="activation"),
        "text-classification": pooled("classifier", pooler),
        "multiple-choice": choices("classifier", pooler),
        "token-classification": per_token("classifier"),
        "question-answering": span("qa_outputs"),
    }
