"""What a repository says beside config.json and its main weights: generation, the class it was saved from, and what it is
when it is no checkpoint at all."""

import inspect
import json
import re
import shutil
from pathlib import Path
from typing import Any

import coremltools as ct
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import milbuild
from milbuild import architectures
from milbuild.program.plan import Plan
from milbuild.weights import Checkpoint
from milbuild.weights.generation_config import FIELDS as HONOURED
from milbuild.weights.generation_config import LENGTHS, kept
from tests.conftest import checkpoint
from tests.helpers.command_line import CommandLine
from tests.tiny import TABLE


def _copy(tmp_path: Path, model_type: str, task: str, **changes: Any) -> Path:
    folder = shutil.copytree(checkpoint(model_type, task), tmp_path / "c")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


# What transformers' generate takes from config.json

# Fields of a generation configuration that are objects, or bookkeeping of its own.
OBJECTS = {"watermarking_config", "compile_config", "continuous_batching_config", "transformers_version"}
FIELDS = {name for name in transformers.GenerationConfig().to_dict() if name[0] != "_"} - OBJECTS | {
    "forced_decoder_ids"
}
TRIED = (7, True, 0.5, "never", [7, 8], [[1, 5], [2, 6]], "static")


def _theirs(folder: Path, **file: Any) -> Any:
    """What transformers makes of it; None for a value that it does not take."""
    try:
        return transformers.GenerationConfig.from_pretrained(folder, **file)
    except (ValueError, TypeError, AttributeError):
        return None


@pytest.mark.parametrize("model_type", ["whisper", "bart", "gpt2"])
def test_fields_of_generation_come_from_config_json_as_transformers_takes_them(model_type: str, tmp_path: Path) -> None:
    """Each that a GenerationConfig has, alone: without a generation_config.json, and with one that is silent."""
    task = {"whisper": "speech-seq2seq", "bart": "text2text-generation", "gpt2": "text-generation"}[model_type]
    folder = _copy(tmp_path, model_type, task)
    before = json.loads((folder / "config.json").read_text())
    file, compared = folder / "generation_config.json", set()
    source = {"config_file_name": "config.json", "_from_model_config": True}
    for name in sorted(FIELDS):
        for value in TRIED:
            (folder / "config.json").write_text(json.dumps(before | {name: value}))
            file.unlink(missing_ok=True)
            theirs = _theirs(folder, **source)
            if name != "forced_decoder_ids" and getattr(theirs, name, None) != value:
                continue
            found = Checkpoint.open(folder).generation
            assert found.get(name) == value
            if name in (*HONOURED, *LENGTHS):
                assert json.loads(kept(found))[name] == value
            file.write_text("{}")
            # generation_whisper.py looks into config.json for this one; nothing else does for any.
            falls_back = name == "forced_decoder_ids" and model_type == "whisper"
            wanted = value if falls_back else getattr(_theirs(folder), name, None)
            assert Checkpoint.open(folder).generation.get(name) == wanted
            compared.add(name)
            break
    assert compared == FIELDS
    for name in {*HONOURED} - FIELDS:
        (folder / "config.json").write_text(json.dumps(before | {name: 7}))
        file.unlink(missing_ok=True)
        assert not hasattr(_theirs(folder, **source), name)
        assert name not in Checkpoint.open(folder).generation


def test_no_other_field_of_config_json_is_read_where_whisper_generates() -> None:
    """transformers' source: which fields its generate takes of the model's configuration itself."""

    from transformers.generation import utils
    from transformers.models.whisper import generation_whisper

    found = set(
        re.findall(r"\bconfig\.(\w+)", re.sub(r"generation_config\.\w+|\w+_config\.\w+", "", inspect.getsource(utils)))
    )
    found |= set(re.findall(r"(?:self\.|[^_\w])config\.(\w+)", inspect.getsource(generation_whisper)))
    found |= set(re.findall(r'getattr\(config, "(\w+)"', inspect.getsource(generation_whisper)))
    generating = found & set(transformers.GenerationConfig().to_dict()) | {name for name in found if "forced" in name}
    assert generating == {"forced_decoder_ids", "return_dict_in_generate"}  # the latter: the form of the answer


# The class that a checkpoint was saved from


