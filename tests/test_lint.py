"""Every rule of lint, by a package that breaks it and one that differs in that point only; coremltools' faults as it makes
them; our own builds."""

import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from rich.console import Console

import milbuild
from milbuild import architectures, tasks
from milbuild.linting import RULES, Report, lint, lint_program
from milbuild.linting.rules import SEVERITIES, UNITS, Rule, Subject
from milbuild.package import TARGETS
from milbuild.package.graph import PIECE, Constant, Place
from milbuild.package.reader import Package
from milbuild.program.interfaces import INTERFACES
from milbuild.program.options import PRECISIONS
from tests.conftest import checkpoint
from tests.docs import lint as rules
from tests.helpers.command_line import ENVIRONMENT, CommandLine
from tests.helpers.packages_by_hand import Assembled, B, F, H, I, Word
from tests.tiny import TABLE

CASES: dict[str, Callable[[bool], Assembled]] = {}
half = np.float16
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


def case(name: str) -> Callable[[Callable[[bool], Assembled]], None]:
    def add(make: Callable[[bool], Assembled]) -> None:
        assert name not in CASES
        CASES[name] = make

    return add


def through(
    m: Assembled, shape: Any = (1, 64), x: str = "x", y: str = "y", dtype: str = H, kind: str = "relu"
) -> Assembled:
    """The rest of a program that is of no interest."""
    m.op(kind, y, shape, dtype, x=x)
    m.output(y, dtype=dtype)
    return m


def plain(version: int = 9, shape: Any = (1, 64), **options: Any) -> Assembled:
    m = Assembled(version)
    m.input("x", shape, **options)
    return m


# What goes in and out


@case("rank")
def _(bad: bool) -> Assembled:
    m = plain(shape=(1, 2, 3, 4, 5))
    m.op("expand_dims", "six", (1, 2, 3, 4, 5, 1), x="x", axes=[5]) if bad else m.op(
        "relu", "six", (1, 2, 3, 4, 5), x="x"
    )
    return through(m, x="six")


@case("scalar-input")
def _(bad: bool) -> Assembled:
    return through(plain(shape=() if bad else (1,)), (1,))


@case("interface-type")
def _(bad: bool) -> Assembled:
    return through(plain(6 if bad else 7))


@case("described")
def _(bad: bool) -> Assembled:
    return through(plain(declared=F if bad else H))


@case("name-characters")
def _(bad: bool) -> Assembled:
    name = "x.1" if bad else "x_1"
    m = Assembled()
    m.input(name, (1, 64))
    return through(m, x=name)


@case("name-twice")
def _(bad: bool) -> Assembled:
    m = plain()
    m.op("relu", "a", (1, 64), x="x")
    m.op("relu", "a" if bad else "b", (1, 64), x="a")
    return through(m, x="a")


@case("output-twice")
def _(bad: bool) -> Assembled:
    m = through(plain())
    m.output("x") if bad else None
    return m


@case("output-name")
def _(bad: bool) -> Assembled:
    return through(through(plain(), y="var_12" if bad else "logits"), y="var_13" if bad else "states")


@case("range-bounds")
def _(bad: bool) -> Assembled:
    return through(plain(shape=(1, None), ranged=[(1, 1), (1, -1 if bad else 64)]))


@case("range-from-zero")
def _(bad: bool) -> Assembled:
    return through(plain(shape=(1, None), ranged=[(1, 1), (0 if bad else 1, 64)], default=(1, 1)))


@case("listed-shapes")
def _(bad: bool) -> Assembled:
    return through(plain(shape=(1, None), listed=[(1, n + 1) for n in range(128 + bad)]))


@case("listed-together")
def _(bad: bool) -> Assembled:
    m = plain(shape=(1, None), listed=[(1, 1), (1, 64)])
    m.input("mask", (1, None), listed=[(1, 1), (1, 64), (1, 65)][: 2 + bad])
    return through(m)


@case("default-shape")
def _(bad: bool) -> Assembled:
    return through(plain(shape=(1, None), listed=[(1, 1), (1, 64)], default=(1, 2) if bad else (1, 64)))


@case("optional-listed")
def _(bad: bool) -> Assembled:
    return through(plain(shape=(1, None), listed=[(1, 1), (1, 64)], optional=bad))


@case("flexible-axis")
def _(bad: bool) -> Assembled:
    return through(plain(shape=(1, None), **({} if bad else {"ranged": [(1, 1), (1, 64)]})))


@case("interface-float32")
def _(bad: bool) -> Assembled:
    m = plain(shape=(1, 4096 if bad else 64), dtype=F)
    m.cast("half", "x", (1, 4096), H)
    return through(m, x="half")


@case("image")
def _(bad: bool) -> Assembled:
    m = Assembled()
    m.image("x", (1, 8, 8, 3) if bad else (1, 3, 8, 8))
    return through(m)


@case("classifier")
def _(bad: bool) -> Assembled:
    m = plain(shape=(3,))
    labels = [Word("a"), Word("b"), Word("c")][: 3 - bad]
    m.op("classify", "label", (), "STRING", probabilities="x", classes=labels)
    return through(m)


@case("functions")
def _(bad: bool) -> Assembled:
    m = Assembled()
    for name in ("main", "prefill"):
        m.function(name, several=True)
        m.input("x", (1, 64))
        through(m)
    m.spec.description.defaultFunctionName = "decode" if bad else "prefill"
    return m


@case("preview")
def _(bad: bool) -> Assembled:
    m = through(plain())
    m.spec.description.metadata.userDefined["com.apple.coreml.model.preview.type"] = "poem" if bad else "bertQA"
    return m


# Numbers


@case("epsilon-zero")
def _(bad: bool) -> Assembled:
    m = plain()
    m.op("layer_norm", "n", (1, 64), x="x", axes=[-1], epsilon=half(1e-8 if bad else 1e-7))
    return through(m, x="n")


@case("epsilon-rounded")
def _(bad: bool) -> Assembled:
    m = plain()
    m.op("layer_norm", "n", (1, 64), x="x", axes=[-1], epsilon=half(5e-8 if bad else 1e-5))
    return through(m, x="n")


@case("epsilon-implicit")
def _(bad: bool) -> Assembled:
    m = plain()
    m.op("rsqrt", "n", (1, 64), x="x", epsilon=np.float32(1e-12) if bad else half(1e-5))
    return through(m, x="n")


@case("not-a-number")
def _(bad: bool) -> Assembled:
    m = plain()
    m.op("add", "a", (1, 64), x="x", y=np.array([1, np.nan if bad else 2, -3], half))
    return through(m, x="a")


@case("infinite-constant")
def _(bad: bool) -> Assembled:
    m = plain()
    m.op("add", "a", (1, 64), x="x", y=np.array([0, -np.inf if bad else -1e4], half))
    m.op("clip", "c", (1, 64), x="a", alpha=half(-1), beta=half(np.inf))  # which means no bound
    return through(m, x="c")


@case("infinite-factor")
def _(bad: bool) -> Assembled:
    m = plain()
    m.op("mul", "a", (1, 64), x="x", y=half(-np.inf if bad else -1e4))
    return through(m, x="a")


