#!/bin/sh
# transformers keeps any field of a config.json as an attribute. A Llama's model ignores `sliding_window` (its class has no such
# field), but the cache that the same model makes for itself asks the configuration and keeps a window only: generating with
# the cache, which is the default, gives other scores than the model gives for the whole text.
# Exits with 1 once a cached Llama with a leftover sliding_window computes what it computes without a cache.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.24.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import torch, transformers
from transformers import LlamaConfig, LlamaForCausalLM

print("transformers", transformers.__version__, "torch", torch.__version__)
sizes = dict(vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)


def error(**leftover):
    """The largest difference between scores with and without a cache, over their range."""
    torch.manual_seed(0)
    config = LlamaConfig(**sizes, initializer_range=0.3, attn_implementation="eager", **leftover)
    model, ids = LlamaForCausalLM(config).eval(), torch.arange(1, 33)[None]
    with torch.no_grad():
        whole = model(ids, use_cache=False).logits
        cached = [model(ids[:, :20], use_cache=True)]
        for i in range(20, 32):
            cached.append(model(ids[:, i : i + 1], past_key_values=cached[-1].past_key_values))
    scores = torch.cat([each.logits for each in cached], 1)
    return float((scores - whole).abs().max() / (whole.max() - whole.min())), type(cached[-1].past_key_values.layers[0])


plain, leftover = error(), error(sliding_window=8)
for name, (share, layer) in (("without the field", plain), ("with sliding_window 8", leftover)):
    print(f"{name}: {share:.1e} of the range, {layer.__name__}")
sys.exit(0 if plain[0] < 1e-4 and leftover[0] > 1e-2 else 1)
PYTHON
