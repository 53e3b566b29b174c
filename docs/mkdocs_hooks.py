"""What is made while mkdocs builds the site (mkdocs.yml): the pages at the root of the project, the API reference of milbuild's
public names, and a page of the model types. All is read from the source, so that milbuild's dependencies are not needed."""

import ast
import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://github.com/milbuild/milbuild"
ROOT_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CODE_OF_CONDUCT.md": "code-of-conduct.md",
}
PUBLIC = ("milbuild", "milbuild.runtime")  # the modules whose `__all__` is public


def on_files(files: Files, config: Any) -> Files:
    pages = {page: (ROOT / name).read_text("utf-8") for name, page in ROOT_PAGES.items()}
    pages["reference/python.md"] = python_page()
    pages["reference/model-types.md"] = model_types_page()
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lists as Python-Markdown reads them, and links between the root of the project and docs/ as those of the site; to what
    the site does not have, as the repository's."""
    if page.file.src_uri.startswith("reference/"):
        return markdown  # made here, with the site's own links
    source = next((name for name, each in ROOT_PAGES.items() if each == page.file.src_uri), f"docs/{page.file.src_uri}")
    return re.sub(r"(?<=\]\()(?![\w+]+:|#)([^)#\s]*)", lambda link: _link(source, link[1]), _lists(markdown))


def _lists(markdown: str) -> str:
    """GitHub needs no blank line before a list, and two spaces for what is in an item; Python-Markdown needs one, and four."""
    lines, fenced, within_list = [], False, False
    for line in markdown.split("\n"):
        fenced ^= line.startswith("```")
        if not fenced:
            item = re.match(r" *([*-]|\d+\.) ", line) is not None
            if not lines or not lines[-1]:  # a paragraph or a list begins
                within_list = item
            elif item and not within_list:
                lines.append("")
                within_list = True
            line = re.sub(r"^ {2,3}(?=\S)", "    ", line)
        lines.append(line)
    return "\n".join(lines)


def _link(source: str, target: str) -> str:
    path = (ROOT / PurePosixPath(source).parent / target).resolve().relative_to(ROOT).as_posix()
    if path in ROOT_PAGES:
        return ROOT_PAGES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"{REPOSITORY}/{'tree' if (ROOT / path).is_dir() else 'blob'}/main/{path}"


def python_page() -> str:
    """The public names of each module, and the classes of ours that their functions return or name in their docstrings."""
    milbuild = griffe.load("milbuild", search_paths=[str(ROOT)])
    named, returned = {}, {}
    for name in PUBLIC:
        module = milbuild if name == "milbuild" else milbuild[name.removeprefix("milbuild.")]
        for each in map(str, module.exports):
            target = module[each].final_target if module[each].is_alias else module[each]
            if target.is_attribute:
                continue  # __version__
            named[target.canonical_path] = f"{name}.{each}"
            if target.is_function:
                returned |= dict.fromkeys(_classes(target))
    assert "milbuild.model.Model" in named
    assert returned
    rest = [path for path in returned if path not in named]
    functions = [path for path in named.values() if path.rpartition(".")[2].islower()]
    classes = [path for path in named.values() if path not in functions]
    parts = [
        "# Python\n\nWhat `milbuild.__all__` and `milbuild.runtime.__all__` name, and the objects that these functions return or "
        "mention. `milbuild.<model_type>.build` is on the page of [model types](model-types.md).\n\n## Functions\n"
    ]
    parts += [f"\n::: {path}\n" for path in functions]
    parts.append("\n## Classes\n")
    parts += [f"\n::: {path}\n" for path in [*classes, *rest]]
    return "".join(parts)


def _classes(function: griffe.Function) -> Iterator[str]:
    """The paths of milbuild's classes that it returns, or whose names are in its docstring: `TextStream`."""
    names = [str(function.returns).strip("\"'"), *re.findall(r"`([\w.]*\b[A-Z]\w+)`", function.docstring.value)]
    for name in names:
        with contextlib.suppress(griffe.NameResolutionError):
            path = name if name.startswith("milbuild.") else function.resolve(name)
            found = function.modules_collection[path]
            found = found.final_target if found.is_alias else found
            if found.is_class:
                yield found.canonical_path


class Options(griffe.Extension):
    """Shows `Annotated[type, Option(help, ...)]` of the table of a build's options as its type, its default and its help."""

    def __init__(self) -> None:
        self.defaults: dict[str, str] = {}

    def on_attribute_instance(self, *, node: Any, attr: griffe.Attribute, **_: Any) -> None:
        if not isinstance(attr.annotation, griffe.ExprSubscript) or attr.annotation.canonical_name != "Annotated":
            return
        kind, option = attr.annotation.slice.elements
        call = node.annotation.slice.elts[1]
        given = {each.arg: each.value for each in call.keywords}
        if option.canonical_name != "Option":
            return
        help_, otherwise = (ast.literal_eval(each) for each in [*call.args[:2], ast.Constant("")][:2])
        more = f" {attr.docstring.value}" if attr.docstring else ""
        said = f" (default: {otherwise})" if otherwise else ""
        attr.docstring = griffe.Docstring(f"{help_}{said}.{more}", parent=attr)
        attr.annotation = kind
        self.defaults[attr.name] = ast.unparse(given["default"]) if "default" in given else "None"

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """After `unpack_typeddict`, which has put the options into the signature."""
        sections = func.docstring.parsed if func.docstring else []
        listed = [each for section in sections if section.kind.value == "parameters" for each in section.value]
        for parameter in [*func.parameters, *listed]:
            if str(parameter.default) == "...":
                parameter.default = self.defaults.get(parameter.name, parameter.default)


def model_types_page() -> str:
    """Each model type with its `build`, what its class says of it, its tasks and caches."""
    sys.path.insert(0, str(ROOT))
    from milbuild import tasks
    from milbuild.architectures import SUPPORTED

    parts = [
        "# Model types\n\n`milbuild.<model_type>.build` is [`milbuild.build`][milbuild.build] with the same options, for "
        "checkpoints of that model type only; any other is refused. [What is proved of each](../support.md).\n"
    ]
    for model_type, entry in sorted(SUPPORTED.items()):
        module = model_type.replace("-", "_")
        file = ROOT / "milbuild" / "architectures" / f"{entry.where.partition(':')[0]}.py"
        said = (ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "").split("\n\n")[0]
        caches = sorted({cache for task in entry.tasks for cache in tasks.caches(task, entry.decoder)})
        parts += [
            f"\n## {model_type} {{#milbuild.{module}}}\n",
            f"\n```python\nmilbuild.{module}.build(source, **options)\n```\n\n{said}\n",
            f"\nTasks: {', '.join(f'`{each}`' for each in entry.tasks)}. Caches: {', '.join(f'`{each}`' for each in caches)}.\n",
        ]
    return "".join(parts)
