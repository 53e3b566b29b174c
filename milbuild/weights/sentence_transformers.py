"""What a repository of sentence-transformers makes of hidden states: its modules.json and the folders that this names, in
the layout of 2019 and in that of 6.x.

Reference: sentence_transformers 6.2, base/model.py, base/modules and sentence_transformer/modules.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from milbuild.errors import Error
from milbuild.weights import safetensors
from milbuild.weights.files import read_json, read_value

# The flags of old configurations in the order in which their vectors are joined, and the modes' names in milbuild.
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "last",
}
MODES = {"lasttoken" if mode == "last" else mode: mode for mode in FLAGS.values()}

# torch's modules by the last part of their path, as transformers names their functions; all with torch's own defaults.
ACTIVATIONS = {
    "GELU": "gelu",
    "Hardswish": "hardswish",
    "Identity": "linear",
    "LeakyReLU": "leaky_relu",
    "Mish": "mish",
    "ReLU": "relu",
    "ReLU6": "relu6",
    "SiLU": "silu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
}

# What the first module is configured by, whatever the model is.
TRANSFORMER = [
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
]
# What may be there that changes no number of the model: how texts are prepared, how files are loaded.
LOADING = {
    "attn_implementation",
    "dtype",
    "torch_dtype",
    "trust_remote_code",
    "use_safetensors",
    "device_map",
    "revision",
}
# The tasks that the first module is loaded for -> milbuild's.
TASKS = {
    "feature-extraction": "feature-extraction",
    "sequence-classification": "text-classification",
    "text-generation": "text-generation",
    "fill-mask": "fill-mask",
}
OUTPUT = "sentence_embedding"


@dataclass(frozen=True)
class Step:
    """A module after the pooling: its `kind`, the folder that it has in the repository, and its config.json."""

    kind: str
    path: str
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """What is in modules.json: `task` is what the model itself is loaded for; `poolings` are milbuild's names of the modes
    whose vectors are joined, `steps` what comes after them, but for a Normalize at the end, which is `normalize`.

    `problem` is why no vector can be built of it; nobody is told before it is asked for. `facts` are what a package's metadata
    repeats for whoever feeds it: prompts, the limit of a text, how vectors are compared.
    """

    task: str = "feature-extraction"
    poolings: tuple[str, ...] = ()
    include_prompt: bool = True
    steps: tuple[Step, ...] = ()
    normalize: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    problem: Error | None = None

    @property
    def vectors(self) -> bool:
        """Whether it is one that makes vectors of whole texts, buildable or not."""
        return bool(self.poolings) or self.problem is not None


def read(folder: Path) -> Recipe | None:
    """The recipe of a repository, None where `folder` is none of sentence-transformers. Raises `Error` for broken files."""
    if not (folder / "modules.json").is_file():
        return None
    modules = _modules(folder)
    first = _first(folder, modules)
    facts = _facts(folder, first)
    task = TASKS.get(first.get("transformer_task", "feature-extraction"), "")
    try:
        return _recipe(folder, modules, first, task, facts)
    except Error as problem:
        return Recipe(task or "feature-extraction", facts=facts, problem=problem)


def model_folder(folder: Path) -> Path:
    """Where a repository keeps the model itself: old ones in the folder of their first module."""
    if (folder / "config.json").is_file() or not (folder / "modules.json").is_file():
        return folder
    return folder / _modules(folder)[0][1]


def repository_folder(folder: Path) -> Path:
    """The repository of a model's folder (`model_folder`)."""
    above = folder.parent
    if not (folder / "modules.json").is_file() and (above / "modules.json").is_file() and model_folder(above) == folder:
        return above
    return folder


