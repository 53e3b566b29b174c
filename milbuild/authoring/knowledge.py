"""What transformers knows of a model type, found by asking its classes and by running tiny models of them.

Needs PyTorch; nothing here is imported by a build.
"""

import dataclasses
import functools
import inspect
import re
import warnings
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from milbuild.architectures import UNUSED_CONFIG
from milbuild.errors import Error, missing_torch
from milbuild.tasks import TASKS

# Sizes of tiny models by the names of their fields, all distinct, so that no transposed or mixed-up axis can pass.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size",), 61),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "emb_dim"), 24),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers"), 3),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "decoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "hidden_dim", "d_ff", "encoder_ffn_dim"), 52),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), 29),
    **{"decoder_attention_heads": 3, "decoder_ffn_dim": 44, "head_dim": 10, "d_kv": 5, "rotary_dim": 4},
    **{"embedding_size": 20, "type_vocab_size": 3, "num_labels": 7},
    **{"image_size": 32, "patch_size": 8, "encoder_stride": 8},
    **{"pad_token_id": 5, "bos_token_id": 1, "eos_token_id": 2},
}
TOKENS = 7
# What a field is set to, one after the other, to see whether anything changes.
_OTHERS: dict[type, tuple[Any, ...]] = {bool: (True, False), float: (1e-2, 2.0), int: (1, 3, 9), str: ()}
_RAISED = (ValueError, TypeError, RuntimeError, KeyError, IndexError, AttributeError, AssertionError, ArithmeticError)


def known(model_type: str) -> None:
    """Raises `Error` without PyTorch, and with near names for a model type that transformers does not have."""
    try:
        import torch  # noqa: F401
    except ImportError:
        raise missing_torch("milbuild new") from None
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if model_type not in CONFIG_MAPPING_NAMES:
        near = get_close_matches(model_type, CONFIG_MAPPING_NAMES, n=3, cutoff=0.5)
        hint = f"The nearest that it has: {', '.join(near)}." if near else "It is the model_type of a config.json."
        raise Error(f"transformers has no model type {model_type!r}", hint)
    if "feature-extraction" not in classes(model_type):
        raise Error(f"transformers has no base model of type {model_type!r}", "Look for the type of its text part.")


@functools.cache
def classes(model_type: str) -> dict[str, Any]:
    """transformers' class for each task, by milbuild's names of tasks."""
    import transformers

    found = {}
    for task in TASKS.values():
        name = getattr(transformers, task.auto)._model_mapping._model_mapping.get(model_type)
        name = name[0] if isinstance(name, tuple | list) else name
        if name is not None and hasattr(transformers, name):
            found[task.name] = getattr(transformers, name)
    # Of a decoder alone that has an encoder, and of an encoder alone that has no decoder: no task of its own.
    found.pop("text-generation" if configuration(model_type).is_encoder_decoder else "text-encoding", None)
    return found


def configuration(model_type: str, fields: dict[str, Any] | None = None) -> Any:
    """transformers' configuration of a type, with other values of some fields."""
    import transformers

    return transformers.AutoConfig.for_model(model_type, **(fields or {}))


def fields(model_type: str) -> dict[str, Any]:
    """The fields that a configuration of this type has, with their defaults; those of all types are left out."""
    config = configuration(model_type)
    return {
        field.name: getattr(config, field.name, None)
        for field in dataclasses.fields(config)
        if field.name not in UNUSED_CONFIG
    }


def tiny(model_type: str) -> dict[str, Any]:
    """A small configuration: fields whose names say what they are, under the names that this type gives them."""
    config = configuration(model_type)
    own = {field.name for field in dataclasses.fields(config)}
    given = {config.attribute_map.get(name, name): size for name, size in SIZES.items()}
    found = {name: size for name, size in given.items() if name in own or name == "num_labels"}
    rope = getattr(config, "rope_parameters", None)
    if rope and rope.get("partial_rotary_factor", 1.0) != 1.0:  # of 6 features 4, where a quarter would be one
        found["rope_parameters"] = rope | {"partial_rotary_factor": 0.7}
    return found


def prefix(model_type: str) -> str:
    """Of the base model's tensors in a file."""
    return str(classes(model_type)["feature-extraction"].base_model_prefix)


