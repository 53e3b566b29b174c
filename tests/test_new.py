"""What `milbuild new` derives of a model type, held to the classes that are written, and the files that it writes."""

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from milbuild import Error, architectures
from milbuild.authoring import files, knowledge
from milbuild.weights.checkpoint import RENAMES, modern
from tests.helpers.command_line import CommandLine
from tests.test_spellings import names
from tests.tiny import AUDIO, TABLE, TEXT, VISION

ROOT = Path(__file__).parents[1]

# Modules of heads that have no parameters, and those that only training has.
HEADS = {
    ("distilbert", "fill-mask"): {"activation"},
    ("wav2vec2", "audio-xvector"): {"feature_extractor", "objective"},
}
# Of `unused_config`: what is not among the candidates, each with the reason.
NOT_FOUND = {
    "convnext": {"_out_features", "_out_indices"},  # lists of a backbone, for which no other value is known
    "gpt2": {"summary_type", "summary_activation"},  # words, of which only those of activations are known
    "hubert": {"ctc_loss_reduction"},  # words again
    "t5": {"feed_forward_proj"},  # words again
    "whisper": {"begin_suppress_tokens", "suppress_tokens"},  # lists of tokens
    "wav2vec2": {"ctc_loss_reduction"},
    "smollm3": {"no_rope_layer_interval"},  # transformers' class makes no_rope_layers of it
}
# Candidates that are read: another field's value brings them to life, or what they change is too small for a tiny model.
READ = {
    "bart": {"is_decoder", "decoder_start_token_id"},  # for whoever generates
    "convnext": {"layer_scale_init_value"},  # 0 leaves the parameter out, which is not tried
    "gpt2": {"reorder_and_upcast_attn"},  # the type of scores, which are float32 here
    "mobilenet_v2": {"output_stride"},
    "qwen2": {"sliding_window"},
    "qwen3": {"sliding_window"},
    "smollm3": {"sliding_window"},
    "wav2vec2": {
        *("output_hidden_size", "adapter_attn_dim", "num_adapter_layers", "adapter_stride", "adapter_kernel_size")
    },
}
# Old tensors that transformers says nothing of: heads and poolers of classes without a task, buffers it has forgotten.
UNKNOWN_TENSORS = {
    "albert": 3,
    "bart": 2,
    "bert": 2,
    "gemma3_text": 2,
    "gpt2": 3,
    "hubert": 3,
    "mobilenet_v2": 2,
    "resnet": 1,
    "roberta": 2,
    "t5": 1,
    "vit": 3,
    "wav2vec2": 9,
    "xlm-roberta": 2,
    "yolos": 2,
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "smollm3"), 1),
}
KINDS = {TEXT: "text", VISION: "image", AUDIO: "audio"}


@pytest.mark.parametrize("model_type", TABLE)
def test_prefix_tasks_kind_base_and_processor(model_type: str) -> None:
    family, row = architectures.find(model_type), TABLE[model_type]
    assert knowledge.prefix(model_type) == family.prefix
    assert set(knowledge.classes(model_type)) == set(architectures.SUPPORTED[model_type].tasks)
    assert knowledge.kind(model_type) == KINDS.get(row.kind, "encoder and decoder")
    over = {each.__name__ for each in family.__mro__} & {"Decoder", "Bert", "ViT", "EncoderDecoder"}
    assert {knowledge.base(model_type)} == (over or {"Family"})
    assert knowledge.processor(model_type) == row.processor


@pytest.mark.parametrize("model_type", TABLE)
def test_modules_of_heads(model_type: str) -> None:
    heads = architectures.find(model_type).heads
    for task, modules in knowledge.heads(model_type, TABLE[model_type].config).items():
        written = {module.partition(".")[0] for module in heads[task].modules}
        assert set(modules) ^ written == HEADS.get((model_type, task), set()), task


@pytest.mark.parametrize("model_type", TABLE)
def test_spellings_both_ways(model_type: str) -> None:
    """What is derived reads every older name as the class does, and leaves today's as they are."""
    derived = (*RENAMES, *knowledge.spellings(model_type, TABLE[model_type].config))
    ours = (*RENAMES, *architectures.find(model_type).spellings)
    for task, (now, older) in names(model_type).items():
        for name, old, _ in older:
            assert modern(old, derived) == modern(name, derived) == modern(old, ours), task
        if model_type == "yolos":  # whose class is one over ViT's, and names all modules as that does
            continue
        assert [name for name in now if modern(name, derived) != modern(name, ours)] == [], task


@pytest.mark.parametrize("model_type", TABLE)
def test_tensors_that_are_ignored(model_type: str) -> None:
    row = TABLE[model_type]
    patterns = knowledge.ignored(model_type, row.config)
    old = {name for of_task in row.in_files.values() for name in of_task}
    left = [name for name in old if not any(re.fullmatch(pattern, name) for pattern in patterns)]
    assert len(left) == UNKNOWN_TENSORS.get(model_type, 0), left


# The quickest of each kind; the others, whose sizes and tasks are more, only with all tests.
QUICK = ("gpt2", "gpt_neox", "bert", "opt", "vit", "convnext", "llama", "distilbert")