def tensors(folder: Path, steps: tuple[Step, ...]) -> dict[str, np.ndarray]:
    """Those of the modules after the pooling, by the module's folder and their names there. Raises `Error`."""
    found: dict[str, np.ndarray] = {}
    for step in (step for step in steps if step.kind != "Normalize"):
        file = folder / step.path / "model.safetensors"
        if not file.is_file():
            hint = (
                "milbuild reads no pickles. Load the repository once with sentence-transformers and save it again: "
                "SentenceTransformer(folder).save(new_folder)"
            )
            there = " but a pytorch_model.bin" if (file.parent / "pytorch_model.bin").is_file() else ""
            raise Error(f"the module {step.path} ({step.kind}) has no model.safetensors{there}", hint)
        found |= {f"{step.path}.{name}": array for name, array in safetensors.read(file).items()}
    return found


def _modules(folder: Path) -> list[tuple[str, str]]:
    """(type, path) of each module. Raises `Error`."""
    file = folder / "modules.json"
    entries = read_value(file)
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise Error(
            f"modules.json of {folder.resolve().name} is no list of modules", "sentence-transformers saves one."
        )
    found = []
    for entry in entries:
        kind, path = entry.get("type"), entry.get("path", "")
        parts = Path(path).parts if isinstance(path, str) else ("..",)
        if not isinstance(kind, str) or Path(path if isinstance(path, str) else "/").is_absolute() or ".." in parts:
            raise Error(
                f"modules.json of {folder.resolve().name} has a module of type {kind!r} in {path!r}",
                "A module has a type, and a folder of the repository's own.",
            )
        found.append((kind, path))
    return found


def _first(folder: Path, modules: list[tuple[str, str]]) -> dict[str, Any]:
    """How the first module is configured."""
    inside = folder / modules[0][1]
    return next((read_json(inside / name) for name in TRANSFORMER if (inside / name).is_file()), {})


def _recipe(
    folder: Path, modules: list[tuple[str, str]], first: dict[str, Any], task: str, facts: dict[str, Any]
) -> Recipe:
    kinds = [_kind(kind) for kind, _ in modules]
    known = ("Transformer", "Pooling", "Dense", "LayerNorm", "Normalize", "Dropout")
    if strange := [kind for (kind, _), name in zip(modules, kinds, strict=True) if name not in known]:
        raise _refused(folder, f"names modules that no graph is written for: {', '.join(strange)}")
    if kinds[0] != "Transformer" or kinds.count("Transformer") > 1 or kinds.count("Pooling") > 1:
        raise _refused(folder, f"has its modules in an order that no graph is written for: {', '.join(kinds)}")
    if kinds == ["Transformer"]:
        return Recipe(task or "feature-extraction", facts=facts)  # a model alone: a CrossEncoder, mostly
    if task != "feature-extraction":
        raise _refused(folder, f"has {', '.join(kinds[1:])} after a model for {first.get('transformer_task')}")
    _check_first(folder, first)
    if kinds[1] != "Pooling":
        raise _refused(folder, f"has its modules in an order that no graph is written for: {', '.join(kinds)}")
    pooling = _config(folder, modules[1][1])
    steps = []
    for name, (_, path) in zip(kinds[2:], modules[2:], strict=True):
        if name != "Dropout":
            config = _config(folder, path, needed=name != "Normalize")
            _check_step(folder, name, path, config)
            steps.append(Step(name, path, config))
    normalize = bool(steps) and steps[-1].kind == "Normalize"
    return Recipe(
        task,
        _poolings(folder, pooling),
        pooling.get("include_prompt", True) is not False,
        tuple(steps[:-1] if normalize else steps),
        normalize,
        facts,
    )


def _kind(kind: str) -> str:
    """The class of a type's path, if it is of sentence-transformers."""
    return kind.rsplit(".", 1)[-1] if kind.startswith("sentence_transformers.") else kind


def _refused(folder: Path, what: str) -> Error:
    hint = "Build what the model itself gives: pooling none (--pooling none), or another task (--task)."
    return Error(f"modules.json of {folder.resolve().name} {what}", hint)


