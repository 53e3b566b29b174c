"""One file a family, named by its model_type. Nothing is imported before it is asked for.

SUPPORTED maps a model_type to its class and its tasks; an alias (the same graph under another model_type) is a line,
nothing else. The tasks stand here so that `milbuild list` need not import a family; a test holds them to the families.
"""

import importlib
from difflib import get_close_matches
from typing import Any, NamedTuple

from milbuild.errors import Error

DECODER = ("feature-extraction", "text-generation", "text-classification", "token-classification", "question-answering")


class Entry(NamedTuple):
    where: str  # "file:Class"
    tasks: tuple[str, ...]


SUPPORTED = {
    "gpt2": Entry("gpt2:GPT2", DECODER),
}


def find(model_type: str) -> type[Any]:
    """The family of a model_type. Raises `Error` with the nearest known ones."""
    if model_type not in SUPPORTED:
        near = get_close_matches(model_type, SUPPORTED, n=3, cutoff=0.5)
        known = (
            f"The nearest known: {', '.join(near)}." if near else f"Known model types: {', '.join(sorted(SUPPORTED))}."
        )
        raise Error(
            f"no graph is written for the model_type {model_type!r}",
            f"{known} `milbuild list` shows all with their tasks.",
        )
    file, name = SUPPORTED[model_type].where.split(":")
    return getattr(importlib.import_module(f"milbuild.architectures.{file}"), name)  # type: ignore[no-any-return]
