"""Writes docs/inspect.md with what its commands print, and its graph: python docs/record_inspect.py

The checkpoint is the demonstration's, so that everybody gets the same; a test holds the page to what is printed today.
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
DRAWING = ROOT / "docs" / "images" / "gpt2.png"
BUILD = "milbuild build demo gpt2.mlpackage --cache state --prefill-length 64"
_RECORD = runpy.run_path(str(ROOT / "docs" / "record_real_checkpoints.py"))
commands = _RECORD["commands"]

# What comes after "$ " is run and followed by what it prints.
PAGE = f"""\
# What is in a package, and what a call costs

Written by `python docs/record_inspect.py`; a test holds this page to what is printed. The checkpoint is the demonstration's
GPT-2, of 4 layers.

`milbuild inspect` reads any ML Program, whoever built it, on any system, and never changes it. It reads where weights are
stored, not their values. In Python: `milbuild.inspect("gpt2.mlpackage")`; `--json` has every figure, with all operation
types and each bound with its source.

```
$ {BUILD}
$ milbuild inspect gpt2.mlpackage
```

## What each figure means

* **operations** are those that are not constants; *constants* are counted separately. The eight most frequent types have a line
  each.
* **multiply-accumulates** are those of `linear`, `matmul`, `einsum`, `conv`, `conv_transpose`,
  `scaled_dot_product_attention` (both products, whatever the mask) and `lstm`, `gru`, `rnn`. FLOPs are twice as many.
  Norms, softmax, activations and all other elementwise operations are not counted. Of a `cond` the more expensive branch counts,
  of a `while_loop` one iteration. For GPT-2, Llama, BERT, T5's encoder, ResNet, MobileNet V2 and ViT the tests compare them
  with half of what `torch.utils.flop_counter` counts in transformers' model: they are equal.
* **MB moved, at least** (of 1,000,000 bytes) is what every call has to move:
  * *weights* that the function reads, as they are stored: palettized and quantised weights in their few bits. Of a table that is
    only looked up (`gather`, slices) the rows that are taken count; one that is the head as well is read in full. Constants of
    fewer than ten elements are in the program and are not counted.
  * *states, read*: the whole allocated states. The Neural Engine moves them however much is filled: one model was seen to take
    more than twice the time with twice the context. *States, written*: what an update writes, the whole state where it is not
    updated in part.
  * *inputs* and *outputs*, by the types of the program.

  Values between operations are not counted, since they may stay in a cache or never be written: a call moves these bytes at
  least.
* **weights** are tensors that an operation reads, by type (after decoding) and compression; what several functions read counts
  once. *Compression* is the method and its granularity: `int8, per channel`, `int4, per block of 32`, `palettized, 4 bits`,
  `sparse`; two methods are joined by `+`.
* **tokens** are the elements of an input called input_ids (decoder_input_ids, inputIds, tokens). Where a call takes one, with a
  state or a past as an input, its calls are *tokens a second*.

## The bounds of memory and arithmetic

Decoding a token reads every weight once and multiplies it once: it takes the time of reading. A call with many tokens, or an
image, uses each weight many times: it takes the time of arithmetic. So there are two bounds, a unit's bandwidth over the bytes
moved, and its peak arithmetic over twice the multiply-accumulates; the lower one counts. Both are **upper bounds, not
measurements**: this project has not run packages on these chips for them, a call also has an overhead, which is all of a small
model's time, and no program reaches a peak.

Of bandwidth (the confidence in the table is about it):

* GPU of an M chip: 70 to 85 % of Apple's peak figure, which is what programs that stream weights reach (locara.dev); a copy
  alone was measured at 92 to 93 % on M4 Pro and M5 Max. Confidence: medium.
* Neural Engine of an M chip: measured by anemll-bench (Results.MD, llama_lm_head), one author. It does not follow the memory
  bus: an M1 Max's is no faster than an M1's. Confidence: medium.
* GPU of A17 Pro and A18: 70 to 85 % of a peak for which no primary source was found. Confidence: hearsay. Nothing is
  published about their Neural Engines.

