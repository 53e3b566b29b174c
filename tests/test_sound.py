"""Speech encoders against transformers: every flag, task, kind of length, mask and precision, every module's output."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import milbuild
from milbuild import architectures, runtime
from milbuild.validation import reference as hf
from tests.conftest import checkpoint, difference, psnr, reference
from tests.test_parity import compare, operations
from tests.tiny import SOUNDS

FLAGS = [(name, flag) for name, tiny in SOUNDS.items() for flag in tiny.flags]
TASK_PAIRS = [(name, task) for name in SOUNDS for task in architectures.SUPPORTED[name].tasks]


def sound(*shape: int, seed: int = 0) -> np.ndarray:
    """Noise of unit variance, which is what a processor makes of any sound."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def padded(seed: int = 0) -> dict[str, np.ndarray]:
    """Three sounds, two of them shorter, with zeros behind them."""
    mask = np.ones((3, 431), np.int32)
    mask[1, 300:] = mask[2, 209:] = 0
    return {"input_values": sound(3, 431, seed=seed) * np.float32(mask), "attention_mask": mask}


@pytest.mark.parametrize(("model_type", "flag"), FLAGS)
@pytest.mark.parametrize("masked", [False, True])
def test_flags_in_both_precisions(model_type: str, flag: str, masked: bool) -> None:
    folder = checkpoint(model_type, "ctc", **SOUNDS[model_type].flags[flag])
    inputs = padded() if masked else {"input_values": sound(3, 431)}
    options = {"sequence_length": 431, "batch_size": 3, "attention_mask": masked, "postprocess": False}
    for precision in ("float32", "float16"):
        model = milbuild.build(folder, precision=precision, **options)
        error, noise = compare(model, folder, "ctc", inputs)["logits"]
        assert error <= 1e-5 if precision == "float32" else noise >= 55


@pytest.mark.parametrize(("model_type", "task"), TASK_PAIRS)
@pytest.mark.parametrize("flags", [{}, {"use_weighted_layer_sum": True}, {"do_stable_layer_norm": True}], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_tasks_in_both_precisions(model_type: str, task: str, flags: dict[str, Any], masked: bool) -> None:
    folder = checkpoint(model_type, task, **flags)
    # A classifier gives few numbers in a call: the noise of some more makes a figure.
    calls = [padded(seed) if masked else {"input_values": sound(3, 431, seed=seed)} for seed in range(4)]
    options = {"sequence_length": 431, "batch_size": 3, "attention_mask": masked, "postprocess": False}
    for precision in ("float32", "float16"):
        model = milbuild.build(folder, task=task, precision=precision, **options)
        for name, (error, noise) in compare(model, folder, task, *calls).items():
            assert error <= 1e-5 if precision == "float32" else noise >= 55, name
