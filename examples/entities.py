"""The names in a text: python examples/entities.py bert.mlpackage CHECKPOINT "Ada Lovelace was born in London."

The package: milbuild build CHECKPOINT bert.mlpackage --task token-classification --sequence-length 64
with dslim/bert-base-NER for CHECKPOINT.
"""

import sys

import numpy as np
from transformers import AutoConfig, AutoTokenizer

import milbuild

if len(sys.argv) != 4:
    sys.exit(__doc__)
package, checkpoint, text = sys.argv[1:]
model, tokenizer = milbuild.Model(package), AutoTokenizer.from_pretrained(checkpoint)
length = model.interface.input[0].type.multiArrayType.shape[1]
inputs = tokenizer([text], padding="max_length", max_length=length, truncation=True, return_tensors="np")
outputs = model.predict({name: inputs[name].astype(np.int32) for name in model.input_description})
scores, words, labels = outputs["token_scores"][0], inputs.word_ids(0), AutoConfig.from_pretrained(checkpoint).id2label
for word in sorted({word for word in words if word is not None}):
    first = words.index(word)  # a word has the label of its first token
    label, place = labels[int(scores[first].argmax())], inputs.word_to_chars(0, word)
    if label != "O":
        print(f"{text[place.start : place.end]}: {label} ({scores[first].max():.1%})")
