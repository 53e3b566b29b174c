"""A build's options, one table: name, type, words, help and default of each. Imports nothing heavy.

From it follow `build`'s signature and checks, the command line, and README's table (tests/docs/options.py).
"""

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, TypeVar, get_args, get_type_hints

from milbuild.errors import Error
from milbuild.package import TARGETS
from milbuild.program.interfaces import INTERFACES
from milbuild.program.lengths import Length, parse_length, parse_size

if TYPE_CHECKING:
    import coremltools as ct

PRECISIONS = ("float16", "float32")
# How one vector is made of the tokens' states, several joined with commas; and what leaves the states as they are.
POOLINGS = ("mean", "cls", "last", "max", "mean_sqrt_len_tokens", "weightedmean")
NO_POOLING = "none"


@dataclass(frozen=True)
class Output:
    """What becomes of an output: another name, another description; `softmax=False` leaves the scores as the model gives
    them, without what `postprocess` does to them."""

    name: str | None = None
    text: str | None = None
    softmax: bool = True


@dataclass(frozen=True)
class Option:
    """`help` says in a line what it is, `otherwise` what holds where it is not given, `words` what may be written: the only
    ones if they are `checked`. `parse` reads the command line's word; `flag` is a switch there that turns it off; one that is
    `python` only has no place there."""

    help: str
    otherwise: str = ""
    words: str | Collection[str] = ()
    default: Any = None
    checked: bool = False
    parse: Callable[[Any, str], Any] | None = None
    flag: str = ""
    python: bool = False

    @property
    def metavar(self) -> str | None:
        return (self.words if isinstance(self.words, str) else "|".join(self.words)) or None

    @property
    def usually(self) -> str:
        """What holds where it is not given, in words."""
        return self.otherwise or ("yes" if self.default is True else str(self.default))


