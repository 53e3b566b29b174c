"""Speech to text: python examples/transcribe_ctc.py wav2vec2.mlpackage facebook/wav2vec2-base-960h speech.wav

The file holds one channel of 16 bits at the checkpoint's sampling rate; what does not fit into a call is cut off.
"""

import sys
import wave

import numpy as np
from transformers import AutoProcessor

import milbuild

if len(sys.argv) != 4:
    sys.exit(__doc__)
package, checkpoint, path = sys.argv[1:]
model, processor = milbuild.Model(package), AutoProcessor.from_pretrained(checkpoint)
with wave.open(path) as file:
    rate, samples = file.getframerate(), np.frombuffer(file.readframes(-1), "<i2") / np.float32(32768)
shape = {
    "padding": "max_length",
    "max_length": model.interface.input[0].type.multiArrayType.shape[1],
    "truncation": True,
}
marked = "attention_mask" in model.input_description
inputs = processor(samples, sampling_rate=rate, return_attention_mask=marked, return_tensors="np", **shape)
scores = model.predict({name: inputs[name] for name in model.input_description})["token_scores"]
print(processor.batch_decode(scores.argmax(-1))[0])