def _config(folder: Path, path: str, needed: bool = True) -> dict[str, Any]:
    file = folder / path / "config.json"
    if not path or not (file.is_file() or not needed):
        raise Error(f"modules.json of {folder.resolve().name} names the module {path!r}, which has no config.json")
    return read_json(file) if file.is_file() else {}


def _check_first(folder: Path, first: dict[str, Any]) -> None:
    """The model's own states of whole texts are what is pooled."""
    text = first.get("modality_config", {}).get("text") if isinstance(first.get("modality_config", {}), dict) else None
    wanted = {"method": "forward", "method_output_name": "last_hidden_state"}
    if first.get("modality_config") is not None and (not isinstance(text, dict) or text | wanted != text):
        raise _refused(folder, f"pools what no graph gives: modality_config is {json.dumps(first['modality_config'])}")
    if first.get("module_output_name", "token_embeddings") != "token_embeddings":
        raise _refused(folder, f"has a model whose module_output_name is {first['module_output_name']!r}")
    for name in ("config_args", "config_kwargs", "model_args", "model_kwargs"):
        given = first.get(name) or {}
        if not isinstance(given, dict) or given.keys() - LOADING:
            raise _refused(folder, f"loads its model with {name} {json.dumps(given)}, which config.json does not say")


def _poolings(folder: Path, config: dict[str, Any]) -> tuple[str, ...]:
    """A word or a list of them, in their order; or flags, in an order that is fixed."""
    given = config.get("pooling_mode")
    if given is None:
        found = [mode for flag, mode in FLAGS.items() if config.get(flag) is True]
        return tuple(found or ["mean"])
    modes = [given] if isinstance(given, str) else given
    if not isinstance(modes, list) or not modes or not all(isinstance(mode, str) and mode in MODES for mode in modes):
        raise _refused(folder, f"has the pooling_mode {given!r}; it must be one of {', '.join(MODES)}")
    return tuple(MODES[mode] for mode in modes)


def _check_step(folder: Path, kind: str, path: str, config: dict[str, Any]) -> None:
    for name in ("module_input_name", "module_output_name"):
        if config.get(name) not in (None, OUTPUT):
            raise _refused(folder, f"has {path} ({kind}) with {name} {config[name]!r}; only {OUTPUT} is built")
    sizes = {"Dense": ("in_features", "out_features"), "LayerNorm": ("dimension",)}.get(kind, ())
    for name in sizes:
        if type(config.get(name)) is not int or config[name] < 1:
            raise Error(f"config.json of {path} ({kind}) has {name}: {config.get(name)!r}; it is a whole number from 1")
    if kind == "Dense":
        function_of(path, config)


def function_of(path: str, config: dict[str, Any]) -> str:
    """A Dense's activation as transformers names it. Raises `Error` for one that is not known."""
    given = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    name = given.rsplit(".", 1)[-1] if isinstance(given, str) and given.startswith("torch.nn.") else ""
    if name not in ACTIVATIONS:
        raise Error(
            f"config.json of {path} (Dense) has the activation_function {given!r}",
            f"Known are torch.nn's {', '.join(sorted(ACTIVATIONS))}.",
        )
    return ACTIVATIONS[name]


def _facts(folder: Path, first: dict[str, Any]) -> dict[str, Any]:
    """What is said of the texts that go in and of the vectors that come out."""
    file = folder / "config_sentence_transformers.json"
    said = read_json(file) if file.is_file() else {}
    found = {name: said.get(name) for name in ("prompts", "default_prompt_name", "similarity_fn_name")}
    found["max_seq_length"] = first.get("max_seq_length")
    if found["max_seq_length"] is None and (model_folder(folder) / "tokenizer_config.json").is_file():
        # Where 6.x keeps it; a tokenizer without a limit has 10^30 there.
        limit = read_json(model_folder(folder) / "tokenizer_config.json").get("model_max_length")
        found["max_seq_length"] = limit if isinstance(limit, int) and limit < 1 << 30 else None
    found["do_lower_case"] = first.get("do_lower_case") or None
    return {name: value for name, value in found.items() if value not in (None, {})}
