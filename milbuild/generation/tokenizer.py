"""The tokenizer of a package: that of the checkpoint it was built from, or one that is given."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from milbuild.errors import Error
from milbuild.generation.session import Session
from milbuild.model import Model
from milbuild.program.metadata import COMMIT_KEY, SOURCE_KEY, TOKENIZER_KEY
from milbuild.weights.checkpoint import download, locate, tokenizer_digest

GIVE = "Give the folder or hub id of a checkpoint with its tokenizer: --tokenizer FOLDER"


def checkpoint_of(model: Model, given: Any) -> Any:
    """The tokenizer that was given, or the checkpoint that the package names as its source. Raises `Error`."""
    if given is not None:
        return given
    metadata = model.user_defined_metadata
    name, commit, digest = (metadata.get(key) for key in (SOURCE_KEY, COMMIT_KEY, TOKENIZER_KEY))
    if not name:
        raise Error("the package does not say what it was built from", GIVE)
    if digest is None:
        raise Error(f"the package was built from {name}, which had no tokenizer", GIVE)
    # A package has no paths of the machine that built it: a folder of that name counts if it has the same tokenizer.
    others = []
    for place in (Path(model.package_path).parent / name, Path(name)):
        if place.is_dir() and tokenizer_digest(place) == digest:
            return place
        if place.is_dir():
            others.append(place)
    if commit is not None:
        return download(name, commit)
    if others:
        raise Error(f"the package was built from {name}, and {others[0]} has another tokenizer or none", GIVE)
    raise Error(f"the package was built from {name}, which is neither here nor beside the package", GIVE)


def remark(session: Session, tokenizer: Any, source: Any, metadata: Mapping[str, str]) -> str | None:
    """A warning about a tokenizer that is not the checkpoint's own, or None. Raises `Error` for one with too many tokens."""
    own = isinstance(source, str | os.PathLike) and tokenizer_digest(locate(source)[1]) == metadata.get(TOKENIZER_KEY)
    rows = session.vocabulary
    if own or rows is None or not hasattr(tokenizer, "__len__") or len(tokenizer) == rows:
        return None
    said = f"the tokenizer has {len(tokenizer):,} tokens, and the package knows {rows:,}"
    if getattr(tokenizer, "vocab_size", 0) > rows:  # tokens added after it, as for padding, may never occur
        raise Error(f"{said}: it is another model's", "Give that of the checkpoint which the package was built from.")
    return f"{said}: unless the checkpoint's own has as many, it is another model's, and the text will make no sense"


def read_tokenizer(source: Any) -> Any:
    """The tokenizer of a checkpoint, or one that is given."""
    if not isinstance(source, str | os.PathLike):
        return source
    from transformers import AutoTokenizer

    name, folder, _ = locate(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # tokenizers raises nothing narrower
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Error(f"{name} has no tokenizer that transformers can read: {first}") from error
    if not tokenizer.vocab_size:  # what transformers makes of the model_type alone
        raise Error(
            f"{name} has no tokenizer", "It lies beside the weights: tokenizer.json, or vocab.json and merges.txt."
        )
    return tokenizer
