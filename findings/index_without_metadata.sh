#!/bin/sh
# A model.safetensors.index.json with a weight_map alone names every tensor's file, and yet transformers ends in
# KeyError: 'metadata', which it reads for nothing that loading needs. Exits with an error once that has changed.
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python=${PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$place/venv"
    python="$place/venv/bin/python"
    "$python" -m pip install -q transformers==5.24.0 torch==2.13.0 safetensors==0.8.0
fi
"$python" - "$place" <<'PYTHON'
import json
import pathlib
import sys

import transformers

folder = pathlib.Path(sys.argv[1]) / "model"
sizes = {"vocab_size": 40, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16}
transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).save_pretrained(folder, max_shard_size="3KB")
transformers.GPT2LMHeadModel.from_pretrained(folder)
index = folder / "model.safetensors.index.json"
index.write_text(json.dumps({"weight_map": json.loads(index.read_text())["weight_map"]}))
try:
    transformers.GPT2LMHeadModel.from_pretrained(folder)
except KeyError as error:
    print(f"transformers {transformers.__version__}: an index without metadata is a KeyError: {error}")
else:
    sys.exit(f"transformers {transformers.__version__}: loads, now")
PYTHON
