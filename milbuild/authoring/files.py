"""The files of a model type that nobody has written yet: tables filled with what transformers knows of it, methods that raise
NotImplementedError."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from milbuild import architectures
from milbuild.authoring import knowledge
from milbuild.errors import Error

CHECKOUT = Path(__file__).parents[2]

# What a class over each base has to say itself: (method, parameters, result, what it does).
_METHODS = {
    "Decoder": (
        ("norm", "x: Var, w: Cursor", "Var", "the norm of a state, (B, T, D) -> the same: layers.normalization"),
        (
            "qkv",
            "x: Var, w: Cursor, layer: Layer",
            "tuple[Var, Var, Var]",
            "queries, keys and values: layers.attention",
        ),
        ("output", "x: Var, w: Cursor", "Var", "the product after attention, (B, T, D) -> the same: layers.linear"),
        ("mlp", "x: Var, w: Cursor", "Var", "the MLP of a block, (B, T, D) -> the same: layers.blocks"),
    ),
    "Bert": (
        (
            "embeddings",
            "input_ids: Var, token_type_ids: Var | None, w: Cursor",
            "Var",
            "int32 (B, T) twice -> (B, T, D)",
        ),
        (
            "layer",
            "x: Var, w: Cursor, mask: Var | None, i: int",
            "Var",
            "one layer, (B, T, D) -> the same: layers.blocks",
        ),
    ),
    "ViT": (
        ("hidden_states", "pixel_values: Var", "Var", "an image (B, 3, height, width) -> (B, T, D): layers.image"),
    ),
    "EncoderDecoder": (
        ("encode", "input_ids: Var", "Var", "int32 (B, S) -> (B, S, D)"),
        ("hidden_states", "decoder_input_ids: Var, cross: Cross", "Var", "int32 (B, T) -> (B, T, D)"),
        ("norm", "x: Var, w: Cursor", "Var", "the norm of a state: layers.normalization"),
        ("mlp", "x: Var, w: Cursor, inner: int", "Var", "the MLP of a block: layers.blocks"),
    ),
    "Family": (("hidden_states", "{input}: Var", "Var", "the inputs -> (B, T, D)"),),
}
_MODULES = {
    "Decoder": "decoder",
    "Bert": "bert",
    "ViT": "vit",
    "EncoderDecoder": "encoder_decoder",
    "Family": "family",
}
_KINDS = {"text": "TEXT", "image": "VISION", "audio": "AUDIO", "encoder and decoder": "SEQ2SEQ"}


def write(model_type: str, root: Path = CHECKOUT) -> list[Path]:
    """Writes the files of a model type into a checkout, and returns those that it made or changed. Raises `Error`, before it
    writes anything, where one is there already, for a type that is supported or that transformers does not have, outside a
    checkout, and without PyTorch."""
    if not (root / "pyproject.toml").is_file() or not (root / "tests" / "tiny").is_dir():
        hint = "Clone milbuild's repository, install it from there with `make setup`, and run the command in it."
        raise Error("milbuild new writes source files, and this milbuild was not installed from a checkout", hint)
    if model_type in architectures.SUPPORTED:
        where = architectures.SUPPORTED[model_type].where.partition(":")[0]
        raise Error(f"{model_type} is supported already", f"Its graph is in milbuild/architectures/{where}.py.")
    knowledge.known(model_type)
    name = model_type.replace("-", "_")
    family = root / "milbuild" / "architectures" / f"{name}.py"
    row = root / "tests" / "tiny" / f"{name}.py"
    for file in (family, row):
        if file.exists():
            raise Error(f"{file.relative_to(root)} is there already", "Remove it, or go on with it by hand.")
    supported = root / "milbuild" / "architectures" / "__init__.py"
    changes = root / "CHANGELOG.md"
    import torch

    torch.set_num_threads(1)  # tiny models are slower on more
    made = {
        family: class_file(model_type),
        row: row_file(model_type),
        supported: _with_entry(supported.read_text("utf-8"), model_type),
        changes: _with_change(changes.read_text("utf-8"), model_type),
    }
    for file, text in made.items():
        file.write_text(text, "utf-8")
    if importlib.util.find_spec("ruff"):
        paths = [str(file) for file in made if file.suffix == ".py"]
        subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", *paths], check=True, cwd=root)
    return list(made)


def class_name(model_type: str) -> str:
    """As transformers' base model, without "Model"."""
    return str(knowledge.classes(model_type)["feature-extraction"].__name__).removesuffix("Model")


