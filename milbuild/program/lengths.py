"""Lengths and sizes: fixed, ranged or listed, and their spelling on the command line."""

from typing import Any

from milbuild.errors import Error

# A number of tokens: fixed, (lowest, highest), or one of a list.
Length = int | tuple[int, int] | list[int]


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
    if (
        not isinstance(numbers, list | tuple)
        or not all(isinstance(n, int) and not isinstance(n, bool) for n in numbers)
        or not numbers
    ):
        raise Error(f"{option} is {value!r}", "It is a number, a range (lowest, highest), or a list of numbers.")
    if min(numbers) < 1:
        raise Error(f"{option} is {spell_length(length)}; a call takes at least 1 token")
    if isinstance(length, tuple):
        if len(length) != 2 or length[0] > length[1]:
            raise Error(
                f"{option} is the range {spell_length(length)}, whose end lies before its beginning",
                "Write the lowest length first: 1:128.",
            )
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


def parse_size(value: Any) -> tuple[int, int]:
    """224, (height, width), or their spelling on the command line: "224", "384x512". Raises `Error`."""
    size = value
    if isinstance(value, str):
        try:
            size = tuple(int(part) for part in value.split("x"))
        except ValueError:
            size = ()
    size = (size,) if isinstance(size, int) and not isinstance(size, bool) else size
    if not isinstance(size, list | tuple) or len(size) not in (1, 2) or not all(type(n) is int and n > 0 for n in size):
        raise Error(f"image_size is {value!r}", "It is the side of a square, 224, or height and width: 384x512.")
    return (size[0], size[-1])


def spell_size(size: tuple[int, int]) -> str:
    """A size of images as the command line spells it."""
    return f"{size[0]}x{size[1]}"


def longest(length: Length) -> int:
    """The longest call."""
    return length if isinstance(length, int) else max(length)
