"""GPT-2, and every checkpoint with its config schema (DistilGPT2, DialoGPT).

Pre-norm decoder, learned positions, fused query, key and value, head tied to the token embedding.
Reference: transformers/models/gpt2/modeling_gpt2.py. Matrices are Conv1D, stored (in, out).

Shapes: B batch, T tokens in this call, S key slots, D n_embd, H n_head, E = D / H.
"""

from coremltools.converters.mil.mil import Var

from milbuild import caches
from milbuild.architectures.family import Family
from milbuild.heads.head import states
from milbuild.heads.text import last_token, per_token, span, tied
from milbuild.layers.activation import activation
from milbuild.layers.attention import attention, merge_heads, split_heads
from milbuild.layers.linear import add, conv1d, embedding
from milbuild.layers.normalization import layer_norm
from milbuild.weights import Cursor


class GPT2(Family):
    prefix = "transformer"
    required_config = {"add_cross_attention": (False, "there is no encoder whose states it could attend to")}
    unused_config = (
        *(
            "summary_type",
            "summary_use_proj",
            "summary_activation",
            "summary_proj_to_labels",
        ),  # GPT2DoubleHeadsModel only
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

    def hidden_states(self, input_ids: Var) -> Var:
        """int32 (B, T) -> (B, T, D), after the final norm."""
        config, cache, w = self.config, self.cache, self.weights
        x = embedding(input_ids, w / "wte", config.vocab_size, config.n_embd)
        x = add(x, embedding(cache.query_positions, w / "wpe", config.n_positions, config.n_embd), w / "drop")
        mask = caches.mask(config, cache, w)
        for i in range(config.n_layer):
            x = self.block(x, w / f"h.{i}", i, mask)
        return layer_norm(x, w / "ln_f", config.layer_norm_epsilon)

    def block(self, x: Var, w: Cursor, i: int, mask: Var | None) -> Var:
        x = add(x, self.attention(self.norm(x, w / "ln_1"), w / "attn", i, mask), w / "residual")
        return add(x, self.mlp(self.norm(x, w / "ln_2"), w / "mlp"), w)

    def norm(self, x: Var, w: Cursor) -> Var:
        return layer_norm(x, w, self.config.layer_norm_epsilon)

    def attention(self, x: Var, w: Cursor, i: int, mask: Var | None) -> Var:
        width = self.config.n_embd
        q, k, v = split_heads(conv1d(x, w / "c_attn", 3 * width), self.config.n_head, w, parts=3)  # (B, H, T, E) each
        k, v = self.cache.update(i, k, v)  # (B, H, S, E)
        y = attention(
            q, k, v, mask, self.scale(i, width // self.config.n_head), w, upcast=self.config.reorder_and_upcast_attn
        )
        return conv1d(merge_heads(y, w), w / "c_proj", width)

    def scale(self, i: int, head_width: int) -> float:
        scale = head_width**-0.5 if self.config.scale_attn_weights else 1.0
        return scale / (i + 1) if self.config.scale_attn_by_inverse_layer_idx else scale

    def mlp(self, x: Var, w: Cursor) -> Var:
        width = self.config.n_embd
        inner = self.config.n_inner if self.config.n_inner is not None else 4 * width
        x = activation(conv1d(x, w / "c_fc", inner), self.config.activation_function, w / "act")
        return conv1d(x, w / "c_proj", width)
