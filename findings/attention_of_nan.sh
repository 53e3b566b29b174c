#!/bin/sh
# torch's scaled_dot_product_attention on the CPU gives zeros for a query that holds a NaN, where a mask of zeros, or softmax and
# two products written out, give NaN: what went wrong before the attention can no longer be seen behind it. Queries and keys of
# four axes, no mask, float32.
# Exits with an error once that has changed.
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python=${PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$place/venv"
    python="$place/venv/bin/python"
    "$python" -m pip install -q --disable-pip-version-check torch==2.13.0 numpy
fi
"$python" - <<'PYTHON'
import sys

import torch

torch.manual_seed(0)
q, k, v = torch.randn(1, 2, 3, 64), torch.randn(1, 2, 5, 64), torch.randn(1, 2, 5, 64)
q[0, 0, 0, 0] = float("nan")
attention = torch.nn.functional.scaled_dot_product_attention
plain, masked = attention(q, k, v), attention(q, k, v, torch.zeros(3, 5))
written = (q @ k.transpose(-1, -2) / 8).softmax(-1) @ v
row = [bool((x[0, 0, 0] == 0).all()) for x in (plain, masked, written)]
lost = [int(x.isnan().sum()) for x in (plain, masked, written)]
print(f"torch {torch.__version__}: NaN in the output without a mask {lost[0]}, with a mask of zeros {lost[1]}, written out {lost[2]}")
sys.exit(row != [True, False, False] or lost != [0, 64, 64])
PYTHON
