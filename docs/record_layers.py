"""Writes docs/layers.md, an index of the layer functions: python docs/record_layers.py

Read from the source, so that nothing heavy is imported; a test holds the page to it.
"""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "layers.md"
PACKAGE = ROOT / "milbuild"
HEAD = """\
# Layer functions

The functions of `milbuild.layers`, for authors of model classes: look here before you write one of your own. Each entry has the
signature, the first sentence of the docstring, and the users of the function. Written by `python docs/record_layers.py`.

`x` is a value of the graph. `w` is the cursor of the module that the function implements: it reads the parameters and names the
operations. Functions marked \\* know the layout; another layout has its own versions of them (`milbuild.layers.layout`).
"""


def page() -> str:
    """The page as it is to be."""
    users = _users()
    parts = [HEAD]
    for file in sorted((PACKAGE / "layers").glob("[a-z]*.py")):
        tree = ast.parse(file.read_text("utf-8"))
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name[0] != "_"]
        if not functions:
            continue
        parts.append(f"\n## {file.stem}\n\n{_sentence(ast.get_docstring(tree))}\n")
        for node in functions:
            known = sorted(users[file.stem, node.name])
            used = f"Used by {', '.join(known)}." if known else "Used by no model class yet."
            star = (
                " \\*" if any(isinstance(each, ast.Name) and each.id == "layer" for each in node.decorator_list) else ""
            )
            returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
            parts.append(f"\n* `{node.name}({ast.unparse(node.args)}){returns}`{star}\n")
            parts.append(f"  {_sentence(ast.get_docstring(node))} {used}\n")
    return "".join(parts)


def _sentence(docstring: str | None) -> str:
    """The first one, or what there is up to a colon or a blank line."""
    text = " ".join((docstring or "Without a docstring.").split("\n\n")[0].split())
    end = text.find(". ")
    return text if end < 0 else text[: end + 1]


def _users() -> dict[tuple[str, str], set[str]]:
    """(module, function) -> the modules of architectures, heads, caches and layers that name it."""
    users = defaultdict(set)
    for room in ("architectures", "heads", "caches", "layers"):
        for file in (PACKAGE / room).glob("*.py"):
            tree = ast.parse(file.read_text("utf-8"))
            modules, stem = {}, file.stem if room == "architectures" else f"{room}.{file.stem}"
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and node.module == "milbuild.layers":
                    modules |= {alias.asname or alias.name: alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("milbuild.layers."):
                    for alias in node.names:
                        users[node.module.rpartition(".")[2], alias.name].add(stem)
            for node in ast.walk(tree):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                    users[modules[node.value.id], node.attr].add(stem)
    return users


if __name__ == "__main__":
    DOCUMENT.write_text(page(), "utf-8")
