"""From hidden states to a task's outputs: functions that model classes name in their `heads`."""

from milbuild.heads.audio import Speech, ctc, of_encoder_states, per_frame, pooled_frames, speech_states, xvector  # noqa
from milbuild.heads.head import Head, Inputs, Outputs, pooled, pooled_states, states  # noqa
from milbuild.heads.text import encoder_decoder_states, tied  # noqa