def class_file(model_type: str) -> str:
    """The source of a class whose tables are filled and whose methods raise NotImplementedError."""
    fields, base, name = knowledge.tiny(model_type), knowledge.base(model_type), class_name(model_type)
    source = knowledge.classes(model_type)["feature-extraction"].__module__.replace(".", "/")
    imports = {f"from milbuild.architectures.{_MODULES[base]} import {base}", _VAR}
    body = [f'    prefix = "{knowledge.prefix(model_type)}"']
    if base == "Decoder":
        body += _paths(model_type, fields)
    for table, value, note in (
        ("unused_config", knowledge.unused(model_type, fields), "changed alone, it changes no output: say why"),
        ("spellings", knowledge.spellings(model_type, fields), ""),
        ("ignored_weights", knowledge.ignored(model_type, fields), "buffers of old files"),
    ):
        if value:
            body.append(f"    {table} = {_literal(value)}" + (f"  # {note}" if note else ""))
    heads, needed = _heads(model_type, fields, base)
    imports |= needed
    body += ["    heads = {", *(f'        "{task}": {head},' for task, head in heads.items()), "    }"]
    first = knowledge.classes(model_type)["feature-extraction"].main_input_name
    for method, parameters, result, what in _METHODS[base]:
        text = f"{model_type}: {method}, {what}"
        signature = f"def {method}(self, {parameters.format(input=first)}) -> {result}:"
        body += ["", f"    {signature}", f"        raise NotImplementedError({_quoted(text)})"]
        imports |= {_CURSOR} if "Cursor" in parameters else set()
        imports |= {"from milbuild.caches import Cross"} if "Cross" in parameters else set()
        if "Layer" in parameters:
            imports = (imports - {f"from milbuild.architectures.decoder import {base}"}) | {
                "from milbuild.architectures.decoder import Decoder, Layer"
            }
    unwritten = []
    if any(head.startswith("Head(") for head in heads.values()):
        imports |= {"from typing import Any", "from milbuild.heads.head import Head"}
        text = f"{model_type}: a head, from hidden states to the outputs of its task: milbuild.heads"
        signature = "def unwritten(family: Any, hidden: Any, inputs: Any) -> dict[str, Any]:"
        unwritten = [signature, f"    raise NotImplementedError({_quoted(text)})", "", ""]
    docstring = [
        f'"""{name}: what it is, in one line, and what differs from {base}.',
        "",
        f"Reference: {source}.py.",
        "",
        "Shapes: B batch, T tokens in this call, D width of a state.",
        '"""',
    ]
    lines = [*docstring, "", *_imports(imports), "", "", *unwritten, f"class {name}({base}):", *body, ""]
    return "\n".join(lines)


def row_file(model_type: str) -> str:
    """The source of a row of tests/tiny."""
    fields, takes = knowledge.tiny(model_type), knowledge.kind(model_type)
    flags = knowledge.flags(model_type, fields, knowledge.unused(model_type, fields))
    layer, inside, beside = knowledge.modules(model_type, fields)
    start = knowledge.prefix(model_type)
    outputs = [f"{start}.{name}" for name in beside]
    if layer:
        path = f"{start}.{layer.format('*')}"
        outputs = [path, *(f"{path}.{name}" for name in inside), *outputs]
    what = _KINDS[takes]
    lines = [
        f"from tests.tiny._row import {'Tiny' if what == 'TEXT' else f'{what}, Tiny'}",
        "",
        "ROW = Tiny(",
        f'    "{model_type}",',
        f"    {_literal(fields)},",
        f"    operations=0,  # python -m tests.helpers.operations {model_type}",
        f"    flags={_literal(flags)},",
        f"    module_outputs={_literal(tuple(outputs))},",
    ]
    if what != "TEXT":
        lines.append(f"    kind={what},")
    if what == "VISION":
        lines.append(f"    size=({fields.get('image_size', 64)}, {fields.get('image_size', 64)}),")
        lines.append(f'    processor="{knowledge.processor(model_type)}",')
    if old := examples(knowledge.ignored(model_type, fields), layer):
        task = next(iter(task for task in knowledge.classes(model_type) if task != "feature-extraction"), "")
        lines.append(f"    in_files={_literal({task or 'feature-extraction': old})},")
    return "\n".join([*lines, ")", ""])


def examples(patterns: tuple[str, ...], layer: str) -> tuple[str, ...]:
    """A name that each pattern of `ignored_weights` matches, of layer 1 where it may be any."""
    start = f"{layer.format(1)}." if layer else ""
    return tuple(
        re.sub(r"\\(.)", r"\1", pattern.replace(r"\d+", "1").replace(".*", start, 1)).replace("$", "")
        for pattern in patterns
    )


_VAR = "from coremltools.converters.mil.mil import Var"
_CURSOR = "from milbuild.weights import Cursor"


