"""One vector of a text: repositories of sentence-transformers, saved by itself, beside what it makes of the same tokens."""

import functools
import json
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import milbuild
from milbuild.program.metadata import SENTENCE_KEY
from milbuild.program.options import POOLINGS
from milbuild.program.plan import PROMPT, Plan
from milbuild.validation import reference as hf
from milbuild.weights import sentence_transformers as layout
from tests.conftest import checkpoint, difference, inputs_of, psnr, reference, tokens
from tests.helpers.command_line import CommandLine

sentence_transformers = pytest.importorskip("sentence_transformers", reason="the test needs sentence-transformers")
st = pytest.importorskip("sentence_transformers.sentence_transformer.modules")

WIDTH, COUNT = 24, 11
EVERY = ["lasttoken", "mean", "cls", "max", "weightedmean", "mean_sqrt_len_tokens"]
OLD = {"base.modules.transformer": "models", "base.modules.dense": "models", "base.modules.normalize": "models"}


@functools.cache
def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(57))]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=None, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=19,
    )  # fmt: skip


def _saved(
    folder: Path, model_type: str, *behind: Any, task: str = "feature-extraction", flags: Any = None, **named: Any
) -> Any:
    """The model of the table with modules behind it, saved in `folder` by sentence-transformers."""
    source = shutil.copytree(checkpoint(model_type, task, **(flags or {})), folder.with_name("source"))
    _tokenizer().save_pretrained(source)
    torch.manual_seed(1)
    first = st.Transformer(str(source), model_kwargs={"attn_implementation": "eager"})
    model = sentence_transformers.SentenceTransformer(modules=[first, *behind], device="cpu", **named).eval()
    with torch.no_grad():
        for module in behind:
            for parameter in module.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save(str(folder), create_model_card=False)
    return model


def _vector(model: Any, inputs: dict[str, np.ndarray], prompt: int = 0) -> np.ndarray:
    """What sentence-transformers makes of tokens."""
    features: dict[str, Any] = {name: torch.from_numpy(value).long() for name, value in inputs.items()}
    features.setdefault("attention_mask", torch.ones_like(features["input_ids"]))
    with torch.no_grad():
        return np.asarray(model(features | {"prompt_length": prompt})["sentence_embedding"])


def _padded(model_type: str) -> dict[str, np.ndarray]:
    """Three texts, one padded on the right, one on the left."""
    return {
        k: v for k, v in inputs_of(model_type, "feature-extraction", 3, COUNT, padded=True).items() if "type" not in k
    }


def _old(folder: Path) -> None:
    """The layout of 2019 to 2024: other class paths, flags for modes, the limit of a text beside them."""
    file = folder / "modules.json"
    modules = json.loads(file.read_text())
    for module in modules:
        module["type"] = f"sentence_transformers.models.{module['type'].rsplit('.', 1)[-1]}"
        if module["type"].endswith("Normalize"):
            (folder / module["path"] / "config.json").unlink()
    file.write_text(json.dumps(modules))
    said = json.loads((folder / "1_Pooling" / "config.json").read_text())
    modes = [said["pooling_mode"]] if isinstance(said["pooling_mode"], str) else said["pooling_mode"]
    flags = {flag: layout.MODES and mode in [layout.MODES[m] for m in modes] for flag, mode in layout.FLAGS.items()}
    flags |= {"word_embedding_dimension": said["embedding_dimension"], "include_prompt": said["include_prompt"]}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(flags))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 17, "do_lower_case": True}))


