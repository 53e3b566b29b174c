"""What users may change about a package's inputs and outputs, and what its outputs are made to say."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import transformers
from coremltools.converters.mil.mil import Function

import milbuild
from milbuild import Output
from milbuild.architectures.family import Family
from milbuild.generation.session import Session
from milbuild.program import outputs as outputs_
from milbuild.program.inputs import Inputs
from milbuild.program.options import complete
from milbuild.program.plan import Plan
from milbuild.validation import reference as hf
from milbuild.weights import Checkpoint
from milbuild.weights.fields import Config
from tests.conftest import checkpoint, difference, inputs_of, reference, tokens


def test_names_and_descriptions() -> None:
    model = milbuild.build(
        checkpoint("bert", "feature-extraction"),
        task="feature-extraction",
        sequence_length=11,
        precision="float32",
        inputs={"input_ids": "tokens", "attention_mask": "seen"},
        outputs={"last_hidden_state": Output("states", "What it knows."), "pooler_output": None},
    )
    assert [feature.name for feature in model.interface.input] == ["tokens", "seen"]
    assert [(f.name, f.shortDescription) for f in model.interface.output] == [("states", "What it knows.")]
    states = model.predict({"tokens": tokens(1, 11)})["states"]
    truth = reference(checkpoint("bert", "feature-extraction"), "feature-extraction")
    assert difference(states, hf.forward(truth, {"input_ids": tokens(1, 11)})["last_hidden_state"]) <= 1e-5


@pytest.mark.parametrize(
    "options",
    [{"cache": "state", "prefill_length": 4}, {"cache": "io"}, {"cache": "io", "context_length": (1, 29)}, {}],
    ids=str,
)
def test_renamed_packages_generate_and_validate(options: dict[str, Any]) -> None:
    inputs = {"input_ids": "tokens"} | ({"past_key_values_0_key": "k0"} if options.get("cache") == "io" else {})
    folder = checkpoint()
    model = milbuild.build(folder, inputs=inputs, outputs={"logits": "scores"}, precision="float32", **options)
    ids = tokens(9)
    expected = hf.forward(reference(folder), {"input_ids": ids[None]})["logits"][0]
    options.setdefault("cache", "none")
    scores = Session(model).feed(ids.tolist())
    assert difference(scores, expected) <= (2e-3 if options["cache"] == "state" else 1e-5)
    assert milbuild.validate(model, folder).passed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"inputs": {"ids": "tokens"}}, "there is no input ids to rename; there are input_ids"),
        ({"inputs": {"input_ids": "two words"}}, "inputs is {'input_ids': 'two words'}"),
        ({"inputs": "tokens"}, "inputs is 'tokens'"),
        ({"outputs": {"scores": "logits"}}, "there is no output scores to change; there are logits"),
        ({"outputs": {"logits": None}}, "outputs leaves nothing"),
        ({"outputs": {"logits": "input_ids"}}, "gives the name input_ids"),
        ({"outputs": {"logits": 3}}, "outputs has 3 for logits"),
        ({"outputs": ["logits"]}, "outputs is ['logits']"),
        ({"cache": "state", "inputs": {"key_cache": "k"}}, "there is no input key_cache"),
        ({"attention_mask": True, "inputs": {"input_ids": "attention_mask"}}, "two of them one name"),
    ],
    ids=str,
)
def test_changes_that_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(milbuild.Error) as error:
        milbuild.build(checkpoint(), **options)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("text-classification", ["classLabel", "probabilities"]),
        ("token-classification", ["token_scores"]),
        ("question-answering", ["start_scores", "end_scores"]),
        ("fill-mask", ["token_scores"]),
        ("multiple-choice", ["probabilities"]),
        ("next-sentence-prediction", ["probabilities"]),
    ],
)
def test_what_pipelines_make_of_scores(task: str, names: list[str]) -> None:
    folder = checkpoint("bert", task)
    model = milbuild.build(folder, task=task, sequence_length=11, precision="float32")
    inputs = inputs_of("bert", task, 1, 11)
    given = {feature.name for feature in model.interface.input}
    outputs = model.predict({name: value for name, value in inputs.items() if name in given})
    assert list(outputs) == names
    truth = reference(folder, task)
    scores = list(hf.forward(truth, {name: value for name, value in inputs.items() if name in given}).values())
    for value, score in zip([outputs[name] for name in names if name != "classLabel"], scores, strict=True):
        shares = np.exp(score - score.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        found = np.array([list(value.values())]) if isinstance(value, dict) else value
        assert difference(found.astype(np.float32), shares.astype(np.float32)) <= 1e-5
    if task == "text-classification":
        assert list(outputs["probabilities"]) == [f"LABEL_{i}" for i in range(7)]
        assert outputs["classLabel"] == f"LABEL_{scores[0].argmax()}"


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("model_type", ["bert", "bart"])
def test_no_answer_is_in_the_padding(model_type: str, precision: str) -> None:
    folder = checkpoint(model_type, "question-answering")
    model = milbuild.build(
        folder, task="question-answering", sequence_length=11, precision=precision, token_type_ids=False
    )
    ids, mask = tokens(1, 11), np.ones((1, 11), np.int32)
    ids[:, 7:], mask[:, 7:] = 5, 0
    truth = hf.forward(reference(folder, "question-answering"), {"input_ids": ids, "attention_mask": mask})
    outputs = model.predict({"input_ids": ids, "attention_mask": mask})
    for end in ("start", "end"):
        shares = np.exp(truth[f"{end}_logits"][:, :7])
        found = outputs[f"{end}_scores"]
        if precision == "float32":
            assert difference(found[:, :7], shares / shares.sum()) <= 1e-5
        assert found.sum() == pytest.approx(1, abs=1e-3)
        assert not found[:, 7:].any()


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression", "single_label_classification"])
def test_the_problem_type_chooses_the_function(problem: str) -> None:
    folder = checkpoint("bert", "text-classification", problem_type=problem)
    model = milbuild.build(folder, sequence_length=11, batch_size=3, precision="float32", token_type_ids=False)
    outputs = model.predict({"input_ids": tokens(3, 11)})
    scores = hf.forward(reference(folder, "text-classification"), {"input_ids": tokens(3, 11)})["logits"]
    if problem == "regression":
        assert difference(outputs["logits"], scores) <= 1e-5
    elif problem.startswith("multi"):
        assert difference(outputs["probabilities"], 1 / (1 + np.exp(-scores))) <= 1e-5
    else:
        assert np.allclose(outputs["probabilities"].sum(-1), 1, atol=1e-6)


def test_labels_that_stand_there_twice(tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("bert", "text-classification", num_labels=4), tmp_path / "c")
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {str(i): label for i, label in enumerate(["cat", "dog", "cat", "cat"])}
    (folder / "config.json").write_text(json.dumps(config))
    model = milbuild.build(folder, sequence_length=11, precision="float32")
    assert list(model.predict({"input_ids": tokens(1, 11)})["probabilities"]) == ["cat", "dog", "cat 2", "cat 3"]


# id2label as hands and scripts write it; the numbers are those of four scores.
NAMED: dict[str, dict[str, Any]] = {
    "in another order": {"3": "d", "1": "b", "0": "a", "2": "c"},
    "numbers": {"0": 10, "1": 11, "2": 12, "3": 13},
    "emoji, lines and quotes": {"0": "\N{GRINNING FACE}", "1": "two\nlines", "2": '\\ "quoted"', "3": "\u00e9\t"},
    "an empty one": {"0": "", "1": " ", "2": "c", "3": "d"},
}
NOT_NAMED: dict[str, dict[str, Any]] = {
    "a gap": {"0": "a", "1": "b", "3": "d", "4": "e"},
    "from one": {"1": "a", "2": "b", "3": "c", "4": "d"},
    "below zero": {"-1": "z", "0": "a", "1": "b", "2": "c"},
}


def _labelled(folder: Path, task: str, named: dict[str, Any]) -> Path:
    model_type = "segformer" if task == "semantic-segmentation" else "bert"
    folder = shutil.copytree(checkpoint(model_type, task, num_labels=4), folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("label2id", None)
    (folder / "config.json").write_text(json.dumps(config | {"id2label": named}))
    return folder


@pytest.mark.parametrize("name", NAMED)
def test_the_label_is_that_of_transformers_pipeline(name: str, tmp_path: Path) -> None:
    folder = _labelled(tmp_path / "c", "text-classification", NAMED[name])
    model = milbuild.build(folder, sequence_length=11, precision="float32")
    outputs = model.predict({"input_ids": tokens(1, 11)})
    truth = reference(folder, "text-classification")
    scores = hf.forward(truth, {"input_ids": tokens(1, 11)})["logits"][0]
    expected = [str(truth.config.id2label[number]) for number in np.argsort(-scores)]
    assert outputs["classLabel"] == expected[0]
    chances = outputs["probabilities"]
    assert sorted(chances, key=lambda label: -chances[label]) == expected


@pytest.mark.parametrize("task", ["text-classification", "token-classification", "semantic-segmentation"])
@pytest.mark.parametrize("name", NOT_NAMED)
def test_a_score_without_a_label_is_refused(name: str, task: str, tmp_path: Path) -> None:
    """transformers' pipeline ends in a KeyError where it is the best one."""
    folder = _labelled(tmp_path / "c", task, NOT_NAMED[name])
    size = {"image_size": 64, "postprocess": False} if task == "semantic-segmentation" else {"sequence_length": 11}
    with pytest.raises(milbuild.Error, match=r"id2label in config\.json has 4 labels and none for"):
        milbuild.build(folder, **size)


