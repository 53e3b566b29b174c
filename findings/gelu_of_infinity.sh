#!/bin/sh
# torch's exact gelu of infinity is infinity for a tensor of one element and NaN for a tensor of two, on x86 processors with
# AVX-512: from two elements on it is oneDNN's kernel, and that for AVX-512 gives NaN. With
# ONEDNN_MAX_CPU_ISA=AVX2 both are infinity, and gelu's tanh form is on every kernel.
# Exits with an error once that has changed; on a processor without AVX-512 it says that there is nothing to see.
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python=${PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$place/venv"
    python="$place/venv/bin/python"
    "$python" -m pip install -q --disable-pip-version-check torch==2.13.0 numpy
fi
cat > "$place/gelu.py" <<'PYTHON'
import torch

found = [torch.nn.functional.gelu(torch.full((count,), float("inf")))[0].item() for count in (1, 2)]
print(torch.__version__, *found)
PYTHON
wide=$("$python" "$place/gelu.py")
narrow=$(ONEDNN_MAX_CPU_ISA=AVX2 "$python" "$place/gelu.py")
echo "of one element and of two: $wide; with kernels up to AVX2: $narrow"
if ! "$python" -c 'import sys, torch; sys.exit(torch.backends.cpu.get_cpu_capability() != "AVX512")'; then
    echo "this processor has no AVX-512"
    exit 0
fi
case "$wide" in *" inf nan") ;; *) echo "changed"; exit 1 ;; esac
case "$narrow" in *" inf inf") ;; *) echo "changed"; exit 1 ;; esac