@case("constant-outside-float16")
def _(bad: bool) -> Assembled:
    m = plain()
    m.op("relu", "r", (1, 64), x="x")
    m.cast("wide", "r", (1, 64), F)
    m.op("add", "a", (1, 64), F, x="wide", y=np.float32([-1e9 if bad else -1e4]))
    m.cast("narrow", "a", (1, 64), H)
    m.op("relu", "s", (1, 64), x="narrow")
    return through(m, x="s")


@case("masks-added")
def _(bad: bool) -> Assembled:
    m = plain()
    m.op("add", "a", (1, 64), x="x", y=np.array([0, -40000 if bad else -1e4], half))
    return through(m, x="a")


@case("float32-island")
def _(bad: bool) -> Assembled:
    m = plain()
    if bad:
        m.cast("wide", "x", (1, 64), F)
    m.op("exp", "e", (1, 64), F if bad else H, x="wide" if bad else "x")
    if bad:
        m.cast("narrow", "e", (1, 64), H)
    m.op("relu", "r", (1, 64), x="narrow" if bad else "e")
    return through(m, x="r")


@case("cast-pair")
def _(bad: bool) -> Assembled:
    m = plain()
    m.cast("wide", "x", (1, 64), F)
    m.op("exp", "e", (1, 64), F, x="wide")
    m.cast("narrow", "wide" if bad else "e", (1, 64), H)
    return through(m, x="narrow")


@case("square-overflow")
def _(bad: bool) -> Assembled:
    m, x = plain(), "x"
    if not bad:  # divided by the largest
        m.op("abs", "magnitudes", (1, 64), x="x")
        m.op("reduce_max", "largest", (1, 1), x="magnitudes", axes=[-1], keep_dims=True)
        x = m.op("real_div", "scaled", (1, 64), x="x", y="largest")
    m.op("mul", "squares", (1, 64), x=x, y=x)
    m.op("reduce_mean", "mean", (1, 1), x="squares", axes=[-1], keep_dims=True)
    return through(m, x="mean")


@case("power-of-two")
def _(bad: bool) -> Assembled:
    m = plain()
    m.op("pow", "p", (1, 64), x=half(2 if bad else 3), y="x")
    return through(m, x="p")


@case("positions-in-float16")
def _(bad: bool) -> Assembled:
    m = plain(dtype=I)
    wide = m.cast("wide", "x", (1, 64), H if bad else F)
    m.op("mul", "angles", (1, 64), H if bad else F, x=wide, y=(half if bad else np.float32)(0.1))
    m.op("cos", "c", (1, 64), H if bad else F, x="angles")
    return through(m, x="c", dtype=H if bad else F)


@case("inexact-activation")
def _(bad: bool) -> Assembled:
    m = plain()
    m.op("softplus" if bad else "relu", "s", (1, 64), x="x")
    m.op("tanh", "t", (1, 64), x="s")
    return through(m, x="t")


# States


def stateful(shape: Any = (1, 64), version: int = 9, dtype: str = H, **options: Any) -> Assembled:
    m = plain(version, **options)
    m.state("s", shape, dtype)
    return m


def updated(m: Assembled, shape: Any = (1, 64), output: str = "sum") -> Assembled:
    """Read, added to, written, read again."""
    m.read("before", "s", shape)
    m.op("add", "sum", shape, x="before", y="x")
    m.write("after_write_state", "s", "sum")
    m.read("after", "s", shape)
    if output == "sum":
        through(m, x="after")
    return m


@case("state-type")
def _(bad: bool) -> Assembled:
    return updated(stateful(dtype=F if bad else H))


@case("state-target")
def _(bad: bool) -> Assembled:
    return updated(stateful(version=8 if bad else 9))


@case("state-unused")
def _(bad: bool) -> Assembled:
    m = stateful()
    return through(m) if bad else updated(m)


@case("state-read-across-write")
def _(bad: bool) -> Assembled:
    m = updated(stateful(), output="")
    m.op("sub", "change", (1, 64), x="after", y="before" if bad else "x")
    return through(m, x="change")


@case("state-write-before-read")
def _(bad: bool) -> Assembled:
    m = stateful()
    m.spec.mlProgram.attributes["buildInfo"].SetInParent()
    if not bad:
        m.read("before", "s", (1, 64))
    m.write("after_write_state", "s", "x")
    if bad:
        m.read("before", "s", (1, 64))
    return through(m, x="before") if bad else through(m)


@case("state-update-as-output")
def _(bad: bool) -> Assembled:
    m = updated(stateful())
    m.output("sum") if bad else None
    return m


@case("state-updates")
def _(bad: bool) -> Assembled:
    m = updated(stateful())
    m.write("again", "s", "sum") if bad else None
    return m


@case("state-across-functions")
def _(bad: bool) -> Assembled:
    m = Assembled()
    for name, width in (("main", 64), ("prefill", 96 if bad else 64)):
        m.function(name, several=True)
        m.input("x", (1, width))
        m.state("s", (1, width))
        updated(m, (1, width))
    return m


@case("ane-state-width")
def _(bad: bool) -> Assembled:
    return updated(stateful((1, 270 if bad else 256)))


@case("ane-state-flexible")
def _(bad: bool) -> Assembled:
    return updated(stateful(**({"ranged": [(1, 1), (1, 64)]} if bad else {})))


CASES["state-flexible"] = CASES["ane-state-flexible"]


def many_states(count: int) -> Assembled:
    m = plain()
    for number in range(count):
        m.state(f"s{number}", (1, 64))
        m.write(f"w{number}", f"s{number}", "x")
    return through(m)


@case("ane-state-number")
def _(bad: bool) -> Assembled:
    return many_states(2 if bad else 1)


@case("gpu-state-number")
def _(bad: bool) -> Assembled:
    return many_states(3 if bad else 2)


# Attention, and who runs what


def attention(query: Any = (1, 4, 8, 64), key: Any = (1, 4, 8, 64), mask: Any = None) -> Assembled:
    m = Assembled()
    for name, shape in (("q", query), ("k", key), ("v", key), *([("m", mask)] if mask else [])):
        m.input(name, shape)
    m.op(
        "scaled_dot_product_attention",
        "a",
        query,
        query="q",
        key="k",
        value="v",
        **({"attn_mask": "m"} if mask else {}),
    )
    return through(m, x="a", shape=query)


@case("attention-shapes")
def _(bad: bool) -> Assembled:
    return attention(key=(1, 2, 8, 64) if bad else (1, 4, 8, 64), mask=(1, 1, 8, 8))


@case("gpu-attention-batch")
def _(bad: bool) -> Assembled:
    shape = (10 if bad else 9, 12, 8, 64)
    return attention(shape, shape)


@case("gpu-attention-memory")
def _(bad: bool) -> Assembled:
    shape = (1, 2, 1280 if bad else 1279, 64)
    return attention(shape, shape)


@case("ane-fused-attention")
def _(bad: bool) -> Assembled:
    return attention() if bad else through(plain())


@case("control-flow")
def _(bad: bool) -> Assembled:
    m = plain()
    if bad:
        m.branch("choice")
        m.op("relu", "r", (1, 64), x="x")
        m.function()
    return through(m)