Of arithmetic, in float16 (TFLOPS count a multiply-accumulate as two):

* GPU of M1, M1 Max, M2: cores, operations a clock and clock (philipturner/metal-benchmarks), where float16 has the speed of
  float32. For M4, M4 Pro, M4 Max there are only third parties' lists. Through Core ML 6.4 of an M4 Pro's 9.2 were measured.
* Neural Engine: Apple's trillions of operations a second (11 and 15.8, as hollance/neural-engine lists them); those of M4 chips,
  38, count int8, so half of that is used here (maderix/ANE measured 18.6 on an M4).

A model as small as this one is bound by the overhead of a call long before either; for one with billions of weights the bounds
are useful. As a check: Llama 3.1 8B in 4 bits (4.5 GB) is published at about 33 tokens a second on an M1 Max's GPU; the memory
bound is 62 to 76. The chips are in one table, `milbuild/inspection/bandwidth.py`.

## Flexible shapes

What a call costs depends on its sizes. A program does not say which of its open lengths are equal, so the figures come from
running the function once in `milbuild.runtime`, with zeros for weights, at the description's default shapes or those of
`--shape input_ids=1,64`. That needs PyTorch; without it the figures are `unknown`, with the reason. A function with a loop is
not run.

## Two packages

`milbuild inspect A B` lists only what differs: inputs and outputs, metadata, operations by type, costs, sizes; weights by the
names of their constants, and for those of the same type and shape whether their bytes are the same, read piece by piece from
the mapped files. Where all of that is the same, the programs are still compared operation by operation. *No differences* means
that they are the same but for the offsets of weights in the file. The exit code is 0 in both cases; `--json` has
`"same"`.

```
$ milbuild build demo last.mlpackage --cache state --prefill-length 64 --logits last
$ milbuild inspect gpt2.mlpackage last.mlpackage
```

## A graph

```
milbuild inspect gpt2.mlpackage --graph gpt2.svg
```

![A function as a column of steps: inputs, states, tables, one of four equal layers, the head](images/gpt2.png)

Steps are in the order of computation. Layers that repeat are drawn once, with their names and their number; a layer that does
the same as one above it at other sizes is one line. Operations that matter (products, norms, activations, sums) have a line
each, those between them share one. The column in the middle connects each step to the next; values that skip steps are on the
left: residual connections red, those from a state violet; of more than nine lines side by side the longest are left out. Numbers
are those of one layer, bars are shares of the function with all layers.

In packages of milbuild the names of modules say what belongs together. In traced ones (`linear_0`, `op_45_cast_fp16`) the
repetition is found by the types and shapes of operations. What does not repeat at all is drawn in runs, in at most about a
hundred lines. Several functions are side by side; one that has the same products as another at other sizes is only named. The
graph needs matplotlib; the tests draw svg, png and pdf.
"""


def page() -> str:
    """The page with what every command prints now."""
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "demo").symlink_to(ROOT / "milbuild" / "demo")
        with contextlib.chdir(scratch):
            return str(
                _RECORD["BLOCK"].sub(lambda block: _RECORD["_run"](block) if "$ " in block[2] else block[0], PAGE)
            )


def draw(path: Path) -> None:
    """Draws the package of the page."""
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "demo").symlink_to(ROOT / "milbuild" / "demo")
        milbuild = [sys.executable, "-m", "milbuild"]
        for arguments in (BUILD.split()[1:], ["inspect", "gpt2.mlpackage", "--graph", str(path)]):
            subprocess.run(
                [*milbuild, *arguments], cwd=scratch, env={"PYTHONPATH": str(ROOT)}, check=True, capture_output=True
            )
    # 256 colours take a third of the bytes; this way rare ones stay what they are.
    with Image.open(path) as drawn:
        few = drawn.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


if __name__ == "__main__":
    DRAWING.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text(page(), "utf-8")
    draw(DRAWING)
    print(f"wrote {DOCUMENT}, {DRAWING} ({DRAWING.stat().st_size:,} bytes)")
