"""Writes docs/inspect.md with what its commands print, and its picture: python docs/record_inspect.py

The checkpoint is the demonstration's, so that anybody gets the same; a test holds the page to what is printed today.
"""

import contextlib
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "inspect.md"
PICTURE = ROOT / "docs" / "pictures" / "gpt2.png"
BUILD = "milbuild build demo gpt2.mlpackage --cache state --prefill-length 64"
_RECORD = runpy.run_path(str(ROOT / "docs" / "record_real_checkpoints.py"))
commands = _RECORD["commands"]

# What stands behind "$ " is run and followed by what it prints.
PAGE = f"""\
# What is in a package, and what a call costs

Written by `python docs/record_inspect.py`; a test compares this page with the actual output. The checkpoint is the
GPT-2 of the demo, with 4 layers.

`milbuild inspect` reads any ML Program, whoever made it, on any system, without changing it. It reads where the weights
are, but not their values. In Python, use `milbuild.inspect("gpt2.mlpackage")`; `--json` has every figure, with all
operation types and the source of each bound.

```
$ {BUILD}
$ milbuild inspect gpt2.mlpackage
```

## What each figure means

* **operations** are those that are not constants; *constants* are counted separately. The eight most frequent types
  have a line each.
* **multiply-accumulates** are those of `linear`, `matmul`, `einsum`, `conv`, `conv_transpose`,
  `scaled_dot_product_attention` (both products, ignoring the mask) and `lstm`, `gru`, `rnn`. The number of FLOPs is
  twice that. Norms, softmax, activations and all other elementwise work count as nothing. Of a `cond`, the more
  expensive branch counts; of a `while_loop`, one iteration. For GPT-2, Llama, BERT, T5's encoder, ResNet, MobileNet V2
  and ViT, the tests compare the figure with half of what `torch.utils.flop_counter` counts in transformers' model: the
  two are equal.
* **MB moved at least** (of 1,000,000 bytes) is what no call can do without:
  * *weights* that the function reads, in the form in which they are stored: palettized and quantized weights with their
    few bits. A table used only for lookups (`gather`, slices) counts the rows that are taken; one that also serves as
    the head is read in full. Constants with fewer than ten elements are stored in the program and count as nothing.
  * *states, read*: the whole allocated states. The Neural Engine moves them however much is filled: for one model,
    doubling the context was seen to more than double the time. *States, written*: what an update writes, or the whole
    state if the update is not partial.
  * *inputs* and *outputs*, by their types in the program.

  Intermediate values count as nothing, since they may stay in a cache or never be written: a call moves these bytes or
  more.
* **weights** are the tensors that operations read, by type (after decoding) and compression; a weight that several
  functions read is counted once. *Compression* is the method and its granularity: `int8, per channel`,
  `int4, per block of 32`, `palettized, 4 bits`, `sparse`; two methods are joined by `+`.
* **tokens** is the number of elements in an input named input_ids (decoder_input_ids, inputIds, tokens). If a call
  takes one token, and a state or the past is an input, its calls are reported as *tokens a second*.

## Upper bounds from memory and arithmetic

Decoding a token reads every weight once and multiplies it once, so the time is spent on reading. A call that takes many
tokens, or an image, uses each weight many times, so the time is spent on arithmetic. Hence two bounds: a unit's
bandwidth divided by the bytes moved, and its peak arithmetic rate divided by twice the multiply-accumulates. The lower
one counts. Both are **upper bounds, not measurements**: nobody in this project has run a package on these chips to
check them, each call has an overhead, which dominates the time of a small model, and no program reaches the peak.

Sources for bandwidth (the confidence column is about these):

* GPU of an M chip: 70 to 85 % of the peak that Apple states, which is what programs that stream weights achieve
  (locara.dev); for a plain copy, 92 to 93 % have been measured on M4 Pro and M5 Max. Confidence: medium.
* Neural Engine of an M chip: measured by anemll-bench (Results.MD, llama_lm_head), a single author. It does not scale
  with the memory bus: an M1 Max is no faster than an M1. Confidence: medium.
* GPU of A17 Pro and A18: 70 to 85 % of a peak for which no primary source was found. Confidence: hearsay. Nothing is
  published about their Neural Engines.

Sources for arithmetic, in float16 (TFLOPS count a multiply-accumulate as two):

* GPU of M1, M1 Max, M2: cores, operations per clock and clock rate (philipturner/metal-benchmarks), with float16 as
  fast as float32. For M4, M4 Pro and M4 Max there are only third-party lists. Through Core ML, 6.4 of an M4 Pro's 9.2
  have been measured.
* Neural Engine: Apple's trillions of operations per second (11 and 15.8, as listed by hollance/neural-engine). Those of
  the M4 chips, 38, are for int8, so half of them are used here (maderix/ANE measured 18.6 on an M4).

A model as small as this one is limited by the overhead of a call long before either bound; for one with billions of
weights the bounds are useful. As a check: Llama 3.1 8B in 4 bits (4.5 GB) is published as running at about 33 tokens a
second on an M1 Max's GPU; the memory bound is 62 to 76. The chips are in one table, `milbuild/inspection/bandwidth.py`.

## Flexible shapes

What a call costs depends on its sizes. A program doesn't say which of its flexible lengths are equal, so the figures
come from running the function once in `milbuild.runtime`, with empty weights, at the default shapes of the description
or at those of `--shape input_ids=1,64`. That requires PyTorch; without it the figures are `unknown`, and the output
says why. A function with a loop is not run.

## Two packages

`milbuild inspect A B` lists the differences and nothing else: inputs and outputs, metadata, operations by type, costs
and sizes; weights by the names of their constants, and for those of equal type and shape whether their bytes are equal,
read piece by piece from the mapped files. If all of that is equal, the programs are also compared operation by
operation. *No difference* means that they are equal except for where weights are in the file. The exit code is 0 in
both cases; `--json` has `"same"`.

```
$ milbuild build demo last.mlpackage --cache state --prefill-length 64 --logits last
$ milbuild inspect gpt2.mlpackage last.mlpackage
```

## A drawing of the graph

```
milbuild inspect gpt2.mlpackage --graph gpt2.svg
```

![A function as a column of steps: inputs, states, tables, one of four identical layers, the head](pictures/gpt2.png)

Steps are in the order of computation. Repeated layers are drawn once, with their name and number; a layer that does the
same as one above it at different sizes is one line. Operations that matter (products, norms, activations, sums) have a
line each, and those between them share one. The column in the middle shows what passes from each step to the next.
Values that skip steps are on the left: red around a block to the sum after it, violet from a state; if there are more
than nine lines side by side, the longest are omitted. Numbers are for one layer, and bars are shares of the function
with all layers.

In our packages, module names show what belongs together. In traced ones (`linear_0`, `op_45_cast_fp16`), the repetition
is found from the types and shapes of operations. A graph without any such order is drawn as runs of operations, in at
most about a hundred lines. Several functions are drawn side by side; a function that does the same multiplications as
another at different sizes is only named. The drawing requires matplotlib; the tests try svg, png and pdf.
"""


def page() -> str:
    """The page with what every command prints now."""
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "demo").symlink_to(ROOT / "milbuild" / "demo")
        with contextlib.chdir(scratch):
            return str(
                _RECORD["BLOCK"].sub(lambda block: _RECORD["_run"](block) if "$ " in block[2] else block[0], PAGE)
            )


def picture(path: Path) -> None:
    """Draws the package of the page."""
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "demo").symlink_to(ROOT / "milbuild" / "demo")
        milbuild = [sys.executable, "-m", "milbuild"]
        for arguments in (BUILD.split()[1:], ["inspect", "gpt2.mlpackage", "--graph", str(path)]):
            subprocess.run(
                [*milbuild, *arguments], cwd=scratch, env={"PYTHONPATH": str(ROOT)}, check=True, capture_output=True
            )
    # A picture of few colours in a third of the bytes; this way rare ones stay what they are.
    with Image.open(path) as drawn:
        few = drawn.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


if __name__ == "__main__":
    PICTURE.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text(page(), "utf-8")
    picture(PICTURE)
    print(f"wrote {DOCUMENT}, {PICTURE} ({PICTURE.stat().st_size:,} bytes)")