@pytest.mark.parametrize("old", [False, True], ids=["6.x", "old"])
@pytest.mark.parametrize("prompt", [True, False], ids=["whole", "without its prompt"])
@pytest.mark.parametrize(
    "model_type",
    ["bert", "qwen3", *(pytest.param(name, marks=pytest.mark.all) for name in ("gpt2", "distilbert", "xlm-roberta"))],
)
def test_every_pooling(model_type: str, prompt: bool, old: bool, tmp_path: Path) -> None:
    """All modes in one package, in the repository's order, or of old ones in that of the flags."""
    folder = tmp_path / "repository"
    model = _saved(folder, model_type, st.Pooling(WIDTH, EVERY, include_prompt=prompt))
    if old:
        _old(folder)
        model = sentence_transformers.SentenceTransformer(
            str(folder), device="cpu", model_kwargs={"attn_implementation": "eager"}
        )
    built = milbuild.build(folder, sequence_length=COUNT, batch_size=3, precision="float32")
    inputs = _padded(model_type)
    for length in (0, 2, 3):
        given = {} if prompt else {PROMPT: np.array([length], np.int32)}
        found = built.predict(inputs | given)["sentence_embedding"]
        wanted = _vector(model, inputs, length)
        for i in range(0, wanted.shape[1], WIDTH):
            assert difference(found[:, i : i + WIDTH], wanted[:, i : i + WIDTH]) <= 1e-5
    plan = Plan.of("p", built.user_defined_metadata)
    in_order = list(layout.FLAGS.values()) if old else [layout.MODES[mode] for mode in EVERY]
    assert (plan.task, plan.pooling, plan.include_prompt) == ("feature-extraction", ",".join(in_order), prompt)


