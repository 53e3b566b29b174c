"""The word that is missing: python examples/fill_mask.py bert.mlpackage CHECKPOINT "Paris is the [MASK] of France."

The package: milbuild build CHECKPOINT bert.mlpackage --task fill-mask --sequence-length 64
with google-bert/bert-base-uncased for CHECKPOINT; RoBERTa's models call the mask <mask>.
"""

import sys

import numpy as np
from transformers import AutoTokenizer

import milbuild

if len(sys.argv) != 4:
    sys.exit(__doc__)
package, checkpoint, text = sys.argv[1:]
model, tokenizer = milbuild.Model(package), AutoTokenizer.from_pretrained(checkpoint)
length = model.interface.input[0].type.multiArrayType.shape[1]
inputs = tokenizer([text], padding="max_length", max_length=length, truncation=True, return_tensors="np")
if tokenizer.mask_token_id not in inputs["input_ids"]:
    sys.exit(f"the text has no {tokenizer.mask_token}")
outputs = model.predict({name: inputs[name].astype(np.int32) for name in model.input_description})
for place in np.flatnonzero(inputs["input_ids"][0] == tokenizer.mask_token_id):
    scores = outputs["token_scores"][0, place]
    print(", ".join(f"{tokenizer.decode([i]).strip()} ({scores[i]:.1%})" for i in np.argsort(-scores)[:5]))
