"""What `inspect` says, against sums made by hand and torch's own counter; differences of packages; graphs."""

import io
import itertools
import json
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

import milbuild
from milbuild.inspection import Comparison, compare, inspect
from milbuild.inspection.bandwidth import GPU, NEURAL_ENGINE, TABLE
from milbuild.inspection.costs import Ledger
from milbuild.inspection.drawing import Page, _figure, draw, layout
from milbuild.inspection.outline import LIMIT, Group, count, outline
from milbuild.package.graph import Graphs
from milbuild.package.reader import Package
from tests.conftest import checkpoint, reference
from tests.helpers.command_line import CommandLine
from tests.helpers.packages_by_hand import Assembled, F, I, Word
from tests.runtime import test_compressed_models as squeezed

half = np.float16
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
MODEL = "Data/com.apple.CoreML/model.mlmodel"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packages of the tables' small models, built when they are first asked for."""
    return tmp_path_factory.mktemp("inspection")


def built(folder: Path, name: str, model_type: str, task: str = "text-generation", **options: Any) -> Path:
    path = folder / f"{name}.mlpackage"
    if not path.exists():
        milbuild.build(checkpoint(model_type, task), task=task, **options).save(path)
    return path


@pytest.fixture(scope="module")
def stateful(folder: Path) -> Path:
    return built(folder, "stateful", "gpt2", cache="state", prefill_length=8, context_length=16)


@pytest.fixture(scope="module")
def traced(folder: Path) -> Path:
    """Of `squeezed.Net` by coremltools, whose names say nothing."""
    path = folder / "traced.mlpackage"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch finds tracing out of date
        squeezed.converted(squeezed.FP16, squeezed.ct.target.iOS18).save(str(path))
    return path


# Multiply-accumulates

SUMS: dict[str, tuple[Callable[[Assembled], Any], int]] = {}


def summed(expected: int) -> Callable[[Callable[[Assembled], Any]], None]:
    def add(make: Callable[[Assembled], Any]) -> None:
        SUMS[make.__name__] = (make, expected)

    return add


@summed(2 * 3 * 5 * 7)
def linear(m: Assembled) -> str:
    return m.op(
        "linear", "y", (2, 3, 7), x=m.input("x", (2, 3, 5)), weight=m.const("w", np.ones((7, 5), half), stored=True)
    )


@summed(2 * 3 * 5 * 7)
def matmul_of_turned(m: Assembled) -> str:
    x, y = m.input("x", (2, 5, 3)), m.input("z", (2, 5, 7))
    return m.op("matmul", "y", (2, 3, 7), x=x, y=y, transpose_x=np.array(True), transpose_y=np.array(False))


@summed(2 * 3 * 5 * 7)
def matmul(m: Assembled) -> str:
    return m.op("matmul", "y", (2, 3, 7), x=m.input("x", (2, 3, 5)), y=m.input("z", (2, 5, 7)))


@summed(2 * 3 * 5 * 7 * 11)
def einsum(m: Assembled) -> str:
    x, z = m.input("x", (2, 5, 3, 11)), m.input("z", (2, 11, 3, 7))
    return m.op("einsum", "y", (2, 5, 3, 7), values=[x, z], equation=Word("bchq,bqhk->bchk"))