@case("ane-operation")
def _(bad: bool) -> Assembled:
    m = plain()
    m.op("cumsum" if bad else "exp", "c", (1, 64), x="x")
    return through(m, x="c")


@case("ane-integers")
def _(bad: bool) -> Assembled:
    m = plain(dtype=I if bad else H)
    m.op("add", "a", (1, 64), I if bad else H, x="x", y=np.int32(1) if bad else half(1))
    return through(m, x="a", kind="square" if bad else "relu", dtype=I if bad else H)


@case("ane-dynamic-slice")
def _(bad: bool) -> Assembled:
    m = plain()
    m.input("at", (2,), I)
    m.op("slice_by_index", "part", (1, None if bad else 32), x="x", begin=[0, 0], end="at" if bad else [1, 32])
    return through(m, x="part")


@case("ane-gather")
def _(bad: bool) -> Assembled:
    m = plain(shape=(64, 64))
    m.input("at", (1,), I)
    m.const("table", np.ones((64, 64), half), stored=True)
    m.op("gather", "row", (1, 64), x="x" if bad else "table", indices="at", axis=0)
    return through(m, x="row")


@case("ane-table-gather")
def _(bad: bool) -> Assembled:
    m = plain(shape=(1, 5, 64))
    m.input("at", (1, 5), I)
    m.const("table", np.ones((64, 64), half), stored=True)
    m.op("gather", "row", (1, 5, 64), x="table", indices="at", axis=0)
    m.op("mul" if bad else "add", "rotated", (1, 5, 64), x="x", y="row")
    return through(m, x="rotated")


@case("ane-float32")
def _(bad: bool) -> Assembled:
    return through(plain(dtype=F if bad else H), dtype=F if bad else H)


@case("ane-large-vocabulary")
def _(bad: bool) -> Assembled:
    m = plain(shape=(1, 5), dtype=I)
    m.const("table", np.ones((65537 if bad else 65536, 1), half), stored=True)
    m.op("gather", "row", (1, 5, 1), x="table", indices="x", axis=0)
    return through(m, x="row")


@case("guarded-gather")
def _(bad: bool) -> Assembled:
    m = plain(shape=(5,), dtype=I)
    m.const("table", np.ones((64, 64), half), stored=True)
    m.op("greater_equal", "positive", (5,), B, x="x", y=np.int32(0))
    m.op("add", "raised", (5,), I, x="x", y=np.int32(64))
    m.op("select", "chosen", (5,), I, cond="positive", a="x", b="raised")
    m.op("gather", "row", (5, 64), x="table", indices="chosen" if bad else "x", axis=0)
    return through(m, x="row")


@case("ane-range")
def _(bad: bool) -> Assembled:
    return through(plain(shape=(1, None if bad else 64), ranged=[(1, 1), (1 if bad else 64, 64)], default=(1, 64)))


@case("ane-flexible-batch")
def _(bad: bool) -> Assembled:
    return through(plain(shape=(None, None), listed=[(1, 64), (2, 64) if bad else (1, 96)]))


@case("ane-listed-norm")
def _(bad: bool) -> Assembled:
    shape = (1, None, 64) if bad else (1, 64, 1, None)
    listed = [(1, 8, 64), (1, 9, 64)] if bad else [(1, 64, 1, 8), (1, 64, 1, 9)]
    m = plain(shape=shape, listed=listed)
    m.op("layer_norm", "n", shape, x="x", axes=[-1], epsilon=half(1e-5))
    return through(m, shape, x="n")


@case("ane-computed-length")
def _(bad: bool) -> Assembled:
    m = plain()
    m.input("mask", (1, 96))
    m.op("shape", "long", (2,), I, x="mask")
    m.op("shape", "short", (2,), I, x="x")
    m.op("sub", "past", (2,), I, x="long", y="short" if bad else np.int32([1, 64]))
    return through(m)


@case("ane-axis")
def _(bad: bool) -> Assembled:
    m = plain(shape=(1, 16384 + bad))
    return through(m, (1, 16384 + bad))


@case("ane-last-axis")
def _(bad: bool) -> Assembled:
    return through(plain(shape=(1, 64, 1 if bad else 32)), (1, 64, 32))


@case("ane-output-rows")
def _(bad: bool) -> Assembled:
    return through(plain(), (2, 200 if bad else 224))


@case("ane-rank")
def _(bad: bool) -> Assembled:
    return through(plain(), (1, 5, 64) if bad else (1, 64, 1, 5))


@case("ane-layout")
def _(bad: bool) -> Assembled:
    m = plain(shape=(1, 64, 64))
    m.op("softmax", "s", (1, 64, 64), x="x", axis=-1)
    names = ["s"]
    for number in range(5):
        perm = [0, 2, 1] if bad or number else [1, 0, 2]
        names.append(m.op("transpose", f"t{number}", (1, 64, 64), x=names[-1], perm=perm))
    return through(m, x=names[-1])


@case("ane-linear")
def _(bad: bool) -> Assembled:
    m = plain(shape=(1, 64))
    m.const("w", np.eye(64, dtype=half), stored=True)
    m.op("linear" if bad else "matmul", "l", (1, 64), x="x", **{"weight" if bad else "y": "w"})
    return through(m, x="l")


@case("ane-softmax-axis")
def _(bad: bool) -> Assembled:
    m = plain(shape=(1, 64, 1, 64))
    m.op("softmax", "s", (1, 64, 1, 64), x="x", axis=-1 if bad else 1)
    return through(m, x="s")


@case("ane-convolution")
def _(bad: bool) -> Assembled:
    m = plain(shape=(1, 64, 64))
    m.const("w", np.ones((64, 64, 5), half), stored=True)
    m.op("conv", "c", (1, 64, 12), x="x", weight="w", strides=[5 if bad else 4])
    return through(m, x="c")


@case("head-over-all-tokens")
def _(bad: bool) -> Assembled:
    tokens = 7 if bad else 1
    m = plain(shape=(1, tokens, 64))
    m.const("w", np.ones((8192, 64), half), stored=True)
    m.op("linear", "logits", (1, tokens, 8192), x="x", weight="w")
    m.output("logits")
    return m


@case("growing-cache")
def _(bad: bool) -> Assembled:
    m = plain(shape=(1, 4, 1, 64))
    m.input("past", (1, 4, None if bad else 1, 64), ranged=[(1, 1), (4, 4), (1, 96 if bad else 1), (64, 64)])
    m.op("concat", "present", (1, 4, None, 64), values=["past", "x"], axis=2, interleave=False)
    m.output("present")
    return through(m)


# Weights, operations, targets


@case("newer-operation")
def _(bad: bool) -> Assembled:
    m = plain(7)
    m.op("quantize" if bad else "relu", "q", (1, 64), **({"input": "x"} if bad else {"x": "x"}))
    return through(m, x="q")


@case("opset")
def _(bad: bool) -> Assembled:
    m = Assembled(8)
    m.function(opset="CoreML8" if bad else "CoreML7")
    m.input("x", (1, 64))
    return through(m)


@case("small-integers")
def _(bad: bool) -> Assembled:
    m = plain(7 if bad else 8, dtype=I)
    m.cast("small", "x", (1, 64), "INT16")
    m.cast("wide", "small", (1, 64), I)
    return through(m, x="wide", dtype=I, kind="square")