@pytest.mark.parametrize("length", [COUNT, (1, 15), [COUNT, 15]], ids=str)
@pytest.mark.parametrize("mask", [True, False], ids=["mask", "no mask"])
@pytest.mark.parametrize("prompt", [True, False], ids=["whole", "without its prompt"])
def test_lengths_with_and_without_a_mask(length: Any, mask: bool, prompt: bool, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    model = _saved(folder, "llama", st.Pooling(WIDTH, EVERY, include_prompt=prompt), st.Normalize())
    options = {"sequence_length": length, "batch_size": 3, "precision": "float32", "attention_mask": mask}
    built = milbuild.build(folder, **options)
    inputs = _padded("llama")
    inputs = inputs if mask else {"input_ids": inputs["input_ids"]}
    given = {} if prompt else {PROMPT: np.array([3], np.int32)}
    assert difference(built.predict(inputs | given)["sentence_embedding"], _vector(model, inputs, 3)) <= 1e-5


ACTIVATIONS = {name: getattr(torch.nn, name) for name in layout.ACTIVATIONS}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_of_a_dense(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    dense = st.Dense(WIDTH, 10, activation_function=ACTIVATIONS[name]())
    model = _saved(folder, "bert", st.Pooling(WIDTH, "mean"), dense)
    inputs = {"input_ids": tokens(1, COUNT)}
    built = milbuild.build(folder, sequence_length=COUNT, precision="float32")
    assert difference(built.predict(inputs)["sentence_embedding"], _vector(model, inputs)) <= 1e-5


BEHIND: dict[str, Sequence[Any]] = {
    "two Dense as EmbeddingGemma": (
        lambda: st.Dense(WIDTH, 40, bias=False, activation_function=torch.nn.Identity()),
        lambda: st.Dense(40, 10, bias=False, activation_function=torch.nn.Identity()),
        st.Normalize,
    ),
    "residuals": (lambda: st.Dense(WIDTH, WIDTH, use_residual=True), lambda: st.Dense(WIDTH, 10, use_residual=True)),
    "a norm between": (st.Normalize, lambda: st.Dense(WIDTH, 10), lambda: st.LayerNorm(10)),
    "all": (lambda: st.LayerNorm(WIDTH), lambda: st.Dense(WIDTH, 10), st.Normalize, lambda: st.Dropout(0.1)),
}


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_modules_behind_a_pooling(behind: str, precision: str, tmp_path: Path) -> None:
    """In their order, each with its own weights; the package is judged by validate, too."""
    folder = tmp_path / "repository"
    model = _saved(folder, "mistral", st.Pooling(WIDTH, "lasttoken"), *(make() for make in BEHIND[behind]))
    built = milbuild.build(folder, sequence_length=COUNT, batch_size=3, precision=precision)
    inputs = _padded("mistral")
    found, wanted = built.predict(inputs)["sentence_embedding"], _vector(model, inputs)
    if precision == "float32":
        assert difference(found, wanted) <= 1e-5
    else:
        assert psnr(found, wanted) >= 55
    built.save(tmp_path / "p.mlpackage")
    assert milbuild.validate(tmp_path / "p.mlpackage", folder).passed


def test_a_whole_text_with_a_prompt(tmp_path: Path) -> None:
    """As its users call both: the words through the tokenizer, the prompt by its name."""
    folder = tmp_path / "repository"
    pooling = st.Pooling(WIDTH, ["cls", "mean"], include_prompt=False)
    model = _saved(folder, "bert", pooling, st.Dense(2 * WIDTH, 10), prompts={"query": "w1 w2 w3 "})
    built = milbuild.build(folder, sequence_length=14, precision="float32")
    said = json.loads(built.user_defined_metadata[SENTENCE_KEY])
    assert said == {
        "max_seq_length": 19, "prompts": {"document": "", "query": "w1 w2 w3 "}, "similarity_fn_name": "cosine",
    }  # fmt: skip
    text = said["prompts"]["query"] + "w9 w8 w30 w12"
    # The prompt's tokens with the one in front of a text, without the one behind it.
    count = len(_tokenizer()(said["prompts"]["query"])["input_ids"]) - 1
    fed = _tokenizer()(text, padding="max_length", max_length=14, return_tensors="np")
    inputs = {name: fed[name].astype(np.int32) for name in ("input_ids", "attention_mask")}
    found = built.predict(inputs | {PROMPT: np.array([count], np.int32)})["sentence_embedding"]
    assert difference(found[0], model.encode("w9 w8 w30 w12", prompt_name="query")) <= 1e-5
    assert difference(found[0], model.encode(text)) > 1e-2  # whose prompt counts


def test_a_text_of_nothing_shown_is_as_there(tmp_path: Path) -> None:
    """A prompt that is the whole text."""
    folder = tmp_path / "repository"
    model = _saved(
        folder, "bert", st.Pooling(WIDTH, ["cls", "mean", "lasttoken", "weightedmean"], include_prompt=False)
    )
    built = milbuild.build(folder, sequence_length=COUNT, precision="float32")
    inputs = {"input_ids": tokens(1, COUNT), "attention_mask": np.ones((1, COUNT), np.int32)}
    found = built.predict(inputs | {PROMPT: np.array([COUNT], np.int32)})["sentence_embedding"]
    assert difference(found, _vector(model, inputs, COUNT)) <= 1e-5


def test_padding_however_large_does_not_count(tmp_path: Path) -> None:
    """In float16, where max could see what stands in padding."""
    folder = tmp_path / "repository"
    model = _saved(folder, "bert", st.Pooling(WIDTH, EVERY))
    built = milbuild.build(folder, sequence_length=COUNT, batch_size=3)
    inputs = _padded("bert")
    assert psnr(built.predict(inputs)["sentence_embedding"], _vector(model, inputs)) >= 55


def test_the_encoder_of_two_halves(tmp_path: Path) -> None:
    """sentence-t5: sentence-transformers loads T5EncoderModel."""
    folder = tmp_path / "repository"
    model = _saved(folder, "t5", st.Pooling(WIDTH, "mean"), task="text-encoding")
    inputs = _padded("t5")
    for options in ({}, {"task": "feature-extraction"}):
        built = milbuild.build(folder, sequence_length=COUNT, batch_size=3, precision="float32", **options)
        assert Plan.of("p", built.user_defined_metadata).task == "text-encoding"
        assert difference(built.predict(inputs)["sentence_embedding"], _vector(model, inputs)) <= 1e-5


def test_the_vector_is_what_such_a_repository_is_for(tmp_path: Path) -> None:
    """Qwen3-Embedding names a ForCausalLM in config.json; with a cache or another task there is no vector."""
    folder = tmp_path / "repository"
    _saved(folder, "qwen3", st.Pooling(WIDTH, "lasttoken"), st.Normalize())
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["Qwen3ForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    outputs = {}
    for name, options in {
        "plain": {}, "states": {"pooling": "none"}, "cached": {"cache": "state", "task": "feature-extraction"},
    }.items():  # fmt: skip
        built = milbuild.build(folder, **({"sequence_length": 7} if name != "cached" else {}), **options)
        plan = Plan.of("p", built.user_defined_metadata)
        outputs[name] = (plan.task, [each.name for each in built.interface.output], plan.modules, plan.normalize)
    assert outputs == {
        "plain": ("feature-extraction", ["sentence_embedding"], (), True),
        "states": ("feature-extraction", ["last_hidden_state"], (), False),
        "cached": ("feature-extraction", ["last_hidden_state"], (), False),
    }


def test_a_cross_encoder_scores(tmp_path: Path) -> None:
    """Its modules.json has the model alone."""
    source = shutil.copytree(checkpoint("bert", "text-classification", num_labels=1), tmp_path / "source")
    _tokenizer().save_pretrained(source)
    sentence_transformers.CrossEncoder(str(source), device="cpu").save(str(tmp_path / "ce"))
    assert (tmp_path / "ce" / "modules.json").is_file()
    built = milbuild.build(tmp_path / "ce", sequence_length=7)
    assert Plan.of("p", built.user_defined_metadata).task == "text-classification"


# What contradicts modules.json, which has lasttoken and Normalize


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ({"pooling": "mean"}, ["pooling is mean, and modules.json says last"]),
        ({"pooling": "last"}, []),
        ({"pooling": "none"}, []),
        ({"normalize": False}, ["normalize is False, and modules.json has a Normalize at the end"]),
        ({"normalize": True, "pooling": "cls,last"}, ["pooling is cls,last, and modules.json says last"]),
    ],
)  # fmt: skip
def test_contradictions_are_warned_of(options: dict[str, Any], warned: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    _saved(folder, "qwen2", st.Pooling(WIDTH, "lasttoken"), st.Normalize())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", milbuild.BuildWarning)
        milbuild.build(folder, sequence_length=7, lint=False, **options)
    found = [str(each.message) for each in caught if issubclass(each.category, milbuild.BuildWarning)]
    assert len(found) == len(warned)
    assert all(text.startswith(start) for text, start in zip(found, warned, strict=True))


def test_the_command_line_says_what_it_builds(command: CommandLine, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    _saved(folder, "bert", st.Pooling(WIDTH, "cls"), st.Dense(WIDTH, 10), st.Normalize())
    result = command("build", folder, tmp_path / "a.mlpackage", "--sequence-length", "7", "--pooling", "mean")
    assert "warning: pooling is mean, and modules.json says cls" in result.err
    result = command("build", folder, tmp_path / "b.mlpackage", "--sequence-length", "7")
    assert "for feature-extraction (sentence_embedding by cls, then 2_Dense, then of length 1) in" in result.err
    assert "warning" not in result.err
    described = milbuild.Model(tmp_path / "b.mlpackage").interface.output[0].shortDescription
    assert described.endswith("Made by cls, then 2_Dense, then of length 1.")


# Refusals


def _edited(path: str, **changes: Any) -> Any:
    def change(folder: Path) -> None:
        file = folder / path
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def _module(i: int, **changes: Any) -> Any:
    def change(folder: Path) -> None:
        file = folder / "modules.json"
        modules = json.loads(file.read_text())
        modules[i] |= changes
        file.write_text(json.dumps(modules))

    return change


def _pickled(folder: Path) -> None:
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")


def _reordered(folder: Path) -> None:
    file = folder / "modules.json"
    modules = json.loads(file.read_text())
    file.write_text(json.dumps([modules[i] for i in (0, 2, 1)]))


REFUSALS: dict[str, tuple[Any, str]] = {
    "another's class": (_module(2, type="custom_st.Projection"), "names modules .* custom_st.Projection"),
    "a class of theirs": (_module(1, type="sentence_transformers.models.CNN"), "sentence_transformers.models.CNN"),
    "a static table": (_module(0, type="sentence_transformers.models.StaticEmbedding"), "StaticEmbedding"),
    "an order": (_reordered, "in an order"),
    "a pickle": (_pickled, r"2_Dense \(Dense\) has no model.safetensors but a pytorch_model.bin"),
    "a mode": (_edited("1_Pooling/config.json", pooling_mode="median"), "'median'; it must be one of cls"),
    "an activation": (_edited("2_Dense/config.json", activation_function="torch.nn.modules.activation.RReLU"), "RReLU"),
    "a foreign activation": (_edited("2_Dense/config.json", activation_function="mine.Tanh"), "'mine.Tanh'"),
    "another input": (_edited("2_Dense/config.json", module_input_name="token_embeddings"), "token_embeddings"),
    "other states": (
        _edited("sentence_bert_config.json", modality_config={"text": {"method": "forward", "method_output_name": "x"}}),
        "modality_config",
    ),
    "another configuration": (_edited("sentence_bert_config.json", config_kwargs={"hidden_act": "relu"}), "config_kwargs"),
    "a size": (_edited("2_Dense/config.json", out_features=11), r"2_Dense.linear.weight has the shape \(10, 24\)"),
    "no size": (_edited("2_Dense/config.json", out_features=None), "out_features: None"),
    "a bias too many": (_edited("2_Dense/config.json", bias=False), "2_Dense.linear.bias"),
    "out of the repository": (_module(1, path="../1_Pooling"), r"in '../1_Pooling'"),
    "no folder": (_module(2, path="9_Dense"), "'9_Dense', which has no config.json"),
    "no list": (lambda folder: (folder / "modules.json").write_text("{}"), "no list of modules"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_honoured_is_refused_by_name(name: str, tmp_path: Path) -> None:
    change, words = REFUSALS[name]
    folder = tmp_path / "repository"
    _saved(folder, "bert", st.Pooling(WIDTH, "mean"), st.Dense(WIDTH, 10))
    change(folder)
    with pytest.raises(milbuild.Error, match=words):
        milbuild.build(folder, sequence_length=7)
    if name != "no list" and name != "out of the repository":
        milbuild.build(folder, sequence_length=7, pooling="none", lint=False)


def test_poolings_are_those_of_sentence_transformers() -> None:
    assert set(layout.MODES) == set(st.Pooling.POOLING_MODES)
    assert set(layout.MODES.values()) == set(POOLINGS)
    from sentence_transformers.sentence_transformer.modules import pooling

    assert {flag: layout.MODES[mode] for flag, mode in pooling._LEGACY_POOLING_MODE_KWARGS.items()} == layout.FLAGS
    assert list(pooling._LEGACY_POOLING_MODE_KWARGS) == list(layout.FLAGS)


def test_a_sparse_encoder_is_refused_without_a_task(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    _saved(folder, "bert", st.Pooling(WIDTH, "mean"))
    modules = [
        {"path": "", "type": "sentence_transformers.sparse_encoder.modules.mlm_transformer.MLMTransformer"},
        {
            "path": "1_SpladePooling",
            "type": "sentence_transformers.sparse_encoder.modules.splade_pooling.SpladePooling",
        },
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(milbuild.Error, match=r"MLMTransformer.*SpladePooling"):
        milbuild.build(folder)


def test_an_old_repository_keeps_its_model_in_a_folder(tmp_path: Path) -> None:
    """0_Transformer, as the first releases saved it."""
    folder = tmp_path / "repository"
    model = _saved(folder, "distilbert", st.Pooling(WIDTH, "mean"), st.Dense(WIDTH, 10))
    (folder / "0_Transformer").mkdir()
    for file in [each for each in folder.iterdir() if each.is_file() and "modules" not in each.name]:
        file.rename(folder / "0_Transformer" / file.name)
    _module(0, path="0_Transformer")(folder)
    built = milbuild.build(folder, sequence_length=COUNT, batch_size=3, precision="float32")
    inputs = _padded("distilbert")
    assert difference(built.predict(inputs)["sentence_embedding"], _vector(model, inputs)) <= 1e-5
    built.save(tmp_path / "p.mlpackage")
    assert milbuild.validate(tmp_path / "p.mlpackage", folder).passed


def test_a_pooling_belongs_to_texts() -> None:
    for model_type, options in {"vit": {}, "wav2vec2": {"sequence_length": 431}}.items():
        with pytest.raises(milbuild.Error, match="pooling makes one vector of a whole text"):
            milbuild.build(checkpoint(model_type, "feature-extraction"), pooling="mean", **options)


# EmbeddingGemma

FLAGS = {"use_bidirectional_attention": True, "layer_types": ["sliding_attention", "full_attention"] * 2}


@pytest.mark.parametrize("window", [1, 6, *(pytest.param(n, marks=pytest.mark.all) for n in (2, 3, 7, 512))])
@pytest.mark.parametrize("causal", [None, False], ids=["", "is_causal false"])
def test_gemma_looks_both_ways(window: int, causal: bool | None, tmp_path: Path) -> None:
    """transformers halves the window of config.json, and with is_causal counts its ends."""
    task = "feature-extraction"
    folder = shutil.copytree(checkpoint("gemma3_text", task), tmp_path / "gemma")
    config = json.loads((folder / "config.json").read_text()) | FLAGS | {"sliding_window": window}
    count = config["num_hidden_layers"]
    config["layer_types"] = (FLAGS["layer_types"] * count)[:count]
    config |= {} if causal is None else {"is_causal": causal}
    (folder / "config.json").write_text(json.dumps(config))
    truth = reference(folder, task)
    inputs = _padded("gemma3_text")
    built = milbuild.build(folder, task=task, sequence_length=COUNT, batch_size=3, precision="float32")
    found = built.predict(inputs)["last_hidden_state"]
    wanted = hf.forward(truth, inputs)["last_hidden_state"]
    shown = inputs["attention_mask"] == 1
    assert difference(found[shown], wanted[shown]) <= 1e-5
    with pytest.raises(milbuild.Error, match=r"says (use_bidirectional_attention: true|is_causal: false)"):
        milbuild.build(folder, task="text-generation", cache="state")


def test_embedding_gemma(tmp_path: Path) -> None:
    """Mean, two Dense without activation, length 1, over attention to both sides."""
    folder = tmp_path / "repository"
    model = _saved(
        folder, "gemma3_text", st.Pooling(WIDTH, "mean"), *(make() for make in BEHIND["two Dense as EmbeddingGemma"]),
        flags={"use_bidirectional_attention": True, "sliding_window": 6},
        prompts={"query": "w1 w2 ", "document": "w3 "},
    )  # fmt: skip
    assert model[0].auto_model.config.use_bidirectional_attention
    for length in (COUNT, (1, 15)):
        built = milbuild.build(folder, sequence_length=length, batch_size=3, precision="float32")
        inputs = _padded("gemma3_text")
        assert difference(built.predict(inputs)["sentence_embedding"], _vector(model, inputs)) <= 1e-5
    half = milbuild.build(folder, sequence_length=COUNT, batch_size=3)
    assert psnr(half.predict(inputs)["sentence_embedding"], _vector(model, inputs)) >= 55
    built.save(tmp_path / "p.mlpackage")
    assert milbuild.validate(tmp_path / "p.mlpackage", folder).passed
