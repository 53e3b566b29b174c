"""Which fields of a configuration the installed transformers reads beside its classes: found in its source."""

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import transformers
from transformers import PreTrainedConfig

ROOT = Path(transformers.__file__).parent
# Code that serves all models, and what it calls a configuration.
SHARED = (
    *("masking_utils", "modeling_rope_utils", "modeling_layers", "cache_utils", "activations", "pytorch_utils"),
    *("modeling_utils", "configuration_utils", "generation/utils", "utils/generic", "integrations/sdpa_attention"),
)
CALLED = {"config", "text_config", "layer_config", "effective_config"}
# `self` is a configuration there, and asked for what its class may not have.
CONFIGURATIONS = {"modeling_rope_utils", "configuration_utils"}
# What the releases below 5.23 that milbuild admits read besides, all without effect on a graph: other devices, speech and its
# words, the cache of models whose class declares which layers share keys.
EARLIER = frozenset(
    """_attn_was_changed _commit_hash audio_vocab_size base_model_ep_plan base_model_fsdp_plan is_decoder num_kv_shared_layers
    output_vocab_size""".split()
)


def shared() -> set[str]:
    """Fields that the shared code reads and the base class of all configurations does not have."""
    base = {field.name for field in dataclasses.fields(PreTrainedConfig)} | set(dir(PreTrainedConfig()))
    return {name for module in SHARED for name in _reads(ROOT / f"{module}.py", module in CONFIGURATIONS)} - base


def beside(model_type: str) -> set[str]:
    """Fields that the model of a type asks for though they may be missing, and that its class does not have."""
    config = transformers.AutoConfig.for_model(model_type)
    known = {field.name for field in dataclasses.fields(type(config))} | set(dir(config)) | set(config.attribute_map)
    module = type(config).__module__.rsplit(".", 1)[0].removeprefix("transformers.").replace(".", "/")
    return {name for file in (ROOT / module).glob("modeling_*.py") for name in _asked(file)} - known


def _reads(file: Path, itself: bool) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and _is_config(node.value):
            yield node.attr
    yield from _asked(file, itself)


def _asked(file: Path, itself: bool = False) -> Iterator[str]:
    """The names in getattr(config, "name", ...) and hasattr(config, "name")."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            of, name = node.args[:2]
            if isinstance(name, ast.Constant) and (_is_config(of) or (itself and ast.unparse(of) == "self")):
                yield name.value


def _is_config(node: ast.expr) -> bool:
    """`config`, `self.config`, `self.config.get_text_config()`; of a name, what it ends with."""
    if isinstance(node, ast.Call):
        return (
            isinstance(node.func, ast.Attribute) and node.func.attr == "get_text_config" and _is_config(node.func.value)
        )
    if isinstance(node, ast.Name):
        return node.id in CALLED
    return isinstance(node, ast.Attribute) and node.attr in CALLED and not isinstance(node.value, ast.Call)