@case("stored-type")
def _(bad: bool) -> Assembled:
    m = plain(8 if bad else 9, dtype=I)
    m.const("c", np.arange(64, dtype=np.int32), stored=True)
    m.op("add", "a", (1, 64), I, x="x", y="c")
    return through(m, x="a", dtype=I, kind="square")


@case("palette")
def _(bad: bool) -> Assembled:
    m = plain()
    lut = np.ones((1, 1, 5 if bad else 4, 1), half)
    m.op("constexpr_lut_to_dense", "w", (64, 64), indices=np.ones((64, 64), np.uint8), lut=lut)
    m.op("linear", "l", (1, 64), x="x", weight="w")
    return through(m, x="l")


def quantised(scale: Any, data: Any = None) -> Assembled:
    m = plain()
    m.const("data", np.ones((64, 64), np.int8), stored=True) if data is None else None
    m.op("constexpr_blockwise_shift_scale", "w", (64, 64), data=data or "data", scale=scale)
    m.op("linear", "l", (1, 64), x="x", weight="w")
    return through(m, x="l")


@case("scale-zero")
def _(bad: bool) -> Assembled:
    return quantised(np.full((64, 1), 0 if bad else 1, half))


@case("ane-blocks")
def _(bad: bool) -> Assembled:
    return quantised(np.ones((64, 2 if bad else 1), half))


@case("gpu-scaled-palette")
def _(bad: bool) -> Assembled:
    if not bad:
        return quantised(np.ones((64, 1), half))
    m = plain()
    lut = np.ones((1, 1, 4, 1), half)
    m.op("constexpr_lut_to_dense", "d", (64, 64), indices=np.ones((64, 64), np.uint8), lut=lut)
    m.op("constexpr_blockwise_shift_scale", "w", (64, 64), data="d", scale=np.ones((64, 1), half))
    m.op("linear", "l", (1, 64), x="x", weight="w")
    return through(m, x="l")


@case("quantised-activations")
def _(bad: bool) -> Assembled:
    m = plain()
    m.op("quantize" if bad else "relu", "q", (1, 64), **({"input": "x"} if bad else {"x": "x"}))
    return through(m, x="q")


@case("weights-twice")
def _(bad: bool) -> Assembled:
    m = plain()
    table = (np.arange(64 * 1024) % 1000).astype(half).reshape(64, 1024)
    m.const("one", table, stored=True)
    m.const("two", table.reshape(1, 1024, 64) if bad else table + half(1), stored=True)
    m.op("add", "a", (64, 1024), x="one", y="x")
    m.op("add", "b", (1, 1024, 64), x="two", y="x")
    return through(through(m, x="a"), x="b", y="z")


@case("operation-count")
def _(bad: bool) -> Assembled:
    m = plain()
    names = ["x"]
    for number in range(7309 + bad):
        names.append(m.op("relu", f"r{number}", (1, 64), x=names[-1]))
    return through(m, x=names[-1])


# coremltools' own faults


@case("constant-name-twice")
def _(bad: bool) -> Assembled:
    m = plain(shape=(1, 16))
    m.const("w", np.ones(16, half), stored=True)
    m.const("w" if bad else "v", np.ones(16, half), stored=64, value_name="v")
    m.op("add", "a", (1, 16), x="w", y="x")
    m.op("add", "b", (1, 16), x="a", y="v")
    return through(m, x="b")


@case("branch-constant-shared")
def _(bad: bool) -> Assembled:
    m = Assembled()
    m.spec.mlProgram.attributes["buildInfo"].SetInParent()
    for number, name in enumerate(("main", "other")):
        m.function(name, several=True)
        m.input("x", (1, 16))
        m.branch("choice")
        m.const("w", np.full(16, number, half), stored=64 if bad and number else True)
        m.op("add", "a", (1, 16), x="x", y="w")
        m.function(name)
        through(m)
    return m


@case("cast-to-float16")
def _(bad: bool) -> Assembled:
    m, end = plain(), "_cast_fp16" if bad else ""
    m.op("square", f"squares{end}", (1, 64), x="x")
    m.op("reduce_mean", f"mean{end}", (1, 1), x=f"squares{end}", axes=[-1], keep_dims=True)
    m.op("add", "with_epsilon", (1, 1), x=f"mean{end}", y=half(1e-5))
    m.op("rsqrt", "r", (1, 1), x="with_epsilon", epsilon=half(0))
    return through(m, x="r")


# Consumers


def swift(bad: str = "") -> Assembled:
    m = Assembled()
    shape = {"ranged": [(1, 1), (1, 2048)]} if bad != "inputs" else {"listed": [(1, 1), (1, 64)]}
    m.input("inputIds", (1, None), I, **shape)
    m.state("keyCache", (1, 64))
    m.state("cache" if bad == "cache" else "valueCache", (1, 64))
    m.cast("half", "inputIds", (1, None), H)
    m.write("k", "keyCache", "half")
    m.write("v", "cache" if bad == "cache" else "valueCache", "half")
    logits = (1, 64) if bad == "logits" else (1, None, 64)
    if bad != "tokenizer":
        m.spec.description.metadata.userDefined["co.huggingface.exporters.name"] = "openai-community/gpt2"
    return through(m, logits, x="half", y="logits")


for _word in ("inputs", "cache", "logits", "tokenizer"):
    case(f"swift-transformers-{_word}")(lambda bad, word=_word: swift(word if bad else ""))  # type: ignore[misc]


@case("exporters-cache")
def _(bad: bool) -> Assembled:
    m = plain()
    for kind in ("key", "value"):
        m.input(f"past_key_values_0_{kind}", (1, 64))
        through(m, x=f"past_key_values_0_{kind}", y=f"present_key_values_0_{kind}" if not bad else f"new_{kind}")
    return m


@case("exporters-ids")
def _(bad: bool) -> Assembled:
    m = Assembled()
    dtype = F if bad else I
    m.input("input_ids", (1, 64), dtype)
    return through(m, x="input_ids", dtype=dtype, kind="square")


@case("whisperkit-decoder")
def _(bad: bool) -> Assembled:
    m = Assembled()
    shapes = {1: (1,), 2: (1, 64), 3: (1, 1, 64), 4: (1, 64, 1, 64)}
    axes = {"input_ids": 1, "cache_length": 1, "key_cache": 4, "value_cache": 4, "kv_cache_update_mask": 2}
    axes |= {"encoder_output_embeds": 4, "decoder_key_padding_mask": 2}
    for name, count in axes.items():
        m.input(name, shapes[count], I if count == 1 else H)
    for name, count in {"logits": 2 if bad else 3, "key_cache_updates": 4, "value_cache_updates": 4}.items():
        through(m, shapes[count], x="key_cache", y=name)
    return m


@case("anemll-part")
def _(bad: bool) -> Assembled:
    m = Assembled()
    m.spec.description.metadata.userDefined["com.anemll.info"] = "chunk"
    for name in ("hidden_states", "position_ids", "causal_mask", "current_pos")[bad:]:
        m.input(name, (1, 64))
    return through(m, x="causal_mask", y="output_hidden_states")


# What takes more than a program


SIZES = {"ane-weights": 1.0e9, "weights-size": 2.0e9}


