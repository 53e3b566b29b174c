"""Tensors of files that no graph reads: every model type is built of a file that has those that files of the hub have."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import milbuild
from milbuild import architectures
from tests.conftest import checkpoint
from tests.tiny import TABLE


@pytest.mark.parametrize("model_type", architectures.SUPPORTED)
def test_every_pattern_has_an_example(model_type: str) -> None:
    names = {name for names in TABLE[model_type].in_files.values() for name in names}
    for pattern in architectures.find(model_type).ignored_weights:
        assert any(re.fullmatch(pattern, name) for name in names), pattern


@pytest.mark.parametrize("model_type", [model_type for model_type, row in TABLE.items() if row.in_files])
@pytest.mark.parametrize("prefixed", [False, True])
def test_what_files_have_besides_is_ignored(
    model_type: str, prefixed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((task, names),) = TABLE[model_type].in_files.items()
    family = architectures.find(model_type)
    keys = [f"{family.prefix}.{name}" if prefixed else name for name in names]
    shutil.copytree(checkpoint(model_type, task), tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    tables = [key for key in tensors if key.removeprefix(f"{family.prefix}.") == "shared.weight"]
    for key in tables:  # of an encoder and a decoder, which may have tables of their own
        shared = tensors.pop(key)
        for half in ("encoder", "decoder"):
            tensors[key.replace("shared", f"{half}.embed_tokens")] = shared
    save_file(tensors | {key: np.zeros(3, np.float32) for key in keys}, tmp_path / "model.safetensors")
    options = {"task": task} | TABLE[model_type].options
    milbuild.build(tmp_path, **options)
    monkeypatch.setattr(family, "ignored_weights", ())
    with pytest.raises(milbuild.Error, match="tensors that its architecture does not use") as error:
        milbuild.build(tmp_path, **options)
    assert set(keys) <= set(error.value.message.split(": ", 1)[1].split(", "))