@pytest.mark.parametrize(
    "model_type", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.all) for name in TABLE]
)
def test_fields_that_change_nothing(model_type: str) -> None:
    found, written = _unused(model_type), set(architectures.find(model_type).unused_config)
    assert written - found == NOT_FOUND.get(model_type, set())
    assert found - written == READ.get(model_type, set())


@functools.cache
def _unused(model_type: str) -> set[str]:
    return set(knowledge.unused(model_type, TABLE[model_type].config))


# The files


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the command reads and writes."""
    folder = tmp_path_factory.mktemp("checkout")
    ignored = shutil.ignore_patterns("__pycache__", "*.mlpackage")
    for name in ("milbuild", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def written(checkout: Path) -> dict[str, str]:
    """The files of a type that is not supported, by their paths."""
    made = files.write("gptj", checkout)
    return {str(path.relative_to(checkout)): path.read_text() for path in made}


def _run(checkout: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )


def test_what_is_written(written: dict[str, str], checkout: Path) -> None:
    assert set(written) == {
        "milbuild/architectures/gptj.py",
        "tests/tiny/gptj.py",
        "milbuild/architectures/__init__.py",
        "CHANGELOG.md",
    }
    supported = re.findall(r'^    "([\w-]+)": Entry\(', written["milbuild/architectures/__init__.py"], re.MULTILINE)
    assert supported == sorted([*architectures.SUPPORTED, "gptj"])
    before = (ROOT / "CHANGELOG.md").read_text()
    (line,) = set(written["CHANGELOG.md"].splitlines()) - set(before.splitlines())
    assert line == "- GPTJ (gptj): feature extraction, text generation, text classification, question answering."
    family = written["milbuild/architectures/gptj.py"]
    for said in (
        'prefix = "transformer"',
        'tokens = "wte"',
        'layer = "h.{}"',
        'first_norm = "ln_1"',
        '"attn_pdrop"',
        'tied("lm_head", to="wte")',
        'last_token("score")',
        'span("qa_outputs")',
        r'r".*attn\.masked_bias"',
    ):
        assert said in family
    for said in (
        '"n_inner": None',
        '"relu"',
        '"layer_norm_epsilon": 0.01',
        '"tie_word_embeddings": True',
        "wte",
        "ln_f",
    ):
        assert said in written["tests/tiny/gptj.py"]


def test_what_is_written_is_formatted(written: dict[str, str], checkout: Path) -> None:
    paths = [path for path in written if path.endswith(".py")]
    for action in (["format", "--check"], ["check"]):
        done = _run(checkout, "-m", "ruff", *action, *paths)
        assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_written_only_lacks_its_methods(written: dict[str, str], checkout: Path) -> None:
    """The tests of a type run over it, and each build fails with what is still to be written."""
    done = _run(
        checkout,
        *("-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "--maxfail", "2", "-m", "not all"),
        *("--model-type", "gptj", "tests/test_parity.py"),
    )
    errors = re.findall(r"^E   +(\w+(?:\.\w+)*(?:Error|Exception)\b.*)", done.stdout, re.MULTILINE)
    assert len(errors) == 2, done.stdout[-3000:]
    assert {error.partition(":")[0] for error in errors} == {"NotImplementedError"}
    assert all("gptj: norm, the norm of a state" in error for error in errors)


@pytest.mark.parametrize(
    "model_type", ["deit", *(pytest.param(name, marks=pytest.mark.all) for name in ("electra", "mbart", "regnet"))]
)
def test_a_class_over_each_base(model_type: str) -> None:
    """Of an encoder, images, an encoder with a decoder, and anything else: Python, whose every method raises."""
    source = files.class_file(model_type)
    base = knowledge.base(model_type)
    assert f"({base}):" in source
    scope: dict[str, type] = {}
    exec(compile(source, model_type, "exec"), scope)
    family = scope[files.class_name(model_type)]
    assert family.prefix == knowledge.prefix(model_type)
    assert set(family.heads) == set(knowledge.classes(model_type))
    own = [method for name, method in vars(family).items() if callable(method) and not name.startswith("_")]
    assert own
    for method in own:
        with pytest.raises(NotImplementedError, match=model_type):
            method(*[None] * method.__code__.co_argcount)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "tests" / "tiny").mkdir(parents=True)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "tests" / "tiny" / "codegen.py").write_text("mine")
    with pytest.raises(Error, match=r"tests/tiny/codegen\.py is there already"):
        files.write("codegen", tmp_path)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"codegen.py", "pyproject.toml"}
    assert (tmp_path / "tests" / "tiny" / "codegen.py").read_text() == "mine"


def test_outside_a_checkout(tmp_path: Path) -> None:
    with pytest.raises(Error, match="not installed from a checkout") as error:
        files.write("gptj", tmp_path)
    assert "Clone" in str(error.value)


def test_words_for_a_type_that_is_not_to_be_had(torch_command: CommandLine) -> None:
    result = torch_command("new", "gpt2")
    assert (result.code, "gpt2 is supported already" in result.err) == (2, True)
    result = torch_command("new", "gpt-j")
    assert result.code == 2
    assert "transformers has no model type 'gpt-j'" in result.err
    assert "gptj" in result.err


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(Error, match="milbuild new needs PyTorch"):
        files.write("gptj", ROOT)