@pytest.mark.parametrize("model_type", architectures.SUPPORTED)
def test_a_base_class_is_followed(model_type: str, tmp_path: Path) -> None:
    """Saved from its base class, a checkpoint gives features, whatever else its type is built for by default."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    saved = json.loads((checkpoint(model_type, "feature-extraction") / "config.json").read_text())["architectures"]
    assert saved == [MODEL_MAPPING_NAMES[model_type]]
    row = TABLE[model_type]
    built = milbuild.build(checkpoint(model_type, "feature-extraction"), lint=False, **row.options)
    assert Plan.of("p", built.user_defined_metadata).task == "feature-extraction"


def test_the_encoder_of_two_halves_is_followed() -> None:
    built = milbuild.build(checkpoint("t5", "text-encoding"), lint=False, sequence_length=7)
    assert Plan.of("p", built.user_defined_metadata).task == "text-encoding"


def test_built_names_the_task(command: CommandLine, tmp_path: Path) -> None:
    result = command("build", checkpoint("vit", "feature-extraction"), tmp_path / "p.mlpackage", "--raw")
    assert f"Built {tmp_path / 'p.mlpackage'} for feature-extraction in " in result.err


@pytest.mark.parametrize(
    ("model_type", "architecture", "task"),
    [("hubert", "HubertForSpeechClassification", "feature-extraction"), ("llama", "LlamaForReward", "text-generation")],
)
def test_a_head_of_an_unknown_class_is_refused_without_a_task(
    model_type: str, architecture: str, task: str, tmp_path: Path
) -> None:
    folder = _copy(tmp_path, model_type, task, architectures=[architecture])
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"classifier.dense.weight": torch.ones(3, 3)}, folder / "model.safetensors")
    if model_type == "llama":
        save_file(tensors | {"score.weight": torch.ones(1, 24)}, folder / "model.safetensors")
    options = {"sequence_length": 431} if model_type == "hubert" else {"sequence_length": 7}
    with pytest.raises(milbuild.Error, match=f"{architecture}.*(classifier.dense|score).weight") as error:
        milbuild.build(folder, **options)
    assert error.value.hint is not None
    assert "--task" in error.value.hint
    assert all(each in error.value.hint for each in architectures.SUPPORTED[model_type].tasks)
    milbuild.build(folder, task=task, lint=False, **options)
    save_file(tensors, folder / "model.safetensors")
    milbuild.build(folder, lint=False, **options)  # nothing is left out


# What is no checkpoint


def _adapter(folder: Path) -> None:
    said = {"base_model_name_or_path": "some/base", "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(said))
    save_file({"base_model.model.a.lora_A.weight": torch.zeros(2, 2)}, folder / "adapter_model.safetensors")


def _adapter_alone(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "config.json").unlink()
    _adapter(folder)


def _pointer(name: str) -> Any:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1\nsize 12345\n"
    return lambda folder: (folder / name).write_text(text)


def _renamed(name: str) -> Any:
    return lambda folder: (folder / "model.safetensors").rename(folder / name)


def _said(**fields: Any) -> Any:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return change


def _core_ml(folder: Path) -> None:
    """The whole folder is something else; see the test."""


NO_CHECKPOINTS: dict[str, tuple[Any, str, str, str]] = {
    "an adapter alone": (_adapter_alone, "", r"c holds an adapter \(LORA\) of some/base", "merge_and_unload"),
    "an adapter beside its model": (_adapter, "", r"an adapter \(LORA\)", "c/model.safetensors"),
    "an adapter's file": (_adapter, "adapter_model.safetensors", r"an adapter \(LORA\)", "merge_and_unload"),
    "MLX": (_said(quantization={"bits": 4, "group_size": 64}), "", r"c is quantized \(MLX, 4 bits\)", "made from"),
    "quantized": (_said(quantization_config={"quant_method": "awq"}), "", r"c is quantized \(awq\)", "made from"),
    "shards without an index": (_renamed("model-00001-of-00002.safetensors"), "", "1 of 2 shards", "index.json"),
    "languages alone": (_renamed("adapter.fra.safetensors"), "", "only adapters of wav2vec 2.0: fra", "model.safetensors"),
    "a language": (_renamed("adapter.fra.safetensors"), "adapter.fra.safetensors", r"one language \(fra\)", "load_adapter"),
    "a pointer for weights": (_pointer("model.safetensors"), "", "model.safetensors is a pointer of Git LFS", "git lfs pull"),
    "a pointer for a configuration": (_pointer("config.json"), "", "config.json is a pointer of Git LFS", "git lfs pull"),
    "a pickle": (_renamed("pytorch_model.bin"), "", "as a pickle", "transformers.AlbertForMaskedLM.from_pretrained"),
    "a pickle by name": (_renamed("m.bin"), "m.bin", "m.bin is a pickle", "transformers.AlbertForMaskedLM.from_pretrained"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_CHECKPOINTS)
def test_what_is_no_checkpoint_is_refused_by_what_it_is(name: str, tmp_path: Path) -> None:
    change, inside, words, hint = NO_CHECKPOINTS[name]
    folder = _copy(tmp_path, "albert", "fill-mask")
    change(folder)
    with pytest.raises(milbuild.Error, match=words) as error:
        milbuild.build(folder / inside)
    assert error.value.hint is not None
    assert hint in error.value.hint


def test_the_class_of_a_pickle_hint_reads_it(tmp_path: Path) -> None:
    """The hint, followed, on an ALBERT."""
    folder = _copy(tmp_path, "albert", "fill-mask")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(milbuild.Error) as error:
        milbuild.build(folder)
    assert error.value.hint is not None
    code = error.value.hint.split("Convert it once: ")[1]
    new = tmp_path / "new"
    eval(code, {"transformers": transformers, "folder": folder, "new_folder": new})
    milbuild.build(new, sequence_length=7)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Core ML models that are no packages of an ML Program."""
    from coremltools.models import datatypes
    from coremltools.models.neural_network import NeuralNetworkBuilder
    from coremltools.models.pipeline import Pipeline

    folder = tmp_path_factory.mktemp("others")
    array = datatypes.Array(2)
    builder = NeuralNetworkBuilder([("x", array)], [("y", array)])
    builder.add_activation("relu", "RELU", "x", "y")
    ct.models.utils.save_spec(builder.spec, str(folder / "network.mlmodel"))
    pipeline = Pipeline([("x", array)], [("y", array)])
    pipeline.spec.specificationVersion = 9
    part = pipeline.spec.pipeline.models.add()
    part.CopyFrom(milbuild.build(checkpoint("gpt2"), lint=False)._spec)
    milbuild.build(checkpoint("gpt2"), lint=False).save(folder / "pipeline.mlpackage")
    (model,) = folder.glob("pipeline.mlpackage/Data/*/model.mlmodel")
    shutil.copytree(folder / "pipeline.mlpackage", folder / "pointer.mlpackage")
    shutil.copytree(folder / "pipeline.mlpackage", folder / "weights.mlpackage")
    model.write_bytes(pipeline.spec.SerializeToString())
    _pointer(str(next(folder.glob("pointer.mlpackage/Data/*/model.mlmodel")).relative_to(folder)))(folder)
    _pointer(str(next(folder.glob("weights.mlpackage/Data/*/weights/weight.bin")).relative_to(folder)))(folder)
    (folder / "compiled.mlmodelc").mkdir()
    return folder


