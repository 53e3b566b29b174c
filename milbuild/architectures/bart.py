"""BART: text to text, and what it makes of a text for classes and answers.

Encoder and decoder of post-norm layers, learned positions whose table begins at row 2, a norm after the embeddings.
Reference: transformers/models/bart/modeling_bart.py.

Shapes: those of encoder_decoder.py.
"""

from coremltools.converters.mil.mil import Var

from milbuild import caches
from milbuild.architectures.encoder_decoder import EncoderDecoder
from milbuild.caches import Cross
from milbuild.heads.text import encoder_decoder_states, eos_pooled, span, tied
from milbuild.layers.attention import moved_positions, padding_mask
from milbuild.layers.blocks import feed_forward
from milbuild.layers.linear import add, embedding
from milbuild.layers.normalization import layer_norm
from milbuild.weights import Cursor
from milbuild.weights.fields import Config

FIRST = 2  # the table's row of the first token
EPSILON = 1e-5  # torch's own; the configuration has none


class Bart(EncoderDecoder):
    prefix = "model"
    required_config = {"is_decoder": (False, "the encoder looks both ways")}
    unused_config: tuple[str, ...] = (
        *("dropout", "attention_dropout", "activation_dropout", "classifier_dropout"),  # training
        *("encoder_layerdrop", "decoder_layerdrop", "init_std"),
        *("pad_token_id", "forced_eos_token_id"),  # the mask says what is padding; for whoever generates
    )
    ignored_weights: tuple[str, ...] = (
        r"shared\.weight",  # where encoder and decoder have tables of their own
        r"(encoder|decoder)\.version",  # of fairseq's files
        "final_logits_bias",  # of the language model, where another task is built
    )
    attn = ("self_attn_layer_norm", "self_attn", "self_attn_layer_norm.sum")
    cross_attn = ("encoder_attn_layer_norm", "encoder_attn", "encoder_attn_layer_norm.sum")
    mlp_in_encoder = mlp_in_decoder = ("final_layer_norm", "", "final_layer_norm.sum")
    language_head = tied("lm_head", to=EncoderDecoder.tables, bias="final_logits_bias")
    heads = {
        "feature-extraction": encoder_decoder_states(),
        "text2text-generation": language_head,
        "fill-mask": language_head,
        "text-classification": eos_pooled("classification_head"),
        "question-answering": span("qa_outputs"),
    }

    @staticmethod
    def longest(config: Config) -> tuple[int | None, int | None]:
        return config.max_position_embeddings, config.max_position_embeddings

    def encode(self, input_ids: Var) -> Var:
        """int32 (B, S) -> (B, S, D)."""
        w = self.weights / "encoder"
        x = self.embeddings(input_ids, w)
        return self.read(x, w, padding_mask(self.cache.attention_mask, w))

    def hidden_states(self, decoder_input_ids: Var, cross: Cross) -> Var:
        """int32 (B, T) -> (B, T, D)."""
        w = self.weights / "decoder"
        x = self.embeddings(decoder_input_ids, w)
        return self.write(x, w, caches.mask(self.config, self.cache, w), cross)

    def embeddings(self, ids: Var, w: Cursor) -> Var:
        config = self.config
        x = self.tokens(ids, w, self.width**0.5 if config.scale_embedding else 1.0)
        rows, at = config.max_position_embeddings + FIRST, moved_positions(self.cache.query_positions, FIRST, w)
        x = add(x, embedding(at, w / "embed_positions", rows, self.width), w / "placed")
        return self.norm(x, w / "layernorm_embedding")

    def norm(self, x: Var, w: Cursor) -> Var:
        return layer_norm(x, w, EPSILON)

    def mlp(self, x: Var, w: Cursor, inner: int) -> Var:
        return feed_forward(x, w, inner, self.width, self.config.activation_function)