def kind(model_type: str) -> str:
    """What it takes: "text", "image", "audio", or "encoder and decoder"."""
    if configuration(model_type).is_encoder_decoder:
        return "encoder and decoder"
    name = classes(model_type)["feature-extraction"].main_input_name
    return {"input_ids": "text", "pixel_values": "image"}.get(name, "audio")


def base(model_type: str) -> str:
    """The nearest class of milbuild: Decoder, Bert, ViT, EncoderDecoder, or Family."""
    values, takes, tasks = fields(model_type), kind(model_type), classes(model_type)
    if takes == "encoder and decoder":
        return "EncoderDecoder" if "text2text-generation" in tasks or "speech-seq2seq" in tasks else "Family"
    if takes == "text":
        return "Bert" if "fill-mask" in tasks else "Decoder" if "text-generation" in tasks else "Family"
    patches = all(type(values.get(name)) is int for name in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
    return "ViT" if takes == "image" and patches else "Family"


def model(model_type: str, task: str, fields: dict[str, Any], meta: bool = False) -> Any:
    """transformers' model for a task; `meta`: names and shapes without numbers."""
    import torch

    values = fields | ({"num_labels": 2} if task == "question-answering" else {})
    # Of tensors without elements and the like: values that nobody would use are tried too.
    with torch.device("meta" if meta else "cpu"), warnings.catch_warnings(action="ignore"):
        made = classes(model_type)[task]._from_config(configuration(model_type, values))
    return made.eval()


def heads(model_type: str, fields: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Of each task the modules beside the base model that have tensors, by the outermost name."""
    inside = set(model(model_type, "feature-extraction", fields, meta=True).state_dict())
    found: dict[str, tuple[str, ...]] = {}
    for task in classes(model_type):
        if task == "feature-extraction":
            found[task] = ()
            continue
        made = model(model_type, task, fields, meta=True)
        names, start = made.named_parameters(remove_duplicate=False), f"{made.base_model_prefix}."
        own = [name for name, _ in names if not name.startswith(start) and name not in inside]
        found[task] = tuple(dict.fromkeys(name.partition(".")[0] for name in own))
    return found


def spellings(model_type: str, fields: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """(pattern, replacement) of the names that older files have, from transformers' table of renames."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    from milbuild.weights.checkpoint import RENAMES

    found: dict[tuple[str, str], None] = {}
    for task, kind in classes(model_type).items():
        if kind.base_model_prefix != prefix(model_type):
            found[rf"^{kind.base_model_prefix}\.", f"{prefix(model_type)}."] = None
        made = model(model_type, task, fields, meta=True)
        renames = get_model_conversion_mapping(made)
        for rename in renames:
            if not isinstance(rename, WeightRenaming):
                raise Error(f"transformers makes tensors of a {model_type} for {task} of others: {rename}")
        for rename in _needed(renames, list(made.state_dict())):
            (new,) = rename.target_patterns
            found |= dict.fromkeys((str(old), str(new)) for old in rename.source_patterns)
    ours = {pattern.removesuffix("$").replace("\\", "") for pattern, _ in RENAMES}
    return tuple(pair for pair in found if pair[0].removesuffix("$").replace("\\", "") not in ours)


def _needed(renames: list[Any], names: list[str]) -> list[Any]:
    """Those by which a name was once another. Most of the table are for other types."""
    needed = set()
    for way in (renames, *([each] for each in renames)):
        back = [each.reverse_transform() for each in reversed(way)]
        for name in names:
            key = name
            for each in back:
                key = each.rename_source_key(key)[0]
            turns = set()
            for each in way if key != name else ():
                new = each.rename_source_key(key)[0]
                turns |= {id(each)} if new != key else set()
                key = new
            if key == name:
                needed |= turns
    return [each for each in renames if id(each) in needed]


def ignored(model_type: str, fields: dict[str, Any]) -> tuple[str, ...]:
    """Patterns of tensors that files have and no model reads: what transformers ignores, and buffers that it does not save.
    None of them matches a tensor of a model."""
    made = {task: model(model_type, task, fields, meta=True) for task in classes(model_type)}
    start = f"{prefix(model_type)}."
    saved = {name.removeprefix(start) for each in made.values() for name in each.state_dict()}
    body = made["feature-extraction"]
    buffers = [name for name, _ in body.named_buffers() if name not in body.state_dict() and "original" not in name]
    found = dict.fromkeys(re.sub(r"(?<=\\\.)\d+(?=\\\.)", r"\\d+", re.escape(name)) for name in buffers)
    for each in made.values():
        for pattern in each._keys_to_ignore_on_load_unexpected or ():
            found[".*" + re.sub(r"(?<!\\)\.(?![*+?])", r"\\.", pattern.removeprefix("^"))] = None
    return tuple(pattern for pattern in found if not any(re.fullmatch(pattern, name) for name in saved))


def inputs(made: Any) -> dict[str, Any]:
    """Random ones that a tiny model takes."""
    import torch

    takes = inspect.signature(made.forward).parameters
    config, generator = made.config, torch.Generator().manual_seed(0)
    choices = (1, 3) if type(made).__name__.endswith("ForMultipleChoice") else (2,)

    def tokens() -> Any:
        return torch.randint(6, 60, (*choices, TOKENS), generator=generator)

    name = made.main_input_name
    if name == "input_ids":
        found = {"input_ids": tokens()}
        found["input_ids"][..., -2] = config.eos_token_id if type(config.eos_token_id) is int else 2
        if type(config.pad_token_id) is int:
            found["input_ids"][0, ..., -1] = config.pad_token_id
    elif name == "pixel_values":
        size = getattr(config, "image_size", None) or 64
        size = tuple(size) if isinstance(size, list | tuple) else (size, size)
        found = {name: torch.randn(2, getattr(config, "num_channels", 3), *size, generator=generator)}
        if type(made).__name__.endswith("ForMaskedImageModeling"):
            patch = config.patch_size if isinstance(config.patch_size, list | tuple) else (config.patch_size,) * 2
            count = (size[0] // patch[0]) * (size[1] // patch[1])
            found["bool_masked_pos"] = torch.arange(count).repeat(2, 1) % 2 == 0
    elif name == "input_features":
        found = {name: torch.randn(2, config.num_mel_bins, 2 * config.max_source_positions, generator=generator)}
    else:
        found = {name: torch.randn(2, 1600, generator=generator)}
    if config.is_encoder_decoder and "decoder_input_ids" in takes:
        found["decoder_input_ids"] = found["input_ids"] if name == "input_ids" else tokens()
    return found


def outputs(made: Any, given: dict[str, Any]) -> list[Any]:
    """Every tensor that it returns for such inputs."""
    import torch

    def tensors(value: Any) -> Iterator[Any]:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            for each in value:
                yield from tensors(each)

    switches = {"use_cache": False} if hasattr(made.config, "use_cache") and made.main_input_name == "input_ids" else {}
    with torch.no_grad():
        return list(tensors(list(made(**given, **switches, return_dict=True).values())))


def _perturbed(model_type: str, task: str, fields: dict[str, Any]) -> Any:
    """With the initial weights a dropped bias or norm would change nothing."""
    import torch

    torch.manual_seed(0)
    made = model(model_type, task, fields)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def unused(model_type: str, fields_: dict[str, Any]) -> tuple[str, ...]:
    """Candidates of the fields that change no graph: whatever such a field alone is set to, models of the same weights return
    the same numbers for every task. A field that only some other field's value brings to life is found among them."""
    # What bounds a sequence is asked for by `longest`, and of ties the checkpoint's tensors speak.
    positions = configuration(model_type).attribute_map.get("max_position_embeddings", "max_position_embeddings")
    read = ("tie_word_embeddings", positions)
    left = {name: value for name, value in fields(model_type).items() if name not in read}
    for task in classes(model_type):
        made = _perturbed(model_type, task, fields_)
        given = inputs(made)
        true = outputs(made, given)
        left = {
            name: value
            for name, value in left.items()
            if not _matters(model_type, task, fields_, name, getattr(made.config, name, value), (made, given, true))
        }
    return tuple(left)


def others(value: Any) -> tuple[Any, ...]:
    """Other values for a field: of the same type, activations for an activation, numbers for None."""
    from transformers.activations import ACT2FN

    if isinstance(value, str):
        return tuple(each for each in ("relu", "gelu_new") if each != value) if value in ACT2FN else ()
    kinds = (int, float) if value is None else (type(value),)
    return tuple(each for kind in kinds for each in _OTHERS.get(kind, ()) if each != value)


def _matters(
    model_type: str,
    task: str,
    fields: dict[str, Any],
    name: str,
    value: Any,
    truth: tuple[Any, dict[str, Any], list[Any]],
) -> bool:
    """Whether a field changes names, shapes or numbers, or cannot be changed: then it is not for us to say that it does not."""
    import torch

    made, given, true = truth
    tried = False
    for other in others(value):
        try:
            changed = model(model_type, task, fields | {name: other})
            changed.load_state_dict(made.state_dict())
            found = outputs(changed, given)
        except Exception as error:  # whatever transformers or its checks of configurations raise
            if not isinstance(error, _RAISED) and not type(error).__name__.startswith("Strict"):
                raise
            if "size mismatch" in str(error) or "Missing key" in str(error) or "Unexpected key" in str(error):
                return True
            continue
        tried = True
        if len(found) != len(true) or not all(map(torch.equal, found, true)):
            return True
    return not tried


def flags(model_type: str, fields_: dict[str, Any], without: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """Variations by the fields' types, as rows of tests/tiny have them: each switch flipped, each epsilon large, each activation
    another one, each number that may be None so."""
    found: dict[str, dict[str, Any]] = {"plain": {}}
    made = configuration(model_type, fields_)
    types = {field.name: str(field.type) for field in dataclasses.fields(made)}
    for name in fields(model_type):
        value, words = getattr(made, name, None), name.replace("_", " ")
        if name in without or name.startswith(("pad_token", "is_", "add_cross")):
            continue
        if name == "tie_word_embeddings":
            found["untied" if value else "tied"] = {name: not value}
        elif isinstance(value, bool):
            found[f"no {words}" if value else words] = {name: not value}
        elif isinstance(value, float) and re.search(r"eps", name):
            found |= {"large epsilon": {name: 1e-2}, "tiny epsilon": {name: 1e-12}}
        elif isinstance(value, str) and (functions := others(value)):
            found |= {function: {name: function} for function in functions}
        elif type(value) is int and "None" in types[name] and not name.endswith("token_id"):
            found[f"no {words}"] = {name: None}
    return {title: flag for title, flag in found.items() if _possible(model_type, fields_ | flag)}


def _possible(model_type: str, fields: dict[str, Any]) -> bool:
    try:
        made = model(model_type, "feature-extraction", fields)
        outputs(made, inputs(made))
    except Exception:  # noqa: BLE001 -- of a configuration that transformers cannot run, whatever it says
        return False
    return True


def modules(model_type: str, fields: dict[str, Any]) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """(path of a layer with {} for its number, modules with tensors in it, those of the base model beside the layers), in their
    order; "" where there is no list of layers."""
    import torch

    body = model(model_type, "feature-extraction", fields, meta=True)
    lists = [(name, each) for name, each in body.named_modules() if isinstance(each, torch.nn.ModuleList) and len(each)]
    if not lists:
        return "", (), tuple(name for name, _ in body.named_children())
    path, layers = lists[0]
    parent = path.rpartition(".")[0]
    beside = body.get_submodule(parent).named_children() if parent else body.named_children()
    inner = tuple(name for name, each in layers[0].named_children() if list(each.parameters()))
    start = f"{parent}." if parent else ""
    return f"{path}.{{}}", inner, tuple(start + n for n, e in beside if list(e.parameters()) and start + n != path)


def embeddings(model_type: str, fields: dict[str, Any]) -> str:
    """The path of the token embedding under the base model; "" if it has none."""
    body = model(model_type, "feature-extraction", fields, meta=True)
    if kind(model_type) in ("image", "audio"):
        return ""
    table = body.get_input_embeddings()
    return next((name for name, each in body.named_modules() if each is table), "")


def processor(model_type: str) -> str:
    """transformers' image processor of a type, without "ImageProcessor"; "" if it has none."""
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    names = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type) or {}
    name = names.get("pil") if isinstance(names, dict) else names[0]
    return (name or "").removesuffix("Pil").removesuffix("ImageProcessor")
