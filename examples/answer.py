"""An answer out of a text: python examples/answer.py bert.mlpackage CHECKPOINT "Who wrote it?" "It was written by ..."

The package: milbuild build CHECKPOINT bert.mlpackage --task question-answering --sequence-length 384
with deepset/bert-base-cased-squad2 for CHECKPOINT; what does not fit into a call is cut off the text's end.
"""

import sys

import numpy as np
from transformers import AutoTokenizer

import milbuild

if len(sys.argv) != 5:
    sys.exit(__doc__)
package, checkpoint, question, text = sys.argv[1:]
model, tokenizer = milbuild.Model(package), AutoTokenizer.from_pretrained(checkpoint)
length = model.interface.input[0].type.multiArrayType.shape[1]
inputs = tokenizer(
    [question], [text], padding="max_length", max_length=length, truncation="only_second", return_tensors="np"
)
outputs = model.predict({name: inputs[name].astype(np.int32) for name in model.input_description})
# An answer begins and ends in the text, not before it or in the padding, and has no more than 16 tokens.
inside = np.array([number == 1 for number in inputs.sequence_ids(0)])
starts, ends = (np.where(inside, outputs[f"{end}_scores"][0].astype(np.float32), 0) for end in ("start", "end"))
chances = np.tril(np.triu(np.outer(starts / starts.sum(), ends / ends.sum())), 15)
first, last = np.unravel_index(chances.argmax(), chances.shape)
print(f"{text[inputs.token_to_chars(0, first).start : inputs.token_to_chars(0, last).end]} ({chances.max():.1%})")
