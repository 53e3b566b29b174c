"""The words of a build's options, for Python and the command line alike. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Any

from milbuild.errors import Error

PRECISIONS = ("float16", "float32")

# The oldest system of a target -> Core ML's specification version (coremltools/__init__.py).
TARGETS = {"iOS15": 6, "iOS16": 7, "iOS17": 8, "iOS18": 9, "iOS26": 10}

# A number of tokens: fixed, (lowest, highest), or one of a list.
Length = int | tuple[int, int] | list[int]


@dataclass(frozen=True)
class Interface:
    """A consumer's names for what every family has, and the caches it knows.

    `ranged`: the consumer prefills and decodes through one function of ranged length, and `position` is its causal mask.
    """

    caches: tuple[str, ...]
    input_ids: str = "input_ids"
    attention_mask: str = "attention_mask"
    position: str = "position"
    key: str = "key_cache"
    value: str = "value_cache"
    past: str = ""
    present: str = ""
    ranged: bool = False


INTERFACES = {
    "milbuild": Interface(("none", "state")),
    # huggingface/exporters
    "hf": Interface(("none", "io"), past="past_key_values_{layer}_{kind}", present="present_key_values_{layer}_{kind}"),
    # huggingface/swift-transformers, Sources/Models/LanguageModel.swift
    "swift-transformers": Interface(("none", "state"), "inputIds", "attentionMask", "causalMask", "keyCache", "valueCache", ranged=True),
}


def parse_length(value: Any, option: str) -> Length:
    """64, (1, 128) or [16, 32], or their spelling on the command line: "64", "1:128", "16,32". Raises `Error`."""
    length = value
    if isinstance(value, str):
        try:
            if ":" in value:
                lowest, highest = value.split(":")
                length = (int(lowest), int(highest))
            else:
                length = [int(part) for part in value.split(",")]
                length = length[0] if len(length) == 1 else length
        except ValueError:
            raise Error(f"{option} is {value!r}", "Write 64, a range 1:128, or a list 16,32,64.") from None
    numbers = [length] if isinstance(length, int) else length
    if not isinstance(numbers, list | tuple) or not all(isinstance(n, int) and not isinstance(n, bool) for n in numbers) or not numbers:
        raise Error(f"{option} is {value!r}", "It is a number, a range (lowest, highest), or a list of numbers.")
    if min(numbers) < 1:
        raise Error(f"{option} is {spell_length(length)}; a call takes at least 1 token")
    if isinstance(length, tuple):
        if len(length) != 2 or length[0] > length[1]:
            raise Error(f"{option} is the range {spell_length(length)}, whose end lies before its beginning", "Write the lowest length first: 1:128.")
        return length[0] if length[0] == length[1] else length
    if isinstance(length, list):
        unique = list(dict.fromkeys(length))  # in the order given: the first is the default shape
        return unique[0] if len(unique) == 1 else unique
    return int(length)


def spell_length(length: Length) -> str:
    """A length as the command line spells it."""
    if isinstance(length, tuple):
        return ":".join(map(str, length))
    return ",".join(map(str, length)) if isinstance(length, list) else str(length)
