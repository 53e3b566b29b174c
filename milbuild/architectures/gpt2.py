"""GPT-2, and every checkpoint with its config schema (DistilGPT2, DialoGPT).

Pre-norm decoder, learned positions, fused query, key and value, head tied to the token embedding.
Reference: transformers/models/gpt2/modeling_gpt2.py. Matrices are Conv1D, stored (in, out).

Shapes: B batch, T tokens in this call, S key slots, D n_embd, H n_head, E = D / H.
"""

from coremltools.converters.mil.mil import Var

from milbuild.architectures.decoder import Decoder, Layer
from milbuild.heads.head import states
from milbuild.heads.text import last_token, per_token, span, tied
from milbuild.layers.activation import activation
from milbuild.layers.attention import split_heads
from milbuild.layers.linear import add, conv1d, embedding
from milbuild.layers.normalization import layer_norm
from milbuild.weights import Cursor


class GPT2(Decoder):
    prefix = "transformer"
    tokens, layer, last_norm = "wte", "h.{}", "ln_f"
    first_norm, attn, second_norm = "ln_1", "attn", "ln_2"
    required_config = {"add_cross_attention": (False, "there is no encoder whose states it could attend to")}
    unused_config = (
        # GPT2DoubleHeadsModel only
        *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"),
        *("resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout"),  # training
    )
    # causal-mask buffers of old checkpoints; the second head of GPT2DoubleHeadsModel, which no task here has
    ignored_weights = (r"h\.\d+\.attn\.(masked_)?bias", r"multiple_choice_head\..*")
    heads = {
        "feature-extraction": states(),
        "text-generation": tied("lm_head", to="wte"),
        "text-classification": last_token("score"),
        "token-classification": per_token("classifier"),
        "question-answering": span("qa_outputs"),
    }

    def embeddings(self, input_ids: Var, w: Cursor) -> Var:
        config = self.config
        x = embedding(input_ids, w / "wte", config.vocab_size, config.n_embd)
        return add(x, embedding(self.cache.query_positions, w / "wpe", config.n_positions, config.n_embd), w / "drop")

    def norm(self, x: Var, w: Cursor) -> Var:
        return layer_norm(x, w, self.config.layer_norm_epsilon)

    def qkv(self, x: Var, w: Cursor, layer: Layer) -> list[Var]:
        return split_heads(conv1d(x, w / "c_attn", 3 * self.config.n_embd), self.config.n_head, w, parts=3)

    def output(self, x: Var, w: Cursor) -> Var:
        return conv1d(x, w / "c_proj", self.config.n_embd)

    def scale(self, i: int) -> float:
        scale = super().scale(i) if self.config.scale_attn_weights else 1.0
        return scale / (i + 1) if self.config.scale_attn_by_inverse_layer_idx else scale

    def upcast(self) -> bool:
        return bool(self.config.reorder_and_upcast_attn)

    def mlp(self, x: Var, w: Cursor) -> Var:
        width, inner = self.config.n_embd, self.config.n_inner
        x = conv1d(x, w / "c_fc", 4 * width if inner is None else inner)
        return conv1d(activation(x, self.config.activation_function, w / "act"), w / "c_proj", width)
