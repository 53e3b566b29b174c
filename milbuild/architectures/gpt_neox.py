"""GPT-NeoX, and every checkpoint with its config schema (Pythia, Dolly 2, RedPajama).

A decoder with layer norms and partly rotated heads, whose attention and MLP may read the same state.
Reference: transformers/models/gpt_neox/modeling_gpt_neox.py. Query, key and value are one product, head by head.

Shapes: B batch, T tokens in this call, D hidden_size, H num_attention_heads, E = D / H.
"""

from coremltools.converters.mil.mil import Var

from milbuild.architectures.decoder import Layer
from milbuild.architectures.llama import Llama
from milbuild.heads.text import per_token, tied
from milbuild.layers.attention import interleaved_heads
from milbuild.layers.blocks import feed_forward, parallel
from milbuild.layers.linear import linear
from milbuild.layers.normalization import layer_norm
from milbuild.layers.rope import rotate_part, rotated_width
from milbuild.weights import Cursor
from milbuild.weights.fields import Config


class GPTNeoX(Llama):
    prefix = "gpt_neox"
    tokens, last_norm, attn, out = "embed_in", "final_layer_norm", "attention", "dense"
    also = ("head_dim",)  # of which transformers makes the angles, though the class has none
    unused_config = ("attention_dropout", "hidden_dropout", "classifier_dropout", "is_decoder")  # it always is one
    spellings = ((r"^embed_out\.", "lm_head."),)
    ignored_weights = (r"(layers\.\d+\.attention\.)?rotary_emb\.inv_freq", r"layers\.\d+\.attention\.(masked_)?bias")
    heads = Llama.heads | {
        "text-generation": tied("lm_head", to="embed_in"),
        "token-classification": per_token("classifier"),
    }

    @staticmethod
    def head_width(config: Config) -> int:
        return int(config.hidden_size // config.num_attention_heads)

    def rotary_width(self) -> int:
        head = getattr(self.config, "head_dim", None) or self.head_width(self.config)
        return rotated_width(self.config.rope_parameters, head)

    def block(self, x: Var, w: Cursor, layer: Layer) -> Var:
        if not self.config.use_parallel_residual:
            return super().block(x, w, layer)
        norms = [lambda x, name=name: self.norm(x, w / name) for name in (self.first_norm, self.second_norm)]
        attn, mlp = w / self.attn, w / self.ffn
        return parallel(x, norms, lambda x: self.attention(x, attn, layer), lambda x: self.mlp(x, mlp), w)

    def norm(self, x: Var, w: Cursor) -> Var:
        return layer_norm(x, w, self.config.layer_norm_eps)

    def qkv(self, x: Var, w: Cursor, layer: Layer) -> tuple[Var, Var, Var]:
        x = linear(x, w / "query_key_value", 3 * self.width, self.bias("qkv"))
        q, k, v = interleaved_heads(x, self.config.num_attention_heads, [1, 1, 1], w)
        assert layer.rotation is not None
        return rotate_part(q, layer.rotation, w / "query"), rotate_part(k, layer.rotation, w / "key"), v

    def mlp(self, x: Var, w: Cursor) -> Var:
        names = "dense_h_to_4h", "act", "dense_4h_to_h"
        return feed_forward(x, w, self.config.intermediate_size, self.width, self.config.hidden_act, names)