@pytest.mark.parametrize("name", SIZES)
def test_size(name: str, tmp_path: Path) -> None:
    """The file has a hole: it takes no room on the disk."""
    for size in (SIZES[name] + 1, SIZES[name]):
        path = through(plain()).save(tmp_path / f"{size:.0f}.mlpackage")
        with (path / WEIGHTS).open("r+b") as file:
            file.truncate(int(size))
        assert (name in found(path, "ane")) == (size > SIZES[name])


def found(path: Path, unit: str | None = None) -> set[str]:
    return {finding.rule.id for finding in lint(path, unit).findings}


def test_every_rule_has_a_case() -> None:
    assert {*CASES, *SIZES} == set(RULES)


@pytest.mark.parametrize("name", CASES)
def test_a_package_that_breaks_it(name: str, tmp_path: Path) -> None:
    path = CASES[name](True).save(tmp_path / "p.mlpackage")
    report = lint(path, RULES[name].units[0] if RULES[name].units else None)
    assert name in {finding.rule.id for finding in report.findings}
    breach = next(finding for finding in report.findings if finding.rule.id == name)
    assert breach.what
    assert breach.place.function in {"", *report.functions}
    if breach.place.type:
        graph = Package(path).function(breach.place.function)
        assert breach.place.operation in {op.name for op in graph.operations} or graph.operations[0].blocks


@pytest.mark.parametrize("name", CASES)
def test_the_one_beside_it_does_not(name: str, tmp_path: Path) -> None:
    path = CASES[name](False).save(tmp_path / "p.mlpackage")
    assert name not in found(path, "all")
    assert lint(path).passed, lint(path).findings


@pytest.mark.parametrize("name", [name for name in CASES if RULES[name].units])
def test_a_rule_of_one_unit_is_asked_for_it_only(name: str, tmp_path: Path) -> None:
    path = CASES[name](True).save(tmp_path / "p.mlpackage")
    assert name not in found(path)
    for unit in UNITS:
        assert (name in found(path, unit)) == (unit in RULES[name].units)


def test_the_table_of_rules() -> None:
    for name, rule in RULES.items():
        assert name == rule.id
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
        assert rule.severity in SEVERITIES
        assert rule.confidence in ("high", "medium")
        assert set(rule.units) <= set(UNITS)
        for text in (rule.sentence, rule.fix):
            assert text[0].isupper() or text.startswith(("scaled_", "rsqrt"))
            assert text.endswith(".")
        assert rule.source
        assert not rule.source.endswith(".")
        # One rule of one unit is named for it.
        assert name.startswith(("ane-", "gpu-")) <= bool(rule.units)
    assert len({rule.sentence for rule in RULES.values()}) == len(RULES)


def test_the_page_of_rules_is_the_table() -> None:
    assert rules.DOCUMENT.read_text("utf-8") == rules.document(), "write it again: python -m tests.docs.lint"


# coremltools' faults, as it makes them


def converted(program: Any, path: Path, **options: Any) -> Path:
    import coremltools as ct

    ct.convert(
        program, source="milinternal", convert_to="mlprogram", minimum_deployment_target=ct.target.iOS18, **options
    ).save(str(path))
    return path


def test_coremltools_moves_a_write_ahead_of_a_read(tmp_path: Path) -> None:
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    @mb.program(
        input_specs=[mb.TensorSpec((1, 64), types.fp16), mb.StateTensorSpec((1, 64), types.fp16)],
        opset_version=ct.target.iOS18,
    )
    def program(x: Any, s: Any) -> Any:
        new = mb.add(x=x, y=half(1), name="new")
        before = mb.read_state(input=s, name="before")
        product = mb.mul(x=before, y=x, name="product")
        mb.coreml_update_state(state=s, value=new, name="after")
        return product

    assert "state-write-before-read" in found(converted(program, tmp_path / "p.mlpackage"))


def test_coremltools_merges_reads_across_a_write(tmp_path: Path) -> None:
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    @mb.program(
        input_specs=[mb.TensorSpec((1, 64), types.fp16), mb.StateTensorSpec((1, 64), types.fp16)],
        opset_version=ct.target.iOS18,
    )
    def program(x: Any, s: Any) -> Any:
        before = mb.read_state(input=s, name="before")
        mb.coreml_update_state(state=s, value=mb.add(x=before, y=x, name="new"), name="written")
        return mb.sub(x=mb.read_state(input=s, name="after"), y=before, name="change")

    assert "state-read-across-write" in found(converted(program, tmp_path / "p.mlpackage"))


