#!/bin/sh
# A config.json that names its labels in label2id alone, as scripts write it: transformers drops the names and their number
# without a word. num_labels is 2, the labels are LABEL_0 and LABEL_1, and label2id itself has been written over. (For
# num_labels beside an id2label of another length there is a warning.) Exits with an error once that has changed.
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python=${PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$place/venv"
    python="$place/venv/bin/python"
    "$python" -m pip install -q transformers==5.24.0
fi
"$python" - "$place" <<'PYTHON'
import json
import pathlib
import sys

import transformers

folder = pathlib.Path(sys.argv[1]) / "model"
folder.mkdir()
named = {"joy": 0, "anger": 1, "fear": 2}
(folder / "config.json").write_text(json.dumps({"model_type": "bert", "label2id": named}))
config = transformers.AutoConfig.from_pretrained(folder)
print(f"transformers {transformers.__version__}: label2id {named} is read as {config.num_labels} labels, {config.label2id}")
if config.num_labels == 3 or config.label2id == named:
    sys.exit("the names are kept, now")
PYTHON