class BuildOptions(TypedDict, total=False):
    """What a build may be told; nothing has to be."""

    task: Annotated[
        str | None,
        Option("what the model is for; see `milbuild list`", "what the checkpoint was saved for"),
    ]
    """One of `milbuild list`, or exporters' name for it; text-generation where the checkpoint does not say."""
    sequence_length: Annotated[
        Length | None,
        Option(
            "tokens (or samples of audio) in a call: fixed, a range, or a list",
            "128, with a cache 1; 10 seconds",
            "64|1:128|16,32,64",
            parse=parse_length,
        ),
    ]
    """A number, a range (lowest, highest), or a list of numbers. With an encoder and a decoder it is what the encoder reads; of
    Whisper the samples of a window, thirty seconds or fewer."""
    image_size: Annotated[
        int | tuple[int, int] | None,
        Option(
            "side, or height x width, of images",
            "the processor's",
            "224|384x512",
            parse=lambda value, name: parse_size(value),
        ),
    ]
    """The side of a square, or (height, width); the processor's by default, else the configuration's."""
    batch_size: Annotated[int, Option("sequences or images in a call, without a cache", default=1)]
    """More than one without a cache only."""
    attention_mask: Annotated[
        bool | None,
        Option("an input that marks padding, without a cache", "for models that look both ways"),
    ]
    """By default for models that look both ways, and for audio whose processor gives one (`hf` with a cache always has it). With
    a fixed length it can be left out of a call, which then has no padding."""
    token_type_ids: Annotated[
        bool | None,
        Option("an input that tells the texts of a pair apart", "for tasks that take pairs"),
    ]
    """With a fixed length it can be left out of a call, which then has one text."""
    num_choices: Annotated[int | None, Option("texts of a question in multiple-choice", "config.json's labels")]
    cache: Annotated[
        str | None,
        Option("where keys and values live between calls; a state needs iOS18", "none", ("none", "io", "state")),
    ]
    """With "io" keys and values are inputs and outputs, with "state" Core ML keeps them (iOS 18)."""
    context_length: Annotated[
        Length | None,
        Option("tokens a cache holds; a range lets the past of io grow", "all", "512|1:512", parse=parse_length),
    ]
    """With a cache, the tokens of past and call together; the checkpoint's whole context by default. A range makes the past of
    "io" grow. With an encoder and a decoder the tokens of the answer, cached or not."""
    prefill_length: Annotated[
        int | None,
        Option("a function `prefill` for so many tokens at once, with main's weights; needs iOS18", "no such function"),
    ]
    """Adds a function `prefill` that takes so many tokens at once and shares every weight with `main`."""
    function: Annotated[
        str | None,
        Option(
            "encoder or decoder alone, for systems before iOS18; mel with whisperkit",
            "both in one package",
            ("encode", "decode", "mel"),
        ),
    ]
    """An encoder and a decoder that answer token by token are two functions of one package, `encode` and `decode`. "encode" or
    "decode" builds one of them alone (as `main`), for systems before iOS 18. WhisperKit has a package for each, and one more for
    "mel", the spectrogram."""
    logits: Annotated[
        str, Option("scores of every token, or of the last only", words=("all", "last"), default="all", checked=True)
    ]
    """The last alone saves the head's product for the other tokens."""
    pooling: Annotated[
        str | None,
        Option(
            "one vector for the whole text, in feature-extraction; several joined: cls,mean",
            "modules.json's",
            (*POOLINGS, NO_POOLING),
        ),
    ]
    """How feature-extraction makes one `sentence_embedding` (batch, width) of the hidden states of the tokens that are no
    padding: "mean", "cls" (the first), "last", "max", "mean_sqrt_len_tokens", "weightedmean", several joined ("cls,mean"), or
    "none". By default as the modules.json of a repository of sentence-transformers says, with the modules after the pooling
    there; none without one."""
    normalize: Annotated[bool | None, Option("divide that vector by its length", "modules.json's")]
    postprocess: Annotated[
        bool,
        Option(
            "what a pipeline of transformers makes of the scores: labels, probabilities, boxes; images as inputs",
            default=True,
            flag="--raw",
        ),
    ]
    """False (`--raw`) leaves transformers' own outputs, and takes plain tensors."""
    inputs: Annotated[
        Mapping[str, str] | None, Option("new names of inputs, by their names without it", "as they are", "NAME=NEW")
    ]
    outputs: Annotated[
        Mapping[str, str | Output | None] | None,
        Option(
            "rename (logits=scores), describe (logits=:Text) or leave out (logits=) an output",
            "as they are",
            "NAME=NEW[:TEXT]",
        ),
    ]
    """What becomes of an output, by its name without it (or transformers' own): a new name, None to leave it out, or
    `milbuild.Output(name, text, softmax)`."""
    interface: Annotated[
        str | None,
        Option(
            "names and shapes of a consumer; whisperkit takes a package for each function",
            "hf with io, else milbuild",
            INTERFACES,
        ),
    ]
    """Of milbuild itself, of huggingface/exporters ("hf"), swift-transformers, or WhisperKit (of Whisper, with a `function`)."""
    precision: Annotated[str, Option("of weights and arithmetic", words=PRECISIONS, default="float16", checked=True)]
    target: Annotated[
        str, Option("the oldest system the package runs on", words=TARGETS, default="iOS18", checked=True)
    ]
    lint: Annotated[
        bool, Option("hold the program against the rules of `milbuild lint`; an error stops the build", default=True)
    ]
    """Those rules that hold whatever unit runs it (those of one unit are asked by `milbuild.lint(model, unit)`): an error of
    theirs is an error of the build, warnings are given as one `milbuild.LintWarning`. The report is the model's `lint_report`.
    False is written into the metadata. Weights are not read; `milbuild.lint` reads saved ones."""
    compute_units: Annotated[
        "ct.ComputeUnit | str",
        Option(
            "what Core ML may run the returned model on",
            words=("all", "cpu_only", "cpu_and_gpu", "cpu_and_ne"),
            default="all",
            python=True,
        ),
    ]
    """A `coremltools.ComputeUnit`, or its name. A saved package holds none: whoever loads it chooses. Off macOS the runtime
    predicts, on the CPU."""
    revision: Annotated[str | None, Option("branch, tag or commit of a hub id", "its main branch")]


@cache
def table() -> dict[str, tuple[Any, Option]]:
    """Name -> its type and what is said of it."""
    # coremltools takes long to import, and is a name here only.
    unit = type("ComputeUnit", (), {"__module__": "coremltools"})
    hints = get_type_hints(BuildOptions, globals() | {"ct": SimpleNamespace(ComputeUnit=unit)}, include_extras=True)
    return {name: get_args(hint) for name, hint in hints.items()}


def complete(given: Mapping[str, Any]) -> dict[str, Any]:
    """Every option, by its default where it is not given. Raises `Error` for a word that is none of an option's, TypeError
    for an option that there is not."""
    known = table()
    if unknown := [name for name in given if name not in known]:
        near = get_close_matches(unknown[0], known, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
        raise TypeError(f"build() got an unexpected keyword argument {unknown[0]!r}{hint}")
    values = {name: given.get(name, option.default) for name, (_, option) in known.items()}
    for name, (_, option) in known.items():
        if option.checked and values[name] not in option.words:
            raise Error(f"{name} is {values[name]!r}; it must be one of {', '.join(option.words)}")
    return values


F = TypeVar("F", bound=Callable[..., Any])


def with_options(function: F) -> F:
    """Shows a function of `**options: Unpack[BuildOptions]` with each of them, in its signature and its documentation."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    source, *own, _ = inspect.signature(function).parameters.values()
    said = [inspect.Parameter(name, keyword, default=o.default, annotation=hint) for name, (hint, o) in table().items()]
    shown = inspect.Signature([source, *said, *own])
    lines = "\n".join(f"    {name}: {option.help} (default: {option.usually})" for name, (_, option) in table().items())
    function.__signature__ = shown  # type: ignore[attr-defined]
    function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\nOptions:\n{lines}\n"
    return function
