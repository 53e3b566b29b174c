"""Which sentence means the same: python examples/similarity.py minilm.mlpackage CHECKPOINT "a sentence" "others" ...

The package: milbuild build CHECKPOINT minilm.mlpackage --task feature-extraction --pooling mean --normalize --sequence-length 64
with sentence-transformers/all-MiniLM-L6-v2 for CHECKPOINT, or another whose recipe is a mean.
"""

import sys

import numpy as np
from transformers import AutoTokenizer

import milbuild

if len(sys.argv) < 5:
    sys.exit(__doc__)
package, checkpoint, *sentences = sys.argv[1:]
model, tokenizer = milbuild.Model(package), AutoTokenizer.from_pretrained(checkpoint)
length = model.interface.input[0].type.multiArrayType.shape[1]
vectors = []
for sentence in sentences:
    inputs = tokenizer([sentence], padding="max_length", max_length=length, truncation=True, return_tensors="np")
    vector = model.predict({name: inputs[name].astype(np.int32) for name in model.input_description})
    vectors.append(vector["sentence_embedding"][0].astype(np.float32))
for likeness, sentence in sorted(zip(np.stack(vectors[1:]) @ vectors[0], sentences[1:], strict=True), reverse=True):
    print(f"{likeness:.2f}  {sentence}")
