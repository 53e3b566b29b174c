"""wav2vec 2.0, and every checkpoint with its config schema (XLS-R, MMS): audio in, one vector every 20 ms out.

Convolutions make frames of samples; after them an encoder like BERT's, whose positions are a convolution over the frames.
Reference: transformers/models/wav2vec2/modeling_wav2vec2.py.

Shapes: B batch, S samples, T frames, C conv_dim[-1], D hidden_size, H num_attention_heads, E = D / H.
"""

from coremltools.converters.mil.mil import Var

from milbuild.architectures.family import Family
from milbuild.heads.audio import Speech, ctc, per_frame, pooled_frames, speech_states, xvector
from milbuild.layers import audio, frames
from milbuild.layers.attention import padding_mask
from milbuild.layers.blocks import feed_forward, self_attention
from milbuild.layers.linear import add, linear
from milbuild.layers.normalization import layer_norm
from milbuild.weights import Cursor
from milbuild.weights.fields import Config

# Training: SpecAugment, dropout, the losses, and the quantizer of pretraining, whose tensors its checkpoints hold.
TRAINING = """activation_dropout apply_spec_augment attention_dropout ctc_loss_reduction ctc_zero_infinity feat_proj_dropout
final_dropout hidden_dropout layerdrop mask_feature_length mask_feature_min_masks mask_feature_prob mask_time_length
mask_time_min_masks mask_time_prob pad_token_id""".split()
PRETRAINING = """codevector_dim contrastive_logits_temperature diversity_loss_weight feat_quantizer_dropout num_negatives
num_codevector_groups num_codevectors_per_group proj_codevector_dim""".split()


class Wav2Vec2(Family):
    prefix = "wav2vec2"
    unused_config: tuple[str, ...] = (*TRAINING, *PRETRAINING)
    ignored_weights: tuple[str, ...] = (
        *("masked_spec_embed", r"quantizer\..*", r"project_(hid|q)\.(weight|bias)", r"objective\.weight"),  # training
        *("layer_weights", r"feature_extractor\.(weight|bias)"),  # of heads; the base model has modules of such names
    )
    heads = {
        "feature-extraction": speech_states(),
        "ctc": ctc("lm_head"),
        "audio-classification": pooled_frames("projector", "classifier"),
        "audio-frame-classification": per_frame("classifier"),
        "audio-xvector": xvector(),
    }

    @staticmethod
    def shortest(config: Config, task: str) -> int:
        """Samples that make the frames a task needs: one, or those that a speaker's convolutions span and one more."""
        count = 1 + audio.spanned(config) if task == "audio-xvector" else 1
        return frames.needed(count, [*audio.adapter_sizes(config), *reversed(audio.sizes(config))])

    def hidden_states(self, input_values: Var) -> Speech:
        """(B, S) -> (B, T, D), with the convolutions' features and every layer's states."""
        config, w = self.config, self.weights
        x = audio.features(input_values, w / "feature_extractor", config)
        x, features = self.projection(x, w / "feature_projection")
        x, seen, lengths = frames.unpadded(x, self.cache.attention_mask, audio.sizes(config), w)
        w = w / "encoder"
        x, mask = add(x, self.positions(x, w / "pos_conv_embed"), w / "placed"), padding_mask(seen, w)
        states = [x if config.do_stable_layer_norm else self.norm(x, w / "layer_norm")]
        for i in range(config.num_hidden_layers):
            states.append(self.block(states[-1], w / f"layers.{i}", mask))
        x = self.norm(states[-1], w / "layer_norm") if config.do_stable_layer_norm else states[-1]
        return self.adapted(Speech(x, features, states, lengths, []), self.weights / "adapter")

    def projection(self, x: Var, w: Cursor) -> tuple[Var, Var | None]:
        """(B, T, C) -> (B, T, D), and the features that are an output of the model."""
        features = self.norm(x, w / "layer_norm")
        return linear(features, w / "projection", self.width), features

    def norm(self, x: Var, w: Cursor) -> Var:
        return layer_norm(x, w, self.config.layer_norm_eps)

    def positions(self, x: Var, w: Cursor) -> Var:
        return audio.positions(x, w, self.config, audio.weight_norm)

    def block(self, x: Var, w: Cursor, mask: Var | None) -> Var:
        """Post-norm, or with `do_stable_layer_norm` pre-norm, which may have an adapter to a language."""
        width = getattr(self.config, "adapter_attn_dim", None)
        if not self.config.do_stable_layer_norm:
            x = self.norm(add(x, self.attention(x, w / "attention", mask), w / "residual"), w / "layer_norm")
            return self.norm(add(x, self.mlp(x, w / "feed_forward"), w / "fed"), w / "final_layer_norm")
        x = add(x, self.attention(self.norm(x, w / "layer_norm"), w / "attention", mask), w / "residual")
        y = self.mlp(self.norm(x, w / "final_layer_norm"), w / "feed_forward")
        if width is None:
            return add(x, y, w)
        x = add(x, y, w / "fed")
        return add(x, audio.bottleneck(x, w / "adapter_layer", width), w)

    def attention(self, x: Var, w: Cursor, mask: Var | None) -> Var:
        return self_attention(x, w, self.width, self.config.num_attention_heads, mask)

    def mlp(self, x: Var, w: Cursor) -> Var:
        names = "intermediate_dense", "intermediate_act_fn", "output_dense"
        return feed_forward(x, w, self.config.intermediate_size, self.width, self.config.hidden_act, names)

    def adapted(self, speech: Speech, w: Cursor) -> Speech:
        """After the encoder, convolutions that leave fewer frames, if the configuration has them."""
        config, width = self.config, self.config.output_hidden_size
        if not config.add_adapter:
            return speech
        counted = [(1, config.adapter_stride)] * config.num_adapter_layers  # by transformers, whatever the kernel is
        return speech._replace(hidden=audio.adapter(speech.hidden, w, config, width), after=counted)