OTHERS = {
    "network.mlmodel": "is a .mlmodel",
    "compiled.mlmodelc": "is compiled",
    "pipeline.mlpackage": r"is a pipeline of 1 models \(mlProgram\), not an ML Program",
    "pointer.mlpackage": "model.mlmodel is a pointer of Git LFS",
    "weights.mlpackage": "weight.bin is a pointer of Git LFS",
}
COMMANDS = ("inspect", "lint", "profile", "validate", "generate")


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("verb", COMMANDS)
def test_every_command_says_what_a_package_is(verb: str, name: str, others: Path, command: CommandLine) -> None:
    if name == "weights.mlpackage" and verb not in ("lint", "profile"):
        return  # which read no weights, or transformers' model before them
    rest = {"validate": [checkpoint("gpt2")], "generate": ["--prompt", "a", "--tokenizer", checkpoint("gpt2")]}
    result = command(verb, others / name, *rest.get(verb, []))
    assert result.code == 2

    assert re.search(OTHERS[name], result.err), result.err
    assert "convert_to='mlprogram'" not in result.err or name != "pipeline.mlpackage"


@pytest.mark.parametrize("name", ["network.mlmodel", "compiled.mlmodelc", "pipeline.mlpackage"])
def test_a_core_ml_model_is_no_source(name: str, others: Path) -> None:
    with pytest.raises(milbuild.Error, match=f"{name} is a Core ML model, not a checkpoint"):
        milbuild.build(others / name)