def _paths(model_type: str, fields: dict[str, Any]) -> list[str]:
    """The names of a decoder's modules, as far as their own names tell what they are."""
    layer, inside, beside = knowledge.modules(model_type, fields)
    tokens = knowledge.embeddings(model_type, fields)
    base = tokens.rpartition(".")[0]
    start = f"{base}." if base else ""
    norms = [name for name in inside if re.search("norm|ln", name)]
    attention = [name for name in inside if name not in norms and re.search("attn|attention", name)]
    ffn = [name for name in inside if name not in norms and re.search("mlp|ffn|feed_forward|ff$", name)]
    last = [name.removeprefix(start) for name in beside if re.search("norm|ln", name)]
    found = {"base": base, "tokens": tokens.removeprefix(start), "layer": layer.removeprefix(start)}
    found |= {"last_norm": last[-1]} if last else {}
    found |= dict(zip(("first_norm", "second_norm"), norms, strict=False))
    found |= {"attn": attention[0]} if attention else {}
    found |= {"ffn": ffn[0]} if ffn else {}
    return [f'    {name} = "{path}"' for name, path in found.items() if path or name != "base"]


def _heads(model_type: str, fields: dict[str, Any], base: str) -> tuple[dict[str, str], set[str]]:
    """Sources of a class's heads by task, and the imports that they need. A head whose kind its module does not tell is one that
    raises NotImplementedError."""
    tied = knowledge.embeddings(model_type, fields)
    simple = {"text-classification": "last_token", "token-classification": "per_token", "question-answering": "span"}
    found, text = {}, set()
    for task, modules in knowledge.heads(model_type, fields).items():
        if task == "feature-extraction" and base in ("Decoder", "Family"):
            found[task] = "states()"
        elif base == "Decoder" and task == "text-generation" and len(modules) == 1:
            found[task] = f'tied("{modules[0]}", to="{tied}")'
            text.add("tied")
        elif base == "Decoder" and task in simple and len(modules) == 1:
            found[task] = f'{simple[task]}("{modules[0]}")'
            text.add(simple[task])
        else:
            found[task] = f"Head({_literal(modules)}, (), unwritten)"
    imports = {f"from milbuild.heads.text import {', '.join(sorted(text))}"} if text else set()
    imports |= {"from milbuild.heads.head import states"} if "states()" in found.values() else set()
    return found, imports


def _imports(lines: set[str]) -> list[str]:
    """Sorted as ruff does it: Python's own, others', milbuild's."""
    names: dict[str, set[str]] = {}
    for line in lines:
        module, _, imported = line.removeprefix("from ").partition(" import ")
        names.setdefault(module, set()).update(imported.split(", "))
    groups: list[list[str]] = [[], [], []]
    for module in sorted(names):
        group = 0 if module == "typing" else 2 if module.startswith("milbuild") else 1
        sorted_names = sorted(names[module], key=lambda name: (name.islower(), name))
        groups[group].append(f"from {module} import {', '.join(sorted_names)}")
    return [line for group in groups if group for line in (*group, "")][:-1]


def _with_entry(source: str, model_type: str) -> str:
    """The source of milbuild/architectures/__init__.py with a line in SUPPORTED, in the order of the alphabet."""
    tasks = tuple(knowledge.classes(model_type))
    said = "DECODER" if set(tasks) == set(architectures.DECODER) else _literal(tasks)
    where = f"{model_type.replace('-', '_')}:{class_name(model_type)}"
    decoder = ", decoder=True" if knowledge.base(model_type) == "Decoder" else ""
    line = f'    "{model_type}": Entry("{where}", {said}{decoder}),\n'
    begin = source.index("SUPPORTED = {\n")
    end = source.index("\n}\n", begin) + 1
    later = (m.start() for m in re.finditer(r'^    "([\w-]+)": Entry\(', source, re.MULTILINE) if m[1] > model_type)
    place = next((at for at in later if begin < at < end), end)
    return source[:place] + line + source[place:]


def _with_change(source: str, model_type: str) -> str:
    """CHANGELOG.md with a line at the end of what was added since the last release."""
    tasks = ", ".join(task.replace("-", " ") for task in knowledge.classes(model_type))
    begin = source.index("### Added", source.index("## Unreleased"))
    ends = [at for mark in ("\n## ", "\n### ") if (at := source.find(mark, begin + 1)) >= 0]
    end = min(ends, default=len(source))
    return source[:end].rstrip("\n") + f"\n- {class_name(model_type)} ({model_type}): {tasks}.\n" + source[end:]


def _literal(value: Any) -> str:
    """As ruff writes it: with double quotes, patterns raw."""
    if isinstance(value, str):
        return f'r"{value}"' if "\\" in value else f'"{value}"'
    if isinstance(value, tuple):
        return "(" + "".join(f"{_literal(each)}, " for each in value).rstrip(" " if len(value) == 1 else ", ") + ")"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(name)}: {_literal(each)}" for name, each in value.items()) + "}"
    return repr(value)


def _quoted(text: str) -> str:
    return f'"{text}"'