@summed((2 * 12 * 6 * 5) * (8 // 4) * 3 * 2)
def grouped_conv(m: Assembled) -> str:
    weight = m.const("w", np.ones((12, 2, 3, 2), half), stored=True)
    return m.op("conv", "y", (2, 12, 6, 5), x=m.input("x", (2, 8, 8, 6)), weight=weight, groups=np.int32(4))


@summed((2 * 8 * 5 * 4) * (12 // 4) * 3 * 2)
def grouped_conv_transpose(m: Assembled) -> str:
    weight = m.const("w", np.ones((8, 3, 3, 2), half), stored=True)
    return m.op("conv_transpose", "y", (2, 12, 7, 5), x=m.input("x", (2, 8, 5, 4)), weight=weight, groups=np.int32(4))


@summed(2 * 3 * (5 * 7 * 11 + 5 * 7 * 13))
def scaled_dot_product_attention(m: Assembled) -> str:
    query, key, value = m.input("q", (2, 3, 5, 11)), m.input("k", (2, 3, 7, 11)), m.input("v", (2, 3, 7, 13))
    return m.op("scaled_dot_product_attention", "y", (2, 3, 5, 13), query=query, key=key, value=value)


@summed(6 * 2 * 2 * (4 * 3 * 5 + 4 * 3 * 3))
def lstm_both_ways(m: Assembled) -> str:
    weights = {
        f"weight_{kind}{way}": m.const(f"w{kind}{way}", np.ones((12, n), half), stored=True)
        for kind, n in (("ih", 5), ("hh", 3))
        for way in ("", "_back")
    }
    state = m.input("h", (2, 6))
    return m.op("lstm", "y", (6, 2, 6), x=m.input("x", (6, 2, 5)), initial_h=state, initial_c=state, **weights)


@summed(6 * 2 * (3 * 3 * 5 + 3 * 3 * 3))
def gru(m: Assembled) -> str:
    weights = {f"weight_{k}": m.const(f"w{k}", np.ones((9, n), half), stored=True) for k, n in (("ih", 5), ("hh", 3))}
    return m.op("gru", "y", (6, 2, 3), x=m.input("x", (6, 2, 5)), initial_h=m.input("h", (2, 3)), **weights)


@summed(0)
def element_by_element(m: Assembled) -> str:
    m.op("layer_norm", "n", (2, 64), x=m.input("x", (2, 64)), axes=np.array([1]))
    return m.op("mul", "y", (2, 64), x="n", y="n")


@pytest.mark.parametrize("name", SUMS)
def test_multiply_accumulates_by_hand(name: str, tmp_path: Path) -> None:
    make, expected = SUMS[name]
    m = Assembled()
    m.output(make(m))
    assert inspect(m.save(tmp_path / "m.mlpackage")).functions["main"].macs == expected


def test_the_dearer_branch_counts(tmp_path: Path) -> None:
    """And a loop's one round, with all its blocks."""
    m = Assembled()
    m.input("x", (1, 5)), m.input("p", (1,), "BOOL")
    weights = {n: m.const(f"w{n}", np.ones((n, 5), half), stored=True) for n in (3, 7)}
    for kind in ("cond", "while_loop"):
        main = m.block
        operation = main.operations.add(type=kind)
        for n in (3, 7):
            m.block = operation.blocks.add()
            m.op("linear", f"{kind}{n}", (1, n), x="x", weight=weights[n])
        m.block = main
    m.op("relu", "y", (1, 5), x="x")
    m.output("y")
    function = inspect(m.save(tmp_path / "m.mlpackage")).functions["main"]
    assert function.macs == 7 * 5 + (3 + 7) * 5
    assert function.costs is not None
    assert function.costs.weights == 2 * (3 + 7) * 5


_IDS = {"input_ids": torch.arange(8)[None]}
_IMAGE = {"pixel_values": torch.zeros(1, 3, 32, 32)}
TOKENS = {"sequence_length": 8}
COUNTED = {
    "gpt2": ("text-generation", _IDS, TOKENS),
    "llama": ("text-generation", _IDS, TOKENS),
    "bert": ("feature-extraction", _IDS, TOKENS | {"attention_mask": False}),
    "t5": ("text-encoding", _IDS, TOKENS | {"attention_mask": False}),
    "resnet": ("image-classification", _IMAGE, {"image_size": 32, "postprocess": False}),
    "mobilenet_v2": ("image-classification", _IMAGE, {"image_size": 32, "postprocess": False}),  # depthwise
    "vit": ("image-classification", _IMAGE, {"postprocess": False}),
}


@pytest.mark.parametrize("model_type", COUNTED)
def test_multiply_accumulates_are_those_that_torch_counts(model_type: str, folder: Path) -> None:
    """Exactly half of its FLOPs: transformers' eager model multiplies the whole square of attention, as ours does."""
    task, inputs, options = COUNTED[model_type]
    package = built(folder, f"counted-{model_type}", model_type, task, **options)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        reference(checkpoint(model_type, task), task)(**inputs)
    # Without the angles of rotary positions, which torch 2.6 counts as a product; they are constants in a package.
    found = counter.get_flop_counts()
    angles = sum(sum(each.values()) for module, each in found.items() if module.endswith("rotary_emb"))
    assert (flops := counter.get_total_flops() - angles) > 0
    assert inspect(package).functions["main"].macs == flops / 2


def test_figures_of_a_package_that_others_traced(traced: Path) -> None:
    function = inspect(traced).functions["main"]
    assert function.costs is not None
    assert function.costs.macs == {"conv": 2 * 16 * 8 * 8 * 4 * 9, "linear": 2 * 64 * 32 + 2 * 32 * 16}
    elements = 16 * 4 * 9 + 16 + 32 * 64 + 32 + 16 * 32 + 16
    assert function.costs.weights == function.weights == 2 * elements
    assert function.tokens is None
    assert not function.decodes


# Bytes


def test_bytes_of_a_decoder_by_hand(stateful: Path) -> None:
    """GPT-2 with 3 layers, 4 heads of 6, positions 29, a context of 16; the head is the table of the words."""
    found = inspect(stateful)
    model = reference(checkpoint())
    elements = sum(parameter.numel() for parameter in model.parameters())
    cache = 3 * 4 * 16 * 6
    for name, tokens in (("main", 1), ("prefill", 8)):
        function = found.functions[name]
        assert function.costs is not None
        # The positions of the slots are int32; of the table of positions a row is read for each token.
        assert function.costs.weights == 2 * (elements - 29 * 24 + tokens * 24) + 4 * 16
        assert function.costs.states_read == 2 * 2 * cache
        assert function.costs.states_written == 2 * 2 * 3 * 4 * tokens * 6
        assert function.costs.inputs == 4 * tokens + 4
        assert function.costs.outputs == 2 * tokens * 61
        assert function.costs.bytes == sum(
            (function.costs.weights, 4 * cache, 4 * 3 * 4 * tokens * 6, 4 * tokens + 4, 2 * tokens * 61)
        )
        assert (function.tokens, function.decodes) == (tokens, tokens == 1)


def test_a_table_that_is_only_looked_up_counts_rows(tmp_path: Path) -> None:
    table = np.ones((1000, 64), half)

    def moved(name: str, rows: int, *more: Callable[[Assembled], Any]) -> int:
        m = Assembled()
        m.const("table", table, stored=True)
        m.op("gather", "y", (rows, 64), x="table", indices=m.input("i", (rows,), I), axis=np.int32(0))
        for each in more:
            each(m)
        m.output("y")
        costs = inspect(m.save(tmp_path / f"{name}.mlpackage")).functions["main"].costs
        assert costs is not None
        return costs.weights

    assert moved("one", 1) == 2 * 64
    assert moved("seven", 7) == 2 * 64 * 7
    assert moved("more than there are", 5000) == 2 * 64 * 1000
    assert moved("twice", 3, lambda m: m.op("slice_by_index", "z", (5, 64), x="table")) == 2 * 64 * 8
    assert moved("as a head", 3, lambda m: m.op("linear", "z", (1, 1000), x="y", weight="table")) == 2 * 64 * 1000
    assert moved("as indices of it", 3, lambda m: m.op("mul", "z", (1000, 64), x="table", y="y")) == 2 * 64 * 1000


def test_a_state_that_is_not_updated_in_part_is_written_whole(tmp_path: Path) -> None:
    m = Assembled()
    m.input("x", (1, 64)), m.state("kept", (1, 64)), m.state("only written", (3, 64))
    m.op("add", "y", (1, 64), x="x", y=m.read("r", "kept", (1, 64)))
    m.write("w", "kept", "y")
    m.op("tile", "z", (3, 64), x="x")
    m.write("v", "only written", "z")
    m.output("y")
    costs = inspect(m.save(tmp_path / "m.mlpackage")).functions["main"].costs
    assert costs is not None
    assert (costs.states_read, costs.states_written) == (2 * 64, 2 * 64 + 2 * 3 * 64)


def test_what_functions_share_counts_once(stateful: Path) -> None:
    found = inspect(stateful)
    data = (stateful / WEIGHTS).stat().st_size
    total = sum(group.bytes for group in found.weight_groups)
    assert found.functions["main"].weights > 0.9 * total
    assert found.functions["prefill"].weights > 0.9 * total
    # Alignment and the heads of blobs apart, the file is what the functions read.
    assert 0 < data - total < 128 * (2 + sum(group.number for group in found.weight_groups))
    assert found.functions["main"].weights_only < 0.01 * total
    assert [group.type for group in found.weight_groups] == ["float16", "int32"]
    assert {group.compression for group in found.weight_groups} == {"none"}


COMPRESSIONS = {
    "int8 per channel": ("iOS16", [squeezed.Quantizer(weight_threshold=64)], "int8, per channel", 1),
    "int8 per tensor": (
        "iOS16",
        [squeezed.Quantizer(granularity="per_tensor", weight_threshold=64)],
        "int8, per tensor",
        1,
    ),
    "int4 in blocks": (
        "iOS18",
        [squeezed.Quantizer(dtype="int4", granularity="per_block", block_size=4, weight_threshold=64)],
        "int4, per block of 4",
        0.9,  # with two bytes of scale for each four elements, but for the convolution, whose channels are a block
    ),
    "palettes of 4 bits": (
        "iOS16",
        [squeezed.Palettizer(mode="uniform", nbits=4, weight_threshold=64)],
        "palettized, 4 bits",
        0.5,
    ),
    "palettes of 3 bits": (
        "iOS18",
        [squeezed.Palettizer(mode="uniform", nbits=3, weight_threshold=64)],
        "palettized, 3 bits",
        3 / 8,
    ),
    "palettes for groups": (
        "iOS18",
        [
            squeezed.Palettizer(
                mode="uniform", nbits=4, granularity="per_grouped_channel", group_size=8, weight_threshold=64
            )
        ],
        "palettized, 4 bits, 2 palettes",
        0.5,
    ),
    "sparse": ("iOS16", [squeezed.Magnitude(target_sparsity=0.75, weight_threshold=64)], "sparse", 0.25 * 2 + 1 / 8),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", COMPRESSIONS)
def test_compressed_weights_count_as_they_are_stored(name: str, tmp_path: Path) -> None:
    target, steps, called, each = COMPRESSIONS[name]
    model = squeezed.converted(squeezed.FP16, getattr(squeezed.ct.target, target))
    path = tmp_path / "m.mlpackage"
    squeezed.compressed(model, *steps).save(str(path))
    found = inspect(path)
    function = found.functions["main"]
    groups = {group.compression: group for group in found.weight_groups}
    elements = {"conv": 16 * 4 * 9, "first": 32 * 64, "second": 16 * 32}
    # Of groups and blocks there may be another number in each of the three.
    mine = [group for word, group in groups.items() if word.startswith(called.split(",")[0])]
    assert called in groups
    assert sum(group.elements for group in mine) == sum(elements.values())
    stored = sum(group.bytes for group in mine)
    assert each * sum(elements.values()) <= stored < each * sum(elements.values()) * 1.35 + 200
    assert groups["none"].elements == 16 + 32 + 16  # biases
    assert function.costs is not None
    assert function.costs.weights == sum(group.bytes for group in found.weight_groups)
    assert function.macs == 2 * 16 * 8 * 8 * 4 * 9 + 2 * 64 * 32 + 2 * 32 * 16
    assert function.costs.weights < found.weights


@pytest.mark.filterwarnings("ignore")
def test_jointly_compressed_weights_say_both(tmp_path: Path) -> None:
    model = squeezed.converted(squeezed.FP16, squeezed.ct.target.iOS18)
    steps = (squeezed.Magnitude(target_sparsity=0.5, weight_threshold=64), squeezed.Quantizer(weight_threshold=64))
    path = tmp_path / "m.mlpackage"
    squeezed.compressed(model, *steps).save(str(path))
    assert "int8, per channel + sparse" in {group.compression for group in inspect(path).weight_groups}


def test_weights_of_few_bits_are_not_unpacked(tmp_path: Path) -> None:
    m = Assembled()
    m.const("q", np.ones((6, 32), ml_dtypes.int4), stored=True)
    m.const("s", np.ones((6, 1), half))
    m.op("constexpr_blockwise_shift_scale", "w", (6, 32), data="q", scale="s")
    m.op("linear", "y", (1, 6), x=m.input("x", (1, 32)), weight="w")
    m.output("y")
    found = inspect(m.save(tmp_path / "m.mlpackage"))
    assert [(g.type, g.compression, g.elements, g.bytes) for g in found.weight_groups] == [
        ("float16", "int4, per channel", 6 * 32, 6 * 32 // 2 + 2 * 6)
    ]


# Flexible shapes


def test_a_flexible_function_costs_what_a_fixed_one_does(folder: Path) -> None:
    ranged = built(folder, "ranged", "gpt2", sequence_length=(1, 16))
    for tokens in (1, 8, 16):
        fixed = inspect(built(folder, f"fixed{tokens}", "gpt2", sequence_length=tokens)).functions["main"]
        found = inspect(ranged, {"input_ids": (1, tokens)}).functions["main"]
        assert found.macs == fixed.macs
        assert found.tokens == tokens
        assert found.shapes == {"input_ids": (1, tokens)}
        assert found.costs is not None
        assert fixed.costs is not None
        assert (found.costs.inputs, found.costs.outputs) == (fixed.costs.inputs, fixed.costs.outputs)
        assert abs(found.costs.weights - fixed.costs.weights) <= 4 * 29 * 29  # a mask that is worked out or stored
    assert inspect(ranged).functions["main"].shapes == {"input_ids": (1, 1)}  # the description's
    assert not fixed.shapes


def test_flexible_images_and_compressed_ones(tmp_path: Path) -> None:
    """Playing needs no weights: compressed ones are not decoded."""
    m = Assembled()
    m.input("x", (1, 32, None, None), F, ranged=[(1, 1), (32, 32), (4, 64), (4, 64)], default=(1, 32, 8, 6))
    m.const("q", np.ones((200, 32, 1, 1), ml_dtypes.int4))
    m.op(
        "constexpr_blockwise_shift_scale", "w", (200, 32, 1, 1), F, data="q", scale=np.ones((200, 1, 1, 1), np.float32)
    )
    m.op("conv", "y", (1, 200, None, None), F, x="x", weight="w", strides=np.array([1, 1]), pad_type=Word("valid"),
         pad=np.array([0, 0, 0, 0]), dilations=np.array([1, 1]), groups=np.int32(1))  # fmt: skip
    m.output("y", dtype=F)
    path = m.save(tmp_path / "m.mlpackage")
    assert inspect(path).functions["main"].macs == 8 * 6 * 200 * 32
    assert inspect(path, {"x": (1, 32, 5, 7)}).functions["main"].macs == 5 * 7 * 200 * 32


def test_without_torch_a_flexible_function_says_so(folder: Path, command: CommandLine) -> None:
    ranged = built(folder, "ranged", "gpt2", sequence_length=(1, 16))
    result = command("inspect", ranged, hide=("torch",))
    assert result.code == 0
    assert re.search(r"^million multiply-accumulates +unknown$", result.out, re.MULTILINE)
    assert "main: flexible shapes: " in result.out
    assert "GB/s" not in result.out
    found = json.loads(command("inspect", ranged, "--json", hide=("torch",)).out)["functions"]["main"]
    assert found["multiply_accumulates"] is found["bytes_moved"] is found["bounds"] is None
    assert "PyTorch" in found["unknown"]
    refused = command("inspect", ranged, "--shape", "input_ids=1,4", hide=("torch",))
    assert (refused.code, refused.out) == (2, "")
    assert "pip install" in refused.err


def test_a_loop_of_unknown_rounds_is_not_played(tmp_path: Path) -> None:
    m = Assembled()
    m.input("x", (1, None), ranged=[(1, 1), (1, 8)])
    operation = m._begun_block().operations.add(type="while_loop")
    operation.blocks.add(), operation.blocks.add()
    m.op("relu", "y", (1, None), x="x")
    m.output("y")
    found = inspect(m.save(tmp_path / "m.mlpackage")).functions["main"]
    assert found.costs is None
    assert found.unknown


# What chips allow for


def test_the_bounds_are_bandwidth_over_bytes_and_peak_over_arithmetic(stateful: Path) -> None:
    found = inspect(stateful).as_dict()["functions"]
    for name in ("main", "prefill"):
        moved = found[name]["bytes_moved"]["total"]
        assert [row["chip"] for row in found[name]["bounds"]] == [row.chip for row in TABLE]
        for row in found[name]["bounds"]:
            assert row["calls_per_second"] == pytest.approx(
                [1e9 * row["low"] / moved, 1e9 * row["high"] / moved], rel=1e-4
            )
            assert ("tokens_per_second" in row) == (name == "main")
            arithmetic = row["tflops"] and 1e12 * row["tflops"] / (2 * found[name]["multiply_accumulates"])
            assert row["calls_per_second_by_arithmetic"] == (arithmetic and pytest.approx(arithmetic, rel=1e-4))
    main = next(r for r in found["main"]["bounds"] if (r["chip"], r["unit"]) == ("M1", GPU))
    assert (main["low"], main["high"]) == (47.8, 58.0)  # 70 and 85 % of 68.25


def test_every_bandwidth_has_a_source() -> None:
    assert len({(row.chip, row.unit) for row in TABLE}) == len(TABLE)
    for row in TABLE:
        assert row.source
        assert row.low <= row.high
        assert row.unit in (GPU, NEURAL_ENGINE)
        assert row.confidence == ("hearsay" if row.chip.startswith("A") else "medium")
        assert (row.tflops is None) == (row.tflops_source is None) == row.chip.startswith("A")


def test_the_report_says_that_it_is_a_bound(stateful: Path, command: CommandLine) -> None:
    result = command("inspect", stateful)
    assert (result.code, result.err) == (0, "")
    for words in ("an upper bound, not a measurement", "main tokens/s, memory", "prefill calls/s, memory", "arithmetic",
                  "A18", "hearsay", "states, read", "million multiply-accumulates", "those that functions share count once",
                  "function prefill"):  # fmt: skip
        assert words in result.out
    before, _, _ = result.out.partition("metadata")
    assert len(before.splitlines()) <= 60


def test_past_keys_of_all_layers_are_one_line(folder: Path, command: CommandLine) -> None:
    package = built(folder, "io", "gpt2", cache="io", context_length=16)
    result = command("inspect", package)
    assert "past_key_values_*_key" in result.out
    assert ", 3 times" in result.out
    assert "past_key_values_1_key" not in result.out
    found = inspect(package)
    assert found.functions["main"].decodes  # the past comes in
    assert "past_key_values_1_key" in found.functions["main"].inputs


def test_a_model_stands_for_its_package(stateful: Path) -> None:
    assert milbuild.inspect(milbuild.Model(stateful)).functions == milbuild.inspect(stateful).functions


# Differences


def _changed(found: Comparison) -> set[tuple[str, str, str]]:
    return {(change.where, change.what, change.name) for change in found.changes}


def test_a_package_does_not_differ_from_itself(stateful: Path, folder: Path, command: CommandLine) -> None:
    again = folder / "again.mlpackage"
    if not again.exists():
        milbuild.build(checkpoint("gpt2"), cache="state", prefill_length=8, context_length=16).save(again)
    found = compare(stateful, again)
    assert found.same
    assert found.weight_file
    result = command("inspect", stateful, again)
    assert (result.code, result.err) == (0, "")
    assert result.out == "stateful.mlpackage and again.mlpackage: no differences; weight.bin is the same\n"
    answer = json.loads(command("inspect", stateful, again, "--json").out)
    assert answer == {
        "same": True,
        "packages": ["stateful.mlpackage", "again.mlpackage"],
        "weight_file_same": True,
        "changes": [],
    }


def test_one_bit_of_a_weight_is_found_by_its_name(stateful: Path, tmp_path: Path, command: CommandLine) -> None:
    other = tmp_path / "other.mlpackage"
    shutil.copytree(stateful, other)
    graphs = Graphs(Package(other))
    op, constant = next(
        pair for pair in graphs.by_name["main"].constants if pair[0].name == "transformer_h_1_mlp_c_fc_weight"
    )
    data = bytearray((other / WEIGHTS).read_bytes())
    at = bytes(data).index(constant.stored().tobytes()) + 100
    data[at] ^= 1
    (other / WEIGHTS).write_bytes(data)
    found = compare(stateful, other)
    assert not found.weight_file
    assert _changed(found) == {("", "weights", op.name)}
    assert "different values" in found.changes[0].after
    result = command("inspect", stateful, other)
    assert result.code == 0
    assert "1 difference; weight.bin is different" in result.out
    assert json.loads(command("inspect", stateful, other, "--json").out)["same"] is False


def test_what_differs_is_listed_by_kind(stateful: Path, folder: Path) -> None:
    other = built(folder, "float32", "gpt2", cache="state", context_length=16, precision="float32", logits="last")
    changed = _changed(compare(stateful, other))
    assert ("", "functions", "prefill") in changed
    assert ("", "metadata", "milbuild.options: logits") in changed
    assert ("", "metadata", "milbuild.options: cache") not in changed
    assert ("", "bytes", "weight.bin") in changed
    assert ("main", "outputs", "logits") in changed
    assert ("main", "operations", "cast") in changed
    assert ("main", "costs of a call", "bytes moved") in changed
    assert ("", "weights", "transformer_ln_f_bias") in changed
    assert not any(what == "states" or name == "input_ids" for _, what, name in changed)
    io_changed = _changed(compare(stateful, built(folder, "io", "gpt2", cache="io", context_length=16)))
    assert {("main", "states", "key_cache"), ("main", "inputs", "attention_mask")} <= io_changed


def _twice(tmp_path: Path, *makes: Callable[[Assembled], None]) -> Comparison:
    paths = []
    for number, make in enumerate(makes):
        m = Assembled()
        m.input("x", (1, 64))
        make(m)
        m.output("y")
        paths.append(m.save(tmp_path / f"{number}.mlpackage"))
    return compare(*paths)


def test_a_parameter_a_name_and_the_order_are_seen(tmp_path: Path) -> None:
    """What no count tells."""

    def norm(epsilon: float) -> Callable[[Assembled], None]:
        return lambda m: m.op("layer_norm", "y", (1, 64), x="x", axes=np.array([1]), epsilon=half(epsilon))

    found = _twice(tmp_path / "a", norm(1e-3), norm(1e-2))
    assert [(change.where, change.what) for change in found.changes] == [("main", "program")]
    assert "y (layer_norm)" in str(found.changes[0].before)
    assert _twice(tmp_path / "b", norm(1e-3), norm(1e-3)).same

    def two(*names: str) -> Callable[[Assembled], None]:
        return lambda m: [m.op("relu", name, (1, 64), x="x") for name in (*names, "y")]  # type: ignore[return-value]

    assert "order" in _twice(tmp_path / "c", two("p", "q"), two("q", "p")).changes[0].name
    assert "names" in _twice(tmp_path / "d", two("p", "q"), two("p", "z")).changes[0].name


def test_weights_that_stand_elsewhere_in_the_file_are_no_difference(tmp_path: Path) -> None:
    values = {"v": np.arange(64, dtype=half), "w": np.ones(64, half)}

    def stored(*names: str) -> Callable[[Assembled], None]:
        def make(m: Assembled) -> None:
            # Written in one order, declared in another.
            places = {}
            for name in names:
                places[name] = -(-len(m.weights) // 64) * 64
                m._stored(values[name], True)
            for name in ("v", "w"):
                m.const(name, values[name], stored=places[name])
            m.op("mul", "z", (1, 64), x="x", y="v")
            m.op("add", "y", (1, 64), x="z", y="w")

        return make

    found = _twice(tmp_path, stored("v", "w"), stored("w", "v"))
    assert found.same
    assert not found.weight_file


# What is refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere.mlpackage",), "there is no package nowhere.mlpackage"),
        (("s.mlpackage", "nowhere.mlpackage"), "there is no package nowhere.mlpackage"),
        (("s.mlpackage", "rubbish.mlpackage"), "has no manifest"),
        (("s.mlpackage", "s.mlpackage", "--graph", "g.svg"), "--graph is for one package"),
        (("s.mlpackage", "s.mlpackage", "--shape", "x=1"), "--shape is for one package"),
        (("s.mlpackage", "--graph", "g.doc"), "a graph cannot be written as g.doc; the formats are"),
        (("s.mlpackage", "--graph", "nowhere/g.svg"), "there is no folder nowhere"),
        (("s.mlpackage", "--graph", "s.mlpackage"), "a graph cannot be written as s.mlpackage"),
        (("s.mlpackage", "--shape", "x=1,64"), "has no input x; it has input_ids, position"),
        (("s.mlpackage", "--shape", "input_ids"), "--shape is 'input_ids'"),
        (("s.mlpackage", "--shape", "input_ids=1,2"), "has the shape (1, 2)"),
    ],
)
def test_what_is_refused(
    arguments: tuple[str, ...], words: str, stateful: Path, command: CommandLine, tmp_path: Path
) -> None:
    shutil.copytree(stateful, tmp_path / "s.mlpackage")
    (tmp_path / "rubbish.mlpackage").mkdir()
    result = command("inspect", *arguments, cwd=tmp_path)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: ")
    assert words in result.err
    assert not list(tmp_path.glob("g.*"))


# Pictures


def _overlaps(page: Page) -> list[tuple[str, str]]:
    """Texts that meet as matplotlib draws them, and those that leave the page."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = _figure(page)
    figure.set_dpi(144)
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [(text.get_window_extent(renderer), text.get_text()) for text in figure.axes[0].texts if text.get_text()]
    found = [
        (one, two)
        for (a, one), (b, two) in itertools.combinations(boxes, 2)
        if a.x0 < b.x1 and b.x0 < a.x1 and a.y0 + 1 < b.y1 and b.y0 + 1 < a.y1
    ]
    width, height = 2 * page.width, 2 * page.height
    return found + [(text, "") for box, text in boxes if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height]


DRAWINGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "stateful": ("gpt2", "text-generation", {"cache": "state", "prefill_length": 8, "context_length": 16}),
    "io": ("gpt2", "text-generation", {"cache": "io", "context_length": 16}),
    "llama": ("llama", "text-generation", {"sequence_length": 8}),
    "bert": ("bert", "feature-extraction", {"sequence_length": 8}),
    "resnet": ("resnet", "image-classification", {"image_size": 32, "postprocess": False}),
    "segformer": ("segformer", "semantic-segmentation", {"image_size": 64, "postprocess": False}),
    "t5": ("t5", "text2text-generation", {"cache": "state", "sequence_length": 8}),
    "whisper": ("whisper", "speech-seq2seq", {"cache": "io", "postprocess": False}),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_no_text_is_cut_or_meets_another(name: str, folder: Path) -> None:
    model_type, task, options = DRAWINGS[name]
    page = layout(built(folder, name, model_type, task, **options))
    assert not _overlaps(page)
    assert len(page.texts) < 700
    words = {text.text for text in page.texts}
    assert any("operations each" in word for word in words)


def test_texts_that_meet_would_be_seen(stateful: Path) -> None:
    page = layout(stateful)
    text = page.texts[0]
    page.texts.append(type(text)(text.x + 1, text.y + 1, "X", text.size))
    assert any("X" in pair for pair in _overlaps(page))


def test_layers_are_folded_and_one_is_drawn(stateful: Path) -> None:
    page = layout(stateful)
    words = [text.text for text in page.texts]
    assert "transformer_h_0 … 2" in words
    assert any(re.fullmatch(r"3 times, \d+ (to \d+ )?operations each", word) for word in words)
    assert {"attn", "mlp", "attention", "c_fc", "key_cache", "input_ids", "logits", "lm_head"} <= set(words)
    assert "prefill: the same layers at other sizes" in words
    # The residual goes from the head of the layer to its first sum, and from there to the second.
    violet, red = "#8a62a8", "#c2553f"
    assert sum(color == red and arrow for _, color, arrow in page.lines) == 2
    assert sum(color == violet and arrow for _, color, arrow in page.lines) == 2


def test_an_encoder_and_a_decoder_stand_side_by_side(folder: Path) -> None:
    page = layout(built(folder, "t5", *DRAWINGS["t5"][:2], **DRAWINGS["t5"][2]))
    titles = [text for text in page.texts if text.text.startswith("function ")]
    assert {text.text for text in titles} == {"function encode", "function decode"}
    assert titles[0].y == titles[1].y
    assert titles[0].x != titles[1].x


def _graph(m: Assembled, path: Path) -> Ledger:
    return Ledger(Graphs(Package(m.save(path))).graphs[0])


def test_repetition_is_found_without_names(tmp_path: Path) -> None:
    """Names as tracing leaves them: a number for each operation. The stem ends as a layer does, the head begins as one."""
    m = Assembled()
    m.op("relu", "op_0", (1, 32), x=m.input("x", (1, 32)))
    m.op("tanh", "op_00", (1, 32), x="x")
    x = m.op("add", "op_1", (1, 32), x="op_0", y="op_00")
    number = itertools.count(2)
    for layer in range(5):
        weight = m.const(f"const_{layer}", np.full((32, 32), layer, half), stored=True)
        y = m.op("layer_norm", f"op_{next(number)}_cast_fp16", (1, 32), x=x, axes=np.array([1]))
        y = m.op("linear", f"linear_{layer}_cast_fp16", (1, 32), x=y, weight=weight)
        y = m.op("gelu", f"op_{next(number)}", (1, 32), x=y, mode=Word("EXACT"))
        x = m.op("add", f"input_{next(number)}", (1, 32), x=x, y=y)
    m.op("layer_norm", "y", (1, 32), x=x, axes=np.array([1]))
    m.output("y")
    found = outline(_graph(m, tmp_path / "m.mlpackage"))
    fold = next(child for child in found if isinstance(child, Group))
    assert fold.times == 5
    # It begins where one value goes in, at the norm: not at the sum, where two do.
    assert [op.type for op in fold.operations] == ["layer_norm", "linear", "gelu", "add"]
    assert len(found) == 5


@pytest.mark.parametrize("width", [1, 400])
def test_never_a_hairball(width: int, tmp_path: Path) -> None:
    """900 operations without any order: all of other shapes, or all alike."""
    m = Assembled()
    x = m.input("x", (1, 1, 1))
    random = np.random.default_rng(0)
    for number in range(900):
        kind = ("linear", "softmax", "layer_norm", "reshape")[random.integers(4)]
        shape = (1, 1 + int(random.integers(width)), 1 + int(random.integers(width)))
        x = m.op(kind, f"op_{number}", shape, x=x, **({"weight": x} if kind == "linear" else {}))
    m.output(x)
    path = m.save(tmp_path / "m.mlpackage")
    rows = outline(Ledger(Graphs(Package(path)).graphs[0]))
    assert 1 <= count(rows) <= 1.5 * LIMIT
    assert not _overlaps(layout(path))


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_plots_are_written(kind: str, stateful: Path, command: CommandLine, tmp_path: Path) -> None:
    result = command("inspect", stateful, "--graph", f"g.{kind}", "--json", cwd=tmp_path)
    assert (result.code, result.err) == (0, f"Wrote g.{kind}\n")
    assert json.loads(result.out)["name"] == "stateful.mlpackage"
    data = (tmp_path / f"g.{kind}").read_bytes()
    if kind == "png":
        page = layout(stateful)
        image = Image.open(io.BytesIO(data)).convert("L")
        assert abs(image.width - 2 * page.width) <= 2
        assert abs(image.height - 2 * page.height) <= 2
        assert np.asarray(image).min() < 60 < 200 < np.asarray(image).max()
    elif kind == "svg":
        text = data.decode()
        for words in ("transformer_h_0 … 2", "scaled_dot_product_attention", "key_cache", "function main"):
            assert f"<!-- {words} -->" in text
    else:
        assert data.startswith(b"%PDF")
    draw(stateful, tmp_path / f"again.{kind}")
    assert (tmp_path / f"again.{kind}").read_bytes() == data


def test_a_name_that_matplotlib_would_take_for_mathematics(tmp_path: Path) -> None:
    m = Assembled()
    m.op("relu", "y$_{1}$", (1, 64), x=m.input("a$b$", (1, 64)))
    m.output("y$_{1}$")
    draw(m.save(tmp_path / "m$1$.mlpackage"), tmp_path / "g.svg")
    assert "<!-- a$b$ -->" in (tmp_path / "g.svg").read_text()


def test_packages_of_others_are_drawn(traced: Path, tmp_path: Path) -> None:
    page = layout(traced)
    assert not _overlaps(page)
    assert {"conv", "linear", "gelu"} <= {text.text for text in page.texts}
    draw(traced, tmp_path / "g.png")
    with Image.open(tmp_path / "g.png") as image:
        assert image.width > 500


def test_without_matplotlib_it_says_what_to_install(
    stateful: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(milbuild.Error, match="a graph needs matplotlib"):
        draw(stateful, tmp_path / "g.png")
