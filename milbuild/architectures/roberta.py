"""RoBERTa: BERT whose positions count the tokens that are no padding, and whose classifier reads the first token itself.

Reference: transformers/models/roberta/modeling_roberta.py. XLM-RoBERTa is the same graph.
"""

from coremltools.converters.mil.mil import Var

from milbuild.architectures.bert import Bert
from milbuild.errors import Error
from milbuild.heads.head import first_pooled, pooled, pooled_states
from milbuild.heads.text import choices, language_model, per_token, span
from milbuild.layers.attention import Positions, counted_positions, real_tokens
from milbuild.weights import Cursor
from milbuild.weights.fields import Config


class Roberta(Bert):
    prefix = "roberta"
    unused_config = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
    language_head = language_model("lm_head", "dense", "layer_norm", function="gelu")
    heads = {
        "feature-extraction": pooled_states("pooler", Bert.pool),
        "fill-mask": language_head,
        "text-generation": language_head,
        "text-classification": pooled(
            "classifier.out_proj", first_pooled("classifier", act="tanh", root=True), own="classifier"
        ),
        "multiple-choice": choices("classifier", Bert.pool),
        "token-classification": per_token("classifier"),
        "question-answering": span("qa_outputs"),
    }

    @staticmethod
    def longest(config: Config) -> int:
        """Positions begin after the padding token's own."""
        if config.pad_token_id is None:
            raise Error(
                "pad_token_id is null in config.json: positions count the tokens that are no padding, after that token's",
                "Models of this type have pad_token_id: 1.",
            )
        return int(config.max_position_embeddings - config.pad_token_id - 1)

    def positions(self, input_ids: Var, w: Cursor) -> Positions:
        pad = self.config.pad_token_id
        return counted_positions(real_tokens(input_ids, pad, w), pad + 1, w, self.cache.query_positions)