def test_coremltools_stores_one_of_two_constants(tmp_path: Path) -> None:
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    @mb.program(input_specs=[mb.TensorSpec((1, 16), types.fp16)], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        y = mb.add(x=x, y=mb.const(val=np.full(16, 1, half), name="w"), name="one")
        return mb.add(x=y, y=mb.const(val=np.full(16, 2, half), name="w"), name="two")

    program.skip_all_passes = True
    path = converted(program, tmp_path / "p.mlpackage")
    assert "constant-name-twice" in found(path)
    values = [op.attributes["val"] for op in Package(path).function().operations if op.name == "w"]
    assert (values[0] == values[1]).all()  # they were 1 and 2


def test_a_norm_behind_a_gather_is_no_rotary(tmp_path: Path) -> None:
    """It multiplies a row with what was worked out of the row itself."""
    m = Assembled()
    m.input("ids", (1, 5), I)
    m.const("table", np.ones((64, 64), half), stored=True)
    m.op("gather", "row", (1, 5, 64), x="table", indices="ids", axis=0)
    m.op("reduce_l2_norm", "length", (1, 5, 1), x="row", axes=[-1], keep_dims=True)
    m.op("rsqrt", "inverse", (1, 5, 1), x="length", epsilon=half(1e-3))
    m.op("mul", "norm", (1, 5, 64), x="row", y="inverse")
    assert "ane-table-gather" not in found(through(m, (1, 5, 64), x="norm").save(tmp_path / "p.mlpackage"), "ane")


def test_a_package_of_another_task_is_not_for_swift_transformers() -> None:
    """It has the names; what writes text is held to the rest as well, unless it was asked for names of its own."""
    tasks_ = ("feature-extraction", "text-generation")
    models = [milbuild.build(checkpoint(task=t), task=t, interface="swift-transformers") for t in tasks_]
    assert [model.lint_report.findings for model in models] == [(), ()]
    model = milbuild.build(checkpoint(), interface="swift-transformers", outputs={"logits": "scores"})
    assert model.lint_report.findings == ()
    spec = model.get_spec()
    del spec.description.metadata.userDefined["milbuild.options"]
    assert "swift-transformers-logits" in {finding.rule.id for finding in lint_program(spec, "p").findings}


def test_names_that_were_asked_for_are_no_consumers() -> None:
    inputs = {"past_key_values_0_key": "k0", "past_key_values_1_value": "v1"}
    model = milbuild.build(checkpoint(), cache="io", context_length=16, inputs=inputs)
    assert model.lint_report.findings == ()
    spec = model.get_spec()
    del spec.description.metadata.userDefined["milbuild.options"]
    assert "exporters-cache" in {finding.rule.id for finding in lint_program(spec, "p").findings}


def test_values_of_an_output_in_two_precisions_have_two_names() -> None:
    """Before iOS 16 outputs are float32: probabilities have their name, and so did the float16 ones they are cast from."""
    model = milbuild.build(checkpoint("bert", "fill-mask"), task="fill-mask", target="iOS15")
    assert model.lint_report.findings == ()
    assert [feature.name for feature in model.get_spec().description.output] == ["token_scores"]


def test_coremltools_casts_what_was_left_in_float32(tmp_path: Path) -> None:
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    def make() -> Any:
        @mb.program(input_specs=[mb.TensorSpec((1, 64), types.fp32)], opset_version=ct.target.iOS18)
        def program(x: Any) -> Any:
            mean = mb.reduce_mean(x=mb.square(x=x, name="squares"), axes=[-1], keep_dims=True, name="mean")
            return mb.mul(x=x, y=mb.rsqrt(x=mb.add(x=mean, y=np.float32(1e-5)), epsilon=np.float32(0)), name="y")

        return program

    assert {"cast-to-float16", "square-overflow"} <= found(converted(make(), tmp_path / "p.mlpackage"))
    single = converted(make(), tmp_path / "q.mlpackage", compute_precision=ct.precision.FLOAT32)
    assert not {"cast-to-float16", "square-overflow"} & found(single)


# Our own builds


def builds() -> Iterator[Any]:
    """Of each family its first task, and text generation, with every cache."""
    for model_type, entry in architectures.SUPPORTED.items():
        wanted = dict.fromkeys((entry.tasks[0], *({"text-generation", "text2text-generation"} & set(entry.tasks))))
        for task in wanted:
            for cache in tasks.caches(task, entry.decoder):
                yield pytest.param(model_type, task, cache, id=f"{model_type}-{task}-{cache}")


@pytest.mark.parametrize(("model_type", "task", "cache"), list(builds()))
def test_our_own_builds(model_type: str, task: str, cache: str, tmp_path: Path) -> None:
    """No errors; what else is said without a unit is explained in docs/lint.md."""
    path = tmp_path / "p.mlpackage"
    rules.built(model_type, task, cache).save(path)
    clean(lint(path), lint(path, "all"))


def clean(report: Report, likely: Report) -> None:
    """There are no errors; what else is said, without a unit and with `all`, is explained."""
    assert report.passed, report.findings
    assert {finding.rule.id for finding in report.findings} <= set(rules.EXPLAINED)
    assert {finding.rule.id for finding in likely.findings} <= {*rules.EXPLAINED, *rules.EXPLAINED_UNITS}


def combination(model_type: str, task: str, options: dict[str, Any]) -> None:
    model = rules.built(model_type, task, **options)
    clean(*(lint_program(model.get_spec(), str(options), unit) for unit in (None, "all")))


# Of every family and task two combinations, other ones each; all together have every cache, interface, target and precision.
DRAWN = [
    (*pair, drawn)
    for number, pair in enumerate(rules.pairs())
    for drawn in random.Random(number).sample(rules.matrix(*pair), 2)
]
# Of what one task of one family has.
WHISPERKIT = [each for each in rules.matrix("whisper", "speech-seq2seq") if each["interface"] == "whisperkit"]
DRAWN += [("whisper", "speech-seq2seq", drawn) for drawn in random.Random(0).sample(WHISPERKIT, 3)]


@pytest.mark.parametrize(
    ("model_type", "task", "options"), DRAWN, ids=lambda value: value if isinstance(value, str) else ""
)
def test_our_own_builds_of_every_kind(model_type: str, task: str, options: dict[str, Any]) -> None:
    combination(model_type, task, options)


def test_what_is_drawn_has_everything() -> None:
    for name, known in {
        "cache": tasks.ALL_CACHES,
        "interface": INTERFACES,
        "target": TARGETS,
        "precision": PRECISIONS,
    }.items():
        assert {options[name] for _, _, options in DRAWN} == set(known)


# A third of what each family can be built with for each task, another third for the next one: some 1,800 builds.
@pytest.mark.all
@pytest.mark.parametrize(("model_type", "task", "third"), [(*pair, n % 3) for n, pair in enumerate(rules.pairs())])
def test_our_own_builds_by_thirds(model_type: str, task: str, third: int) -> None:
    for options in rules.matrix(model_type, task)[third::3]:
        combination(model_type, task, options)


# What is explained -> a build to which it is said.
STATE = {"cache": "state", "context_length": 16}
LISTED = {"sequence_length": [7, 9], "logits": "last"}
SAID: dict[str, tuple[str, str, dict[str, Any]]] = {
    **dict.fromkeys(
        ("state-updates", "ane-fused-attention", "ane-linear", "ane-rank", "ane-state-number", "ane-state-width"),
        ("gpt2", "text-generation", STATE),
    ),
    **dict.fromkeys(("ane-integers", "ane-table-gather"), ("llama", "text-generation", STATE)),
    **dict.fromkeys(("growing-cache", "ane-last-axis"), ("gpt2", "text-generation", {"cache": "io", "context_length": (1, 9)})),
    **dict.fromkeys(("ane-output-rows", "ane-range"), ("gpt2", "text-generation", {"sequence_length": (1, 9)})),
    **dict.fromkeys(("ane-operation", "ane-listed-norm"), ("gpt2", "text-generation", LISTED)),
    **dict.fromkeys(
        ("ane-gather", "float32-island"), ("gpt2", "text-classification", {"sequence_length": 9, "attention_mask": True})
    ),
    "ane-layout": ("segformer", "semantic-segmentation", TABLE["segformer"].options),
    "ane-convolution": ("hubert", "feature-extraction", TABLE["hubert"].options),
    "gpu-state-number": ("bart", "text2text-generation", {"cache": "state"}),
    "ane-softmax-axis": ("gpt2", "text-generation", {"sequence_length": 7, "target": "iOS17"}),
    "ane-float32": ("gpt2", "text-generation", {"sequence_length": 7, "precision": "float32"}),
    "state-flexible": ("gpt2", "text-generation", STATE | {"sequence_length": (1, 9)}),
    **dict.fromkeys(
        ("ane-computed-length", "ane-state-flexible", "ane-dynamic-slice"),
        ("mistral", "text-generation", {"cache": "state", "context_length": 16, "interface": "swift-transformers"}),
    ),
}  # fmt: skip


def test_what_is_explained_is_said(tmp_path: Path) -> None:
    """Nothing is explained that no build finds any more."""
    assert set(SAID) == {*rules.EXPLAINED, *rules.EXPLAINED_UNITS}
    said: dict[str, set[str]] = {}
    for name, (model_type, task, options) in SAID.items():
        key = f"{model_type} {task} {options}"
        if key not in said:
            path = tmp_path / f"{len(said)}.mlpackage"
            milbuild.build(checkpoint(model_type, task), task=task, lint=False, **options).save(path)
            said[key] = found(path, "all") | found(path)
        assert name in said[key], key


@pytest.mark.filterwarnings("ignore")  # torch.jit.trace is deprecated, and this is about its result
def test_a_model_that_coremltools_traced(tmp_path: Path) -> None:
    """A third-party package without a fault: no errors, and findings for what coremltools' passes leave in it."""
    import coremltools as ct
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = torch.nn.Embedding(4096, 64), torch.nn.Linear(64, 32)
            self.norm = torch.nn.LayerNorm(64)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.norm(self.table(ids))
            x = torch.nn.functional.scaled_dot_product_attention(x, x, x)
            return torch.softmax(self.head(x), -1)

    traced = torch.jit.trace(Net().eval(), torch.zeros(1, 8, dtype=torch.int32))
    inputs = [ct.TensorType(name="ids", shape=(1, 8), dtype=np.int32)]
    ct.convert(traced, inputs=inputs, minimum_deployment_target=ct.target.iOS18).save(str(tmp_path / "p.mlpackage"))
    report = lint(tmp_path / "p.mlpackage", "all")
    assert report.passed, report.findings
    assert {"guarded-gather", "ane-fused-attention"} <= {finding.rule.id for finding in report.findings}


def test_a_build_for_swift_transformers(tmp_path: Path) -> None:
    model = milbuild.build(checkpoint(), cache="state", interface="swift-transformers", context_length=16)
    model.save(tmp_path / "p.mlpackage")
    assert found(tmp_path / "p.mlpackage") <= set(rules.EXPLAINED)
    likely = found(tmp_path / "p.mlpackage", "gpu")
    assert likely <= {*rules.EXPLAINED, *rules.EXPLAINED_UNITS}
    assert "ane-state-flexible" in found(tmp_path / "p.mlpackage", "ane")


@pytest.mark.parametrize("target", ["iOS15", "iOS16", "iOS17", "iOS18", "iOS26"])
@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_every_target(target: str, precision: str, tmp_path: Path) -> None:
    milbuild.build(checkpoint(), target=target, precision=precision).save(tmp_path / "p.mlpackage")
    assert lint(tmp_path / "p.mlpackage").findings == ()


def test_a_program_that_is_not_saved() -> None:
    """What a build can ask before it saves: everything but the values of weights."""
    model = milbuild.build(checkpoint(), cache="state", context_length=16)
    report = lint_program(model._spec, "gpt2", "all")
    saved = lint(model, "all")
    assert [(f.rule.id, f.place, f.what) for f in report.findings] == [
        (f.rule.id, f.place, f.what) for f in saved.findings
    ]
    assert report.functions == saved.functions


# Builds end with it


def broken(severity: str, times: int = 3) -> Rule:
    """A rule that any program breaks."""

    def finds(subject: Subject) -> Iterator[tuple[Place, str]]:
        for graph in subject.graphs:
            for layer in range(times):
                yield Place(graph.name, f"h_{layer}_ln", "layer_norm"), "it is there"

    return Rule("made-up", severity, "Nothing is right.", "Mend it.", "this test", "high", (), "", finds)


def test_an_error_stops_a_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It names the rule, the place (once for all layers) and the fix; without lint the same program is built."""
    monkeypatch.setitem(RULES, "made-up", broken("error"))
    with pytest.raises(milbuild.Error) as caught:
        milbuild.build(checkpoint())
    assert "made-up: main h_*_ln (layer_norm): it is there (3 times). Mend it." in caught.value.message
    assert "lint=False" in str(caught.value.hint)
    assert "--no-lint" in str(caught.value.hint)
    model = milbuild.build(checkpoint(), lint=False)
    assert model.lint_report is None
    model.save(tmp_path / "p.mlpackage")
    assert milbuild.Model(tmp_path / "p.mlpackage").user_defined_metadata["milbuild.lint"] == "off"


def test_metadata_says_only_that_lint_was_off() -> None:
    linted, not_ = (dict(milbuild.build(checkpoint(), lint=lint).user_defined_metadata) for lint in (True, False))
    assert not_.pop("milbuild.lint") == "off"
    assert linted == not_


def test_warnings_are_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One warning in one line, at the caller's place; the report has every finding."""
    monkeypatch.setitem(RULES, "made-up", broken("warning"))
    with pytest.warns(milbuild.LintWarning) as caught:
        model = milbuild.build(checkpoint())
    (warning,) = caught
    assert warning.filename == __file__
    assert str(warning.message).startswith(
        "3 warnings (made-up): made-up: main h_*_ln (layer_norm): it is there (3 times). Mend it. "
    )
    assert "\n" not in str(warning.message)
    assert [finding.rule.id for finding in model.lint_report.findings] == ["made-up"] * 3
    assert "made-up" in {finding.rule.id for finding in milbuild.lint(model).findings}


@pytest.mark.parametrize("lengths", [(1, 9), [1, 4, 8], (1, 128)], ids=str)
def test_a_state_and_calls_of_several_lengths_are_warned_of(lengths: Any, tmp_path: Path) -> None:
    """By default Core ML takes all units, of which the Neural Engine does not plan them: said once, with the way out."""
    folder = checkpoint(n_positions=131)
    with pytest.warns(milbuild.LintWarning) as caught:
        model = milbuild.build(folder, cache="state", sequence_length=lengths)
    (warning,) = caught
    text = str(warning.message)
    assert text.startswith("1 warning (state-flexible): state-flexible: main: input_ids is flexible. ")
    assert "--prefill-length 64" in text
    assert "cpu_and_gpu" in text
    model.save(tmp_path / "p.mlpackage")
    both = {unit: found(tmp_path / "p.mlpackage", unit) for unit in (None, "cpu", "gpu", "ane", "all")}
    assert {unit for unit, ids in both.items() if "state-flexible" in ids} == {None, "cpu", "gpu"}
    assert {unit for unit, ids in both.items() if "ane-state-flexible" in ids} == {"ane", "all"}


@pytest.mark.parametrize("options", [{}, {"prefill_length": 4}, {"interface": "swift-transformers"}], ids=str)
def test_states_that_every_unit_plans_are_not_warned_of(options: dict[str, Any]) -> None:
    """swift-transformers keeps its packages off the Neural Engine by itself. The suite's filter makes a warning an error."""
    assert "state-flexible" not in milbuild.build(checkpoint(), cache="state", **options).lint_report.counted("warning")


def test_rules_of_no_unit_and_rules_of_all_are_not_confused(tmp_path: Path) -> None:
    milbuild.build(checkpoint()).save(tmp_path / "p.mlpackage")
    said = {}
    for unit in (None, "ane", "all"):
        console = Console(width=200, file=io.StringIO())
        console.print(lint(tmp_path / "p.mlpackage", unit))
        said[unit] = console.file.getvalue()
    always = sum(not rule.units for rule in RULES.values())
    assert f"by {always} rules, without those of one compute unit: --unit adds them (iOS18)" in said[None]
    assert "rules, with those of the Neural Engine (iOS18)" in said["ane"]
    assert f"by {len(RULES)} rules, with those of each unit (iOS18)" in said["all"]
    assert not any("every unit" in text or "all units" in text for text in said.values())


def test_notes_are_not_said() -> None:
    """The suite's filter would make a warning an error."""
    model = milbuild.build(checkpoint(), cache="state", context_length=16)
    assert {finding.rule.severity for finding in model.lint_report.findings} == {"note"}


def test_a_build_reads_no_weights_for_it(tmp_path: Path) -> None:
    """Weights that are wrong are found where they are read: when they are saved, or in what was saved."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(checkpoint(), tmp_path / "c")
    tensors = load_file(tmp_path / "c" / "model.safetensors")
    tensors["transformer.h.0.mlp.c_fc.weight"][0, 0] = np.nan
    save_file(tensors, tmp_path / "c" / "model.safetensors")
    model = milbuild.build(tmp_path / "c")
    assert model.lint_report.findings == ()
    with pytest.raises(milbuild.Error, match="NaN"):
        model.save(tmp_path / "p.mlpackage")


# Reading


@pytest.mark.parametrize("file", ["Manifest.json", "Data/com.apple.CoreML/model.mlmodel", WEIGHTS])
def test_a_damaged_package(file: str, tmp_path: Path) -> None:
    path = CASES["weights-twice"](True).save(tmp_path / "p.mlpackage")
    os.truncate(path / file, (path / file).stat().st_size // 2)
    with pytest.raises(milbuild.Error, match=r"p\.mlpackage"):
        lint(path)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    "values",
    [[1, -2, 3], [-1, -2], [1, 2], [0.0], [-0.0], [np.inf, 1], [-np.inf], [np.nan, 1], [-np.nan], [6e-8, -6e-8]],
)
def test_the_range_of_a_constant(values: list[float], dtype: Any, tmp_path: Path) -> None:
    """Piece by piece, and of float16 by its bits: what numpy says of the whole."""
    array = np.zeros(PIECE + 7, dtype)
    array[-len(values) :] = values
    for part in (array, np.array(values, dtype)):
        m = plain()
        m.const("c", part, stored=True)
        path = through(m).save(tmp_path / f"{part.size}.mlpackage")
        package = Package(path)
        constant = Constant(package, package.spec.mlProgram.functions["main"].block_specializations["CoreML8"]
                            .operations[0].attributes["val"])  # fmt: skip
        assert constant.range is not None
        low, high, nan = constant.range
        wide = part.astype(np.float32)
        assert nan == np.isnan(wide).any()
        if not nan:
            assert (low, high) == (min(0, wide.min()), max(0, wide.max()))


def test_packed_weights_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    m = plain()
    m.const("data", np.ones((64, 64), np.int8), stored=True)
    m.op(
        "constexpr_blockwise_shift_scale", "w", (64, 64), data=np.ones((64, 64), ml_dtypes.int4), scale=np.ones((64, 1))
    )
    path = through(m).save(tmp_path / "p.mlpackage")
    monkeypatch.setattr("milbuild.package.storage.unpack", None)
    assert lint(path, "all").passed


# The command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lint")
    CASES["epsilon-zero"](True).save(folder / "bad.mlpackage")
    CASES["epsilon-zero"](False).save(folder / "good.mlpackage")
    return folder


def test_json(command: CommandLine, folder: Path) -> None:
    result = command("lint", "bad.mlpackage", "--json", cwd=folder)
    assert (result.code, result.err) == (1, "")
    report = json.loads(result.out)
    assert (report["passed"], report["errors"], report["unit"], report["target"]) == (False, 1, None, "iOS18")
    (breach,) = report["findings"]
    assert (breach["rule"], breach["function"], breach["operation"], breach["type"]) == (
        "epsilon-zero",
        "main",
        "n",
        "layer_norm",
    )
    assert breach.keys() >= {
        "severity",
        "sentence",
        "what",
        "landmark",
        "fix",
        "source",
        "confidence",
        "units",
        "targets",
    }
    assert report["functions"] == {"main": {"operations": 2, "elsewhere": 0, "switches": 0}}
    result = command("lint", "good.mlpackage", "--json", cwd=folder)
    assert (result.code, json.loads(result.out)["findings"]) == (0, [])


def test_for_people(command: CommandLine, folder: Path) -> None:
    result = command("lint", "bad.mlpackage", cwd=folder)
    assert (result.code, result.err) == (1, "")
    assert result.out.startswith("bad.mlpackage: 1 error by ")
    # The finding comes after the rule's name; the rule itself would read as if it held.
    assert "\nerror epsilon-zero  main n (layer_norm): its epsilon is 0\n" in result.out
    for words in (f"\n    rule: {RULES['epsilon-zero'].sentence}\n", "fix: ", "confidence high", "operations"):
        assert words in result.out
    result = command("lint", "good.mlpackage", "--unit", "ane", cwd=folder)
    assert result.code == 0
    assert "likely, on the Neural Engine" in result.out


RULE_BROKEN = """
import sys
from milbuild.cli import imports
imports.prepare(configurations=True)
from milbuild.linting import RULES, Rule
from milbuild.package.graph import Place
found = lambda subject: iter([(Place("main", "h_0_ln", "layer_norm"), "it is there")] * 2)
RULES["made-up"] = Rule("made-up", {severity!r}, "Nothing is right.", "Mend it.", "this test", "high", (), "", found)
sys.argv = ["milbuild", *{arguments!r}]
from milbuild.cli import main
main()
"""


def test_what_a_build_says(tmp_path: Path) -> None:
    """Errors write nothing; warnings are one line for people, a list for machines."""

    def build(severity: str, *options: str) -> Any:
        arguments = ["build", str(checkpoint()), "p.mlpackage", "--force", *options]
        script = RULE_BROKEN.format(severity=severity, arguments=arguments)
        return subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True
        )

    done = build("error")
    assert (done.returncode, done.stdout, os.listdir(tmp_path)) == (2, "", [])
    assert done.stderr.startswith("error: ")
    assert "made-up: main h_*_ln (layer_norm): it is there (2 times). Mend it." in done.stderr
    assert "--no-lint" in done.stderr
    done = build("error", "--no-lint", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["metadata"]["milbuild.lint"] == "off"
    done = build("warning")
    assert (done.returncode, done.stdout) == (0, "")
    first, second, third = done.stderr.splitlines()
    assert first == "2 warnings (made-up); milbuild lint p.mlpackage says more"
    assert second == "  made-up: main h_*_ln (layer_norm): it is there (2 times). Mend it."
    assert third.startswith("Built p.mlpackage")
    done = build("warning", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert [(each["rule"], each["what"]) for each in json.loads(done.stdout)["warnings"]] == [
        ("made-up", "it is there")
    ] * 2


def test_refused(command: CommandLine, folder: Path) -> None:
    for arguments, words in (
        (("nothing.mlpackage",), "there is no package"),
        (("good.mlpackage", "--unit", "npu"), "unit is 'npu'; it must be one of cpu, gpu, ane, all"),
    ):
        result = command("lint", *arguments, cwd=folder)
        assert (result.code, result.out) == (2, "")
        assert words in result.err


def test_switches() -> None:
    """Along the chain of operations that changes over most often: masks that wait for nothing count once."""
    m = plain()
    m.cast("wide", "x", (1, 64), F)
    m.op("exp", "e", (1, 64), F, x="wide")
    m.cast("narrow", "e", (1, 64), H)
    m.op("topk", "t", (1, 64), x="narrow")
    through(m, x="t")
    counted = lint_program(m.spec, "p").functions["main"]
    assert (counted.operations, counted.elsewhere, counted.switches) == (5, 3, 3)
