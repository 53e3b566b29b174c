#!/bin/sh
# coreai-core 1.0.0b3: no end lets a slice of negative stride reach the first entry. The documentation of `coreai.slice` clamps the
# end of such a slice to [-1, N - 1] after a number below that range was counted from the end once, so that -1, or whatever becomes
# it, stands before the first entry. The shapes that it infers say something else: see the output. Who translates another
# format's [::-1] by these words loses an entry, or all of them, without an error; `reverse` after a forward slice is right.
# Exits with an error once that has changed.
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python=${PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$place/venv"
    python="$place/venv/bin/python"
    "$python" -m pip install -q --disable-pip-version-check coreai-core==1.0.0b3
fi
cat > "$place/backwards.py" <<'PYTHON'
import sys
from typing import Annotated

import numpy as np
from coreai.authoring import Module, TensorType, Value, graph, slice_

lengths = {}
for end in (-1, -4, -5, -6, -1000):
    module = Module.create()
    with module:

        @graph
        def main(x: Annotated[Value, TensorType([4], np.float32)]) -> Annotated[Value, TensorType([-1], np.float32)]:
            y = slice_(x, np.array([3], np.int32), np.array([end], np.int32), np.array([-1], np.int32))
            lengths[end] = list(y.type.shape)
            return y

    print(f"coreai-core 1.0.0b3: 4 entries from 3 to {end} by -1 have the shape {lengths[end]}")
sys.exit(0 if [4] not in lengths.values() and lengths[-1] == [0] and lengths[-1000] == [3] else "changed")
PYTHON
"$python" "$place/backwards.py"
