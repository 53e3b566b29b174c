"""Layers of different kinds: those that are refused, how many windows a decoder has, and ropes of one kind each."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import milbuild
from milbuild.validation import reference as hf
from tests.conftest import checkpoint, difference, tokens

KINDS = ("qwen2", "qwen3", "smollm3", "gemma3_text")  # whose classes have layer_types


def saying(folder: Path, target: Path, **written: Any) -> Path:
    """A copy of a checkpoint whose config.json says something else."""
    shutil.copytree(folder, target)
    config = json.loads((folder / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | written))
    return target


@pytest.mark.parametrize("cache", ["none", "state"])
@pytest.mark.parametrize("model_type", KINDS)
def test_kinds_of_layers_that_no_graph_has_are_refused(model_type: str, cache: str, tmp_path: Path) -> None:
    plain = checkpoint(model_type)
    layers = json.loads((plain / "config.json").read_text())["num_hidden_layers"]
    kinds = [*["full_attention"] * (layers - 1), "chunked_attention"]
    folder = saying(plain, tmp_path / "c", layer_types=kinds)
    with pytest.raises(milbuild.Error, match=r"layer_types of config\.json has chunked_attention"):
        milbuild.build(folder, cache=cache)


@pytest.mark.parametrize(("window", "said"), [(None, "sliding_window says no number"), (0, "sliding_window is 0")])
@pytest.mark.parametrize("model_type", KINDS)
def test_layers_with_a_window_of_nothing_are_refused(
    model_type: str, window: int | None, said: str, tmp_path: Path
) -> None:
    plain = checkpoint(model_type)
    layers = json.loads((plain / "config.json").read_text())["num_hidden_layers"]
    written = {"layer_types": ["sliding_attention"] * layers, "sliding_window": window, "use_sliding_window": True}
    with pytest.raises(milbuild.Error, match=said):
        milbuild.build(saying(plain, tmp_path / "c", **written), sequence_length=7)


@pytest.mark.parametrize("cache", ["io", "state"])
@pytest.mark.parametrize(("model_type", "task"), [("bart", "text2text-generation"), ("whisper", "speech-seq2seq")])
def test_a_decoder_of_more_layers_than_its_encoder_has_a_cache_for_each(
    model_type: str, task: str, cache: str, tmp_path: Path
) -> None:
    folder = checkpoint(model_type, task, encoder_layers=1, decoder_layers=3)
    model = milbuild.build(folder, task=task, cache=cache, precision="float32", postprocess=False, context_length=9)
    report = milbuild.validate(model, folder)
    assert report.passed, str(report)


def test_truncate_counts_where_transformers_looks_for_it() -> None:
    """transformers reads yarn's `truncate` beside the dictionaries of kinds of layers, not in them."""
    yarn = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 512}
    sliding = {"rope_type": "default", "rope_theta": 100.0}
    inputs, expected = {"input_ids": tokens(1, 27)}, {}
    for place in ("inside", "beside", "nowhere"):
        ropes: dict[str, Any] = {"sliding_attention": sliding}
        ropes["full_attention"] = yarn | ({"truncate": False} if place == "inside" else {})
        ropes |= {"truncate": False} if place == "beside" else {}
        folder = checkpoint("gemma3_text", "feature-extraction", rope_parameters=ropes)
        assert json.loads((folder / "config.json").read_text())["rope_parameters"] == ropes
        model = milbuild.build(folder, task="feature-extraction", sequence_length=27, precision="float32")
        expected[place] = hf.forward(hf.load(folder, "feature-extraction"), inputs)["last_hidden_state"]
        assert difference(model.predict(inputs)["last_hidden_state"], expected[place]) <= 1e-5
    assert difference(expected["inside"], expected["nowhere"]) == 0
    assert difference(expected["beside"], expected["nowhere"]) > 1e-3