def test_no_number_makes_a_label_of_another(tmp_path: Path) -> None:
    named = ["a", "a", "a 2", "a", "b", "a 4"]
    config = SimpleNamespace(num_labels=len(named), id2label=dict(enumerate(named)))
    found = outputs_.labels(config)
    assert len(set(found)) == len(named)
    assert [found[number] for number in (0, 2, 4, 5)] == ["a", "a 2", "b", "a 4"]


def test_scores_without_softmax() -> None:
    folder = checkpoint("bert", "token-classification")
    model = milbuild.build(
        folder, sequence_length=11, precision="float32", outputs={"logits": Output("scores", softmax=False)}
    )
    scores = model.predict({"input_ids": tokens(1, 11)})["scores"]
    expected = hf.forward(reference(folder, "token-classification"), {"input_ids": tokens(1, 11)})["logits"]
    assert difference(scores, expected) <= 1e-5


def test_a_model_of_two_kinds_of_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text and an image: each is declared by its name, and a call has the tokens of the text, wherever it is in the
    signature."""

    class Both(Family):
        def hidden_states(self, pixel_values: Any, input_ids: Any) -> None: ...

    checkpoint_ = Checkpoint.open(checkpoint("gpt2"))
    monkeypatch.setattr(checkpoint_, "processor", {"do_rescale": True, "rescale_factor": 1 / 255})
    metadata = milbuild.build(checkpoint("gpt2"), sequence_length=(1, 7), attention_mask=True).user_defined_metadata
    plan = dataclasses.replace(Plan.of("package", metadata), image_size=(6, 4))
    declared = Inputs(plan, SimpleNamespace(num_channels=3, vocab_size=61), Both, checkpoint_, "main")
    described = {feature.name: feature.shape for feature in declared.features}
    assert described == {"image": (1, 3, 6, 4), "input_ids": (1, (1, 7)), "attention_mask": (1, (1, 7))}
    with Function(declared.placeholders, opset_version=ct.target.iOS18) as function:
        inputs = dict(function.inputs)
        given = declared.given(inputs)
        assert {name: value.name for name, value in given.items()} == {
            "pixel_values": "pixel_values",
            "input_ids": "input_ids",
        }
        kept = declared.cache(inputs, given)
    assert kept.attention_mask is inputs["attention_mask"]
    assert kept.query_positions.shape == inputs["input_ids"].shape[1:]


class _Both(Family):
    prefix = "transformer"

    def hidden_states(self, pixel_values: Any, input_ids: Any) -> None: ...


def test_the_plan_of_a_model_of_two_kinds_has_the_options_of_both() -> None:
    config, processor = Config(transformers.GPT2Config(n_positions=29)), {"size": {"height": 6, "width": 4}}
    plan = Plan.make(config, _Both, processor, **_asked())
    assert (plan.sequence_length, plan.image_size) == (29, (6, 4))
    plan = Plan.make(config, _Both, processor, **_asked(sequence_length=7, image_size=(8, 10)))
    assert (plan.sequence_length, plan.image_size) == (7, (8, 10))
    with pytest.raises(milbuild.Error, match="gpt2 takes image and text: it has no option token_type_ids"):
        Plan.make(config, _Both, processor, **_asked(token_type_ids=True))
    with pytest.raises(milbuild.Error, match="sequence_length goes to 30"):
        Plan.make(config, _Both, processor, **_asked(sequence_length=30))


def _asked(**given: Any) -> dict[str, Any]:
    """Options of a plan, by their defaults but for these."""
    elsewhere = ("lint", "compute_units", "revision")
    return {
        name: value for name, value in complete({"task": "feature-extraction"} | given).items() if name not in elsewhere
    }
