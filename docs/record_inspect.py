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
# What stands in a package, and what a call costs

Written by `python docs/record_inspect.py`; a test holds this page to what is printed. The checkpoint is the demonstration's
GPT-2, of 4 layers.

`milbuild inspect` reads any ML Program, whoever made it, on any system, and changes nothing in it. Of weights it reads where
they stand, not their values. In Python: `milbuild.inspect("gpt2.mlpackage")`; `--json` has every figure, with all operation
types and each bound with its source.

```
$ {BUILD}
$ milbuild inspect gpt2.mlpackage
```

## What each figure means

* **operations** are those that are not constants; *constants* are counted apart. The eight most frequent types have a line of
  their own.
* **multiply-accumulates** are those of `linear`, `matmul`, `einsum`, `conv`, `conv_transpose`,
  `scaled_dot_product_attention` (both products, with no regard to the mask) and `lstm`, `gru`, `rnn`. FLOPs are twice as many.
  Norms, softmax, activations and all other work element by element count nothing. Of a `cond` the dearer branch counts, of a
  `while_loop` one round. For GPT-2, Llama, BERT, T5's encoder, ResNet, MobileNet V2 and ViT the tests hold them to half of what
  `torch.utils.flop_counter` counts in transformers' model: they are equal.
* **MB moved at least** (of 1,000,000 bytes) are what no call can do without:
  * *weights* that the function reads, as they are stored: palettes and quantised weights in their few bits. A table that is only
    looked up (`gather`, slices) counts the rows that are taken; one that is the head as well is read in full. Constants of
    fewer than ten elements stand in the program and count nothing.
  * *states, read*: the whole allocated states. The Neural Engine moves them whatever is filled: of one model it was seen that
    twice the context takes more than twice the time. *States, written*: what an update writes, the whole state where it is not
    updated in part.
  * *inputs* and *outputs*, by the types of the program.

  Values between operations count nothing, since they may stay in a cache or never be written: a call moves these bytes or more.
* **weights** are tensors that an operation reads, by type (after decoding) and compression; what several functions read counts
  once. *Compression* says the method and how finely: `int8, per channel`, `int4, per block of 32`, `palettized, 4 bits`,
  `sparse`; two methods are joined by `+`.
* **tokens** are the elements of an input called input_ids (decoder_input_ids, inputIds, tokens). Where a call takes one, behind
  a state or a past that comes in, its calls are *tokens a second*.

## The bounds of memory and arithmetic

Decoding a token reads every weight once and multiplies it once: the time is that of reading. What takes many tokens, or a
picture, a call uses each weight many times: the time is that of arithmetic. So there are two bounds, a unit's bandwidth over the
bytes moved, and its peak of arithmetic over twice the multiply-accumulates; the lower one counts. Both are **upper bounds, not
measurements**: nobody of this project has run a package on these chips for them, a call also has its overhead, which is all that
a small model's time consists of, and no program reaches a peak.

Of bandwidth (the column of confidence is its):

* GPU of an M chip: 70 to 85 % of the peak that Apple gives, which is what programs that stream weights get (locara.dev); of a
  copy alone 92 to 93 % have been measured on M4 Pro and M5 Max. Confidence: medium.
* Neural Engine of an M chip: measured by anemll-bench (Results.MD, llama_lm_head), one author. It does not follow the memory's
  bus: that of an M1 Max is no faster than an M1's. Confidence: medium.
* GPU of A17 Pro and A18: 70 to 85 % of a peak for which no primary source was found. Confidence: hearsay. Of their Neural
  Engines nothing is published.

Of arithmetic, in float16 (TFLOPS count a multiply-accumulate as two):

* GPU of M1, M1 Max, M2: cores, operations a clock and clock (philipturner/metal-benchmarks), which has float16 at the speed of
  float32. Of M4, M4 Pro, M4 Max third parties' lists only. Through Core ML 6.4 of an M4 Pro's 9.2 have been measured.
* Neural Engine: Apple's trillions of operations a second (11 and 15.8, as hollance/neural-engine lists them); those of M4 chips,
  38, count int8, so half of them stand here (maderix/ANE measured 18.6 on an M4).

A model as small as this one is bound by the overhead of a call long before either; of one with billions of weights the bounds
are worth something. As a check: Llama 3.1 8B in 4 bits (4.5 GB) is published as about 33 tokens a second on an M1 Max's GPU; the
memory's bound says 62 to 76. The chips stand in one table, `milbuild/inspection/bandwidth.py`.

## Flexible shapes

What a call costs depends on its sizes. A program does not say which of its open lengths are the same, so the figures come from
playing the function once in `milbuild.runtime`, with weights that hold nothing, at the description's default shapes or those of
`--shape input_ids=1,64`. That needs PyTorch; without it the figures are `unknown`, and it says why. A function with a loop is
not played.

## Two packages

`milbuild inspect A B` lists what differs, and nothing else: what goes in and out, metadata, operations by type, costs, sizes;
weights by the names of their constants, and of those that are alike in type and shape whether their bytes are the same, read
piece by piece from the mapped files. Where all of that is the same, the programs are still compared operation by operation. *No
difference* means that they are the same but for where weights stand in the file. The exit code is 0 in both cases; `--json` has
`"same"`.

```
$ milbuild build demo last.mlpackage --cache state --prefill-length 64 --logits last
$ milbuild inspect gpt2.mlpackage last.mlpackage
```

## A picture

```
milbuild inspect gpt2.mlpackage --graph gpt2.svg
```

![A function as a column of steps: inputs, states, tables, one of four equal layers, the head](pictures/gpt2.png)

Steps stand in the order of computation. Layers that repeat are drawn once, with what they are called and how often; a layer
that does the same as one above it at other sizes is one line. Operations that matter (products, norms, activations, sums) have a
line of their own, those between them share one. The column in the middle is what goes from each step to the next; what goes past
others is on the left: red round a block to the sum behind it, violet from a state; of more than nine lines abreast the longest
are left out. Numbers are of one layer, bars are shares of the function with all layers.

Names of modules say what belongs together in our packages. In those that others traced (`linear_0`, `op_45_cast_fp16`) the
repetition is found by the types and shapes of operations. What has no order at all is drawn by runs, in at most about a hundred
lines. Several functions stand side by side; one that multiplies the same as another at other sizes is only named. The picture
needs matplotlib; svg, png and pdf are tried by the tests.
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
