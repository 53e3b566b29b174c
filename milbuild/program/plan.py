"""The plan that a build's options make of a checkpoint.

What a build is asked for, all of it optional, is made whole against the checkpoint's configuration; what does not fit
together is refused here, before anything is built. Imports nothing heavy.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from milbuild import architectures, tasks
from milbuild.errors import BuildWarning, Error
from milbuild.package import TARGETS
from milbuild.program.interfaces import INTERFACES
from milbuild.program.lengths import Length, longest, parse_length, parse_size, spell_length, spell_size
from milbuild.program.options import NO_POOLING, POOLINGS, Output
from milbuild.tasks import TASKS

if TYPE_CHECKING:
    from milbuild.architectures.family import Family
    from milbuild.weights.fields import Config
    from milbuild.weights.sentence_transformers import Recipe

# The input that takes an image as it is, with no processor before it.
IMAGE = "image"
# The input that takes samples where the model itself takes a spectrogram.
AUDIO = "audio"
# The input that says how many tokens of a text are its prompt, where a vector leaves these out.
PROMPT = "prompt_length"
METADATA_KEY = "milbuild.options"
# What a model takes, by its inputs: one kind, or several (an image and a text of it).
KINDS = {"input_ids": "text", "pixel_values": "image", "input_values": "audio", "input_features": "audio"}
# The options that belong to each.
BELONG = {
    "text": {"sequence_length", "attention_mask", "token_type_ids"},
    "image": {"image_size"},
    "audio": {"sequence_length", "attention_mask"},
}
# The sequence_length of audio where nothing is said, and its samples a second where the processor does not say them.
SECONDS, SAMPLING_RATE = 10, 16000
FUNCTIONS = ("encode", "decode")
# Tokens of an answer where neither the build nor the checkpoint says how many.
ANSWER = 512


@dataclass(frozen=True)
class Plan:
    """A build's options, complete and consistent; what a package's metadata holds.

    `image_size` (height, width) is there for images only, `sequence_length` for text (tokens) and audio (samples): of
    an encoder-decoder what the encoder reads, and `context_length` then counts the decoder's tokens.
    """

    task: str
    sequence_length: Length | None
    image_size: tuple[int, int] | None
    batch_size: int
    attention_mask: bool
    token_type_ids: bool
    num_choices: int | None
    cache: str
    context_length: Length | None
    prefill_length: int | None
    function: str | None
    logits: str
    pooling: str | None
    normalize: bool
    postprocess: bool
    inputs: dict[str, str]
    outputs: dict[str, Output | None]
    interface: str
    precision: str
    target: str
    # What a checkpoint's modules.json says of a vector: the modules after the pooling, by their folders, and whether a prompt
    # counts. Packages of earlier versions have neither.
    modules: tuple[str, ...] = ()
    include_prompt: bool = True

    @classmethod
    def make(
        cls,
        config: "Config",
        family: "type[Family]",
        processor: Mapping[str, Any],
        recipe: "Recipe | None" = None,
        **options: Any,
    ) -> "Plan":
        """Fills what was left open from the configuration of a `family`, the checkpoint's `processor` (its
        preprocessor_config.json) and its `recipe` for vectors, if it has one. Raises `Error` for what does not fit together."""
        # With numpy, which a command line that only answers does not load.
        from milbuild.weights.fields import looks_backwards

        entry = architectures.SUPPORTED[config.model_type]
        name = options["task"] or tasks.guess(config, entry.tasks, entry.decoder)
        if recipe is not None and not options["task"]:
            name = recipe.task if recipe.task in entry.tasks else name
        task, with_past = tasks.resolve(name, entry.tasks, config.model_type)
        if recipe is not None and recipe.vectors and task.pooled and "text-encoding" in entry.tasks:
            # Of an encoder and a decoder sentence-transformers loads the encoder alone, if it has a class of its own.
            task = TASKS["text-encoding"]
        options |= {
            "task": task.name,
            "inputs": _renamed_inputs(options["inputs"]),
            "outputs": _changed_outputs(options["outputs"]),
        }
        if options["interface"] is not None:
            _one_of("interface", options["interface"], INTERFACES)
        names = INTERFACES[options["interface"] or "milbuild"]
        if names.tasks and task.name not in names.tasks:
            raise Error(f"the interface {options['interface']} is for {', '.join(names.tasks)}, not {task.name}")
        cache = options["cache"] or ("io" if with_past else next(iter(names.caches)))
        _one_of("cache", cache, tasks.ALL_CACHES)
        if with_past and cache == "none":
            raise Error(
                f"the task {name} asks for a cache, and cache is none",
                f"Use the task {task.name}, or cache io or state.",
            )
        if cache not in tasks.caches(task.name, entry.decoder):
            raise Error(f"{task.name} has no cache: it needs the whole text in one call", "Build it with cache none.")
        backwards = entry.decoder or task.two_functions
        if cache != "none" and not backwards and getattr(config, "is_decoder", True) is False:
            raise Error("a cache is for a model that looks backwards, and config.json says is_decoder: false")
        if cache != "none" and not looks_backwards(config):
            name = "use_bidirectional_attention" if getattr(config, "is_causal", True) else "is_causal"
            said = f"{name}: {json.dumps(getattr(config, name))}"
            raise Error(
                f"a cache is for a model that looks backwards, and config.json says {said}",
                f"Build it with cache none; or take {name} out of config.json.",
            )
        takes = architectures.takes(family)
        options |= {"cache": cache, "interface": options["interface"] or {"io": "hf"}.get(cache, "milbuild")}
        options |= _pooling(options, "input_ids" in takes, recipe)
        names = INTERFACES[options["interface"]]
        if names.packages and options["function"] is None:
            wanted = ", ".join(f"{function} ({package}.mlpackage)" for function, package in names.packages.items())
            raise Error(
                f"{options['interface']} takes a package for each function, and function is none",
                f"Build one for each of {wanted}.",
            )
        if cache not in names.caches:
            having = [other for other, entry in INTERFACES.items() if cache in entry.caches]
            raise Error(
                f"the interface {options['interface']} has no cache {cache}; it has {', '.join(names.caches)}",
                f"Cache {cache}: {', '.join(having)}.",
            )
        whole = names.ranged and cache == "state"
        plan = cls(**options | _of_kinds(options, config, family, takes, processor, whole))
        plan.check()
        return plan

    def check(self) -> None:
        cached = self.cache != "none"
        if type(self.batch_size) is not int or self.batch_size < 1:
            raise Error(f"batch_size is {self.batch_size!r}; it is a whole number from 1")
        if self.pooling is not None and cached:
            raise Error(
                "pooling makes one vector of a whole text: it belongs to feature-extraction without a cache",
                "Leave the cache out, or build the states (pooling none).",
            )
        if self.pooling is not None and self.context_length is not None:
            raise Error("pooling reads a text and its mask in one length; context_length gives the decoder another")
        self._check_halves()
        if self.num_choices is not None and not TASKS[self.task].choices:
            raise Error(f"num_choices belongs to multiple-choice, and the task is {self.task}")
        if self.num_choices is not None and (type(self.num_choices) is not int or self.num_choices < 1):
            raise Error(f"num_choices is {self.num_choices!r}; it is a whole number from 1")
        if cached and self.batch_size > 1:
            raise Error(
                f"a cache holds one sequence, and batch_size is {self.batch_size}",
                "Build with batch size 1, or without a cache.",
            )
        if cached and self.attention_mask and not self.apart:
            hint = "Leave it out: cache io always has one, and with a state `position` says what is filled."
            raise Error("attention_mask is an input of builds without a cache", hint)
        if self.logits == "last" and not TASKS[self.task].generates:
            raise Error(f"logits last belongs to text-generation, and the task is {self.task}")
        if self.cache == "state":
            self._needs("iOS18", "a state")
        if isinstance(self.sequence_length, list) and self.attention_mask:
            self._needs("iOS18", "more than one input with listed lengths")
        if isinstance(self.sequence_length, list) and len(self.sequence_length) > 128:
            raise Error(
                f"{len(self.sequence_length)} lengths are listed; Core ML takes 128 at most", "Use a range: 1:128."
            )
        if self.batch_size > 1 and self.image_size is not None and self.postprocess:
            hint = "Build with batch size 1, or with plain tensors (postprocess=False, --raw)."
            raise Error(f"an image input holds one image, and batch_size is {self.batch_size}", hint)
        if self.prefill_length is not None:
            self._needs("iOS18", "a package with two functions (prefill_length)")
            if not cached:
                raise Error("prefill_length fills a cache, and cache is none", "Add cache state or io.")
            assert self.context_length is not None
            prefill, highest = self.prefill_length, longest(self.context_length)
            if type(prefill) is not int or not 1 <= prefill <= highest:
                raise Error(f"prefill_length is {prefill!r}; it is a whole number from 1 to the context of {highest}")
            if INTERFACES[self.interface].ranged:
                raise Error(
                    f"{self.interface} prefills through its ranged main function; it does not know a second one"
                )
            if not isinstance(self.call, int):
                raise Error(
                    "with prefill_length, main has a fixed sequence_length", "Leave it out to decode one token a call."
                )
        if INTERFACES[self.interface].ranged and cached:
            if self.logits == "last":
                raise Error(f"{self.interface} reads the scores of every token (logits all)")
            length = self.functions()["main"]
            if not isinstance(length, tuple) or length[1] - length[0] < 2:
                hint = "Leave sequence_length out: it is the whole context then."
                raise Error(f"{self.interface} needs a ranged sequence_length, and it is {spell_length(length)}", hint)
        if self.cache == "io" and isinstance(self.context_length, int):
            if not isinstance(self.call, int):
                hint = "Give context_length as a range (1:512) for a past that grows, or a fixed sequence_length."
                raise Error(
                    "a fixed past leaves room for a fixed number of tokens, and sequence_length is not fixed", hint
                )
            if max(self.call, self.prefill_length or 0) >= self.context_length:
                hint = "Core ML has no empty arrays: a fixed past needs at least one slot."
                raise Error(f"context_length {self.context_length} leaves no slot for the past", hint)

    def _needs(self, target: str, what: str, other: str = "") -> None:
        if TARGETS[self.target] < TARGETS[target]:
            hint = f"Build with target {target} or later. {other}".strip()
            raise Error(f"{what} needs {target}, and the target is {self.target}", hint)

    def _check_halves(self) -> None:
        """What holds for an encoder and a decoder as functions of their own."""
        packages = INTERFACES[self.interface].packages
        if packages:
            self._check_packages()
        if self.function is not None:
            _one_of("function", self.function, packages or FUNCTIONS)
            if not self.apart:
                raise Error(f"function chooses between encode and decode, which {self.task} does not have")
            if self.function == "encode" and self.prefill_length is not None:
                raise Error("prefill_length is for the decoder, and function is encode")
        elif self.apart:
            self._needs(
                "iOS18",
                "a package with two functions (encode, decode)",
                "Or build two packages: function encode, function decode.",
            )
        if isinstance(self.sequence_length, list):
            if isinstance(self.context_length, list):
                # Core ML pairs the lists of several inputs by their places: any other combination fails (docs/core-ml.md).
                hint = "List one of them, and give the other as a number."
                raise Error(
                    "sequence_length and context_length are both lists, of which Core ML takes pairs only", hint
                )
            if self.apart and self.function != "encode":
                self._needs("iOS18", "more than one input with listed lengths")
        if self.cross_in_state and isinstance(self.sequence_length, tuple | list):
            hint = "Give one number, which shorter texts are padded to."
            raise Error(f"a state has one size, and sequence_length is {spell_length(self.sequence_length)}", hint)

    def _check_packages(self) -> None:
        """What holds where a consumer wants a package for each function, with names, types and shapes of its own."""
        self._needs("iOS16", f"{self.interface}, which takes and gives float16,")
        if not self.postprocess:
            raise Error(f"{self.interface} fixes what goes in and what comes out: it has no raw tensors")
        if self.batch_size > 1:
            raise Error(f"{self.interface} takes one recording at a time, and batch_size is {self.batch_size}")
        if self.prefill_length is not None:
            raise Error(f"{self.interface} decodes token by token; it has no prefill_length")
        if not isinstance(self.context_length, int):
            assert self.context_length is not None
            raise Error(
                f"{self.interface} has a cache of one size, and context_length is {spell_length(self.context_length)}"
            )

    @property
    def kind(self) -> str:
        """The kind of the cache (caches.KINDS)."""
        return INTERFACES[self.interface].caches[self.cache]

    @property
    def apart(self) -> bool:
        """Whether encoder and decoder are functions of their own: `encode` once for an input, `decode` token by token."""
        return TASKS[self.task].two_functions

    @property
    def cross_in_state(self) -> bool:
        """Whether `encode` leaves the keys and values of cross-attention in a state, which two packages do not share."""
        return self.apart and self.cache == "state" and self.function is None

    @property
    def decoder(self) -> str:
        """The function that goes on with a sequence."""
        return "decode" if self.apart and self.function is None else "main"

    @property
    def call(self) -> Length:
        """The tokens of a call that goes on with a sequence."""
        if not self.apart:
            return 1 if self.sequence_length is None else self.sequence_length
        return 1 if self.cache != "none" else self.context_length or 1

    def functions(self) -> dict[str, Length]:
        """The tokens (samples, for audio) that each function of the package takes; 1 for images.

        A package of one function calls it `main`, as every system knows it.
        """
        source = 1 if self.sequence_length is None else self.sequence_length
        if self.function in ("mel", "encode"):
            return {"main": source}
        found = {"encode": source} if self.apart and self.function is None else {}
        found[self.decoder] = self.call
        return found | ({} if self.prefill_length is None else {"prefill": self.prefill_length})

    def to_package(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Inputs under the names that this package gave them."""
        return {self.inputs.get(name, name): value for name, value in data.items()}

    def input_of(self, name: str) -> str:
        """The name that an input of this package has without renaming."""
        return next((old for old, new in self.inputs.items() if new == name), name)

    def from_package(self, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """Outputs under the names that they have without renaming."""
        names = {change.name: name for name, change in self.outputs.items() if change is not None and change.name}
        return {names.get(name, name): value for name, value in outputs.items()}

    @property
    def vector(self) -> str:
        """How one vector is made of a text, as a sentence's end; nothing where none is."""
        if self.pooling is None:
            return ""
        parts = [self.pooling.replace(",", " and "), *self.modules, *(["of length 1"] if self.normalize else [])]
        return ", then ".join(parts) + ("" if self.include_prompt else "; a prompt counts for nothing")

    @property
    def raw(self) -> bool:
        """Whether the package gives transformers' outputs as they are."""
        return not self.postprocess or any(
            change is not None and not change.softmax for change in self.outputs.values()
        )

    def as_json(self) -> str:
        lengths: dict[str, Any] = {
            name: None if (value := getattr(self, name)) is None else spell_length(value)
            for name in ("sequence_length", "context_length")
        }
        size = None if self.image_size is None else spell_size(self.image_size)
        changes = {name: None if change is None else vars(change) for name, change in self.outputs.items()}
        return json.dumps(vars(self) | lengths | {"image_size": size, "outputs": changes}, sort_keys=True)

    @classmethod
    def of(cls, package: str, metadata: Mapping[str, str]) -> "Plan":
        """The plan that a saved package was built by. Raises `Error` for one that milbuild did not build."""
        if METADATA_KEY not in metadata:
            hint = "Its metadata would say how it was built; build it with milbuild."
            raise Error(f"{package} was not built by milbuild", hint)
        try:
            values = json.loads(metadata[METADATA_KEY])
            for name in ("sequence_length", "context_length"):
                values[name] = None if values[name] is None else parse_length(values[name], name)
            values["image_size"] = None if values["image_size"] is None else parse_size(values["image_size"])
            values["modules"] = tuple(values.get("modules", ()))
            values["outputs"] = {
                name: None if change is None else Output(**change) for name, change in values["outputs"].items()
            }
            return cls(**values)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise Error(
                f"{package}: its metadata does not say how it was built ({METADATA_KEY})", "Build it again."
            ) from error


def parse_pooling(value: Any) -> tuple[str, ...]:
    """The modes of "mean" or "cls,mean". Raises `Error`."""
    modes = tuple(value.split(",")) if isinstance(value, str) else ()
    if not modes or any(mode not in POOLINGS for mode in modes):
        known = f"{', '.join(POOLINGS)}, several joined by commas, or {NO_POOLING}"
        raise Error(f"pooling is {value!r}; it must be {known}")
    return modes


def _pooling(options: Mapping[str, Any], of_text: bool, recipe: "Recipe | None") -> dict[str, Any]:
    """The options that say whether and how one vector is made of the tokens' states: as was asked for, else as modules.json
    says. What contradicts it is warned of, since vectors of two recipes cannot be compared."""
    asked, normalize = options["pooling"], options["normalize"]
    belongs = TASKS[options["task"]].pooled and of_text
    states = {"pooling": None, "normalize": False, "modules": (), "include_prompt": True}
    if asked not in (None, NO_POOLING):
        asked = ",".join(parse_pooling(asked))
        if not belongs:
            raise Error("pooling makes one vector of a whole text: it belongs to feature-extraction without a cache")
    says = recipe if belongs and recipe is not None and recipe.vectors and asked != NO_POOLING else None
    if says is not None and asked is None and options["cache"] != "none":
        says = None  # token by token, there is no whole text
    if asked in (None, NO_POOLING) and says is None:
        if normalize is not None and normalize:
            hint = f"Choose one of {', '.join(POOLINGS)}."
            raise Error("normalize belongs to pooling, and pooling is none", hint)
        return states
    if says is None or says.problem is not None:
        if says is not None and asked is None:
            assert says.problem is not None
            raise says.problem
        return states | {"pooling": asked, "normalize": bool(normalize)}
    said = ",".join(says.poolings)
    if asked is not None and asked != said:
        _warn(
            f"pooling is {asked}, and modules.json says {said}: its vectors are others than those of sentence-transformers"
        )
    if normalize is not None and normalize != says.normalize:
        ends = "a Normalize at the end" if says.normalize else "no Normalize at the end"
        _warn(f"normalize is {normalize}, and modules.json has {ends}")
    return {
        "pooling": said if asked is None else asked,
        "normalize": says.normalize if normalize is None else normalize,
        "modules": tuple(step.path for step in says.steps),
        "include_prompt": says.include_prompt,
    }


def _warn(text: str) -> None:
    warnings.warn(text, BuildWarning, stacklevel=5)  # at the call of build


def _of_kinds(
    options: Mapping[str, Any],
    config: "Config",
    family: "type[Family]",
    takes: tuple[str, ...],
    processor: Mapping[str, Any],
    whole: bool,
) -> dict[str, Any]:
    """The options that depend on what a model takes, filled. Raises `Error` for those that belong to another kind."""
    kinds = [KINDS[name] for name in takes if name in KINDS]
    given = {name for options_ in BELONG.values() for name in options_ if options[name]}
    allowed = set().union(*(BELONG[kind] for kind in kinds)) - ({"token_type_ids"} - set(takes))
    if strange := sorted(given - allowed):
        raise Error(f"{config.model_type} takes {' and '.join(kinds)}: it has no option {', '.join(strange)}")
    found: dict[str, Any] = {}
    if "image" in kinds:
        found["image_size"] = _image_size(options["image_size"], config, processor)
    if kinds == ["image"]:
        return found | {"attention_mask": False, "token_type_ids": False}
    if family.encode is not None:
        if whole:
            raise Error(f"{options['interface']} has no encoder beside its decoder", "Choose milbuild or hf.")
        found |= _answer(options, family, "text" in kinds, family.longest(config), _limiting(config))
    elif options["function"] is not None:
        raise Error(f"function chooses between encode and decode, and {config.model_type} is one whole")
    elif "text" in kinds:
        found |= _context(options, whole, family.longest(config), config.spelled("max_position_embeddings"))
        _check_settled({**options, **found}, family.settled(config))
    mask = options["attention_mask"]
    if "input_values" in takes:
        found["sequence_length"] = _samples(options, family.shortest(config, options["task"]), processor)
        if mask is None:
            # Whether a checkpoint was trained with a mask or with zeros after the audio, its processor says.
            mask = bool(processor.get("return_attention_mask", False))
    if "input_features" in takes:
        found["sequence_length"] = _window(options, config, family, processor)
    if mask is None:
        # A model that looks both ways would attend to padding; one that looks backwards never reaches it.
        # A pooling of either must be told where a text ends.
        marked = family.bidirectional(config) or options["pooling"] is not None
        mask = marked and (options["cache"] == "none" or TASKS[options["task"]].two_functions)
    if TASKS[options["task"]].choices and options["num_choices"] is None:
        found["num_choices"] = config.num_labels
    if options["token_type_ids"] is None:
        found["token_type_ids"] = "token_type_ids" in takes and TASKS[options["task"]].pairs
    return found | {"attention_mask": mask}


def _image_size(given: Any, config: "Config", processor: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width): what was asked for, else what the processor makes of images, else the configuration's."""
    if given is not None:
        return parse_size(given)
    found = processor.get("crop_size") if processor.get("do_center_crop") else None
    found = processor.get("size") if found is None else found
    if isinstance(found, dict):
        both = [found.get(side, found.get("shortest_edge")) for side in ("height", "width")]
        found = None if None in both else both
    found = getattr(config, "image_size", None) if found is None else found
    if found is None:
        raise Error(
            "neither the checkpoint's processor nor its configuration says an image_size", "Give it: image_size=224."
        )
    return parse_size(list(found) if isinstance(found, list | tuple) else found)


def _renamed_inputs(given: Any) -> dict[str, str]:
    if not isinstance(given := given or {}, Mapping) or not all(_is_name(new) for new in given.values()):
        raise Error(f"inputs is {given!r}", "It maps names of inputs to new ones: {'input_ids': 'tokens'}.")
    return dict(given)


def _changed_outputs(given: Any) -> dict[str, Output | None]:
    """Outputs to change: a name, an `Output`, or None for one that is left out."""
    if not isinstance(given := given or {}, Mapping):
        raise Error(f"outputs is {given!r}", "It maps names of outputs to new ones: {'logits': 'scores'}.")
    changes = {name: Output(change) if isinstance(change, str) else change for name, change in given.items()}
    for name, change in changes.items():
        if change is not None and not (isinstance(change, Output) and (change.name is None or _is_name(change.name))):
            hint = "It is a new name of letters, digits and underscores, an Output, or None to leave it out."
            raise Error(f"outputs has {given[name]!r} for {name}", hint)
    return changes


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.isidentifier()


def _context(options: Mapping[str, Any], whole: bool, limit: int, name: str) -> dict[str, Any]:
    """Sequence and context length. Raises `Error` where they or the prefill length do not go together, or beyond the
    checkpoint's own `limit`, which the field `name` of config.json sets."""
    if limit < 1:
        raise Error(f"{name} of config.json gives the model {limit} positions; a sequence has at least 1 token")
    given = options["context_length"]
    if options["cache"] == "none":
        if given is not None:
            raise Error(
                "context_length belongs to a cache, and cache is none", "sequence_length is what one call takes."
            )
        context: Length = limit
    else:
        context = _cached_context(limit if given is None else given, options["cache"])
    highest = longest(context)
    if highest > limit:
        hint = "It has no position embeddings beyond that."
        raise Error(f"context_length is {highest}, the checkpoint's context ends at {limit} tokens ({name})", hint)
    length = options["sequence_length"]
    if length is None:
        length = (1, highest) if whole else min(128, limit) if options["cache"] == "none" else 1
    length = parse_length(length, "sequence_length")
    if longest(length) > highest:
        known = (
            f"the checkpoint's context ends at {limit} tokens ({name})"
            if highest == limit
            else f"context_length is {highest}"
        )
        raise Error(f"sequence_length goes to {longest(length)}, {known}")
    return {"sequence_length": length, "context_length": None if options["cache"] == "none" else context}


def _cached_context(given: Any, cache: str) -> Length:
    """The context_length of a cache: one number, or a range where its past can grow."""
    context = parse_length(given, "context_length")
    if isinstance(context, list) or (isinstance(context, tuple) and cache != "io"):
        hint = "A range is for cache io, whose past can grow." if isinstance(context, tuple) else None
        raise Error(f"context_length is {spell_length(context)}; it is one number", hint)
    return context


def _check_settled(options: Mapping[str, Any], settled: int | None) -> None:
    """Positions that depend on how long a sequence is, beyond `settled` tokens, where a state's call could be padded: nothing
    tells its tokens from padding, which would count."""
    context, calls = options["context_length"], (options["sequence_length"], options["prefill_length"] or 1)
    full = all(call == 1 or (isinstance(call, tuple) and call[0] == 1) for call in calls)
    if options["cache"] == "state" and settled is not None and longest(context) > settled and not full:
        raise Error(
            f"beyond {settled} tokens the rope of this checkpoint turns all tokens of a call by the sequence's length, and "
            "a call of several tokens into a state may end in padding",
            f"Use cache io, whose mask marks padding, a context_length of {settled} or less, or one token a call.",
        )


def _limiting(config: "Config") -> tuple[str, str]:
    """The fields that limit what an encoder reads and what its decoder answers."""
    own = ("max_source_positions", "max_target_positions")
    return own if hasattr(config, own[0]) else ("max_position_embeddings", "max_position_embeddings")


def _answer(
    options: Mapping[str, Any],
    family: "type[Family]",
    of_text: bool,
    limits: tuple[int | None, int | None],
    names: tuple[str, str],
) -> dict[str, Any]:
    """Lengths of an encoder-decoder: the tokens that it reads and those of its answer, each with the checkpoint's limit
    if it has one, which the field of that name sets."""
    found: dict[str, Any] = {}
    source, answer = limits
    task, cached = options["task"], options["cache"] != "none"
    if of_text:
        length = options["sequence_length"]
        length = min(128, source or 128) if length is None else length
        found["sequence_length"] = length = parse_length(length, "sequence_length")
        if source is not None and longest(length) > source:
            ends = f"the checkpoint's context ends at {source} tokens ({names[0]})"
            raise Error(f"sequence_length goes to {longest(length)}, {ends}")
    context = options["context_length"]
    if not TASKS[task].two_functions and (task != "feature-extraction" or "feature-extraction" in family.encoder_tasks):
        if context is not None:
            raise Error(f"context_length counts the tokens of an answer, and {task} gives none")
        return found
    if context is None:
        most = answer or ANSWER
        context = min(most, INTERFACES[options["interface"]].context or most) if cached else min(128, answer or 128)
    context = _cached_context(context, options["cache"]) if cached else parse_length(context, "context_length")
    if answer is not None and longest(context) > answer:
        ends = f"the checkpoint's answers end at {answer} tokens ({names[1]})"
        raise Error(f"context_length is {longest(context)}, {ends}")
    return found | {"context_length": context}


def _samples(options: Mapping[str, Any], needed: int, processor: Mapping[str, Any]) -> Length:
    """The samples of audio, of which the task needs so many."""
    length = options["sequence_length"]
    length = parse_length(SECONDS * sampling_rate(processor) if length is None else length, "sequence_length")
    shortest = length if isinstance(length, int) else min(length)
    if shortest < needed:
        hint = "sequence_length counts the samples of a call, 16000 a second."
        raise Error(f"sequence_length is {spell_length(length)}; {options['task']} needs {needed} samples", hint)
    return length


def _window(options: Mapping[str, Any], config: "Config", family: "type[Family]", processor: Mapping[str, Any]) -> int:
    """The samples of audio that is taken as a spectrogram, against the frames that the encoder has places for."""
    hop, (frames, _) = hop_length(processor), family.longest(config)
    length = parse_length(
        frames * hop if options["sequence_length"] is None else options["sequence_length"], "sequence_length"
    )
    if not isinstance(length, int) or length % (2 * hop) or length > frames * hop:
        hint = (
            f"Write a multiple of {2 * hop}, which make one state of the encoder; {frames * hop} is the longest window "
            f"({_limiting(config)[0]})."
        )
        raise Error(f"sequence_length is {spell_length(length)}; a window has one number of samples", hint)
    if options["attention_mask"]:
        raise Error(f"{config.model_type} takes the end of audio for silence; it has no attention_mask")
    if not options["postprocess"] or (options["function"] != "mel" and INTERFACES[options["interface"]].packages):
        return length
    if not processor:
        hint = "Add the checkpoint's preprocessor_config.json, or build with plain input_features (postprocess=False, --raw)."
        raise Error("the checkpoint has no feature extractor that says how its spectrogram is made", hint)
    if processor.get("feature_size") != config.num_mel_bins:
        what = f"feature_size: {processor.get('feature_size')!r}, and config.json num_mel_bins: {config.num_mel_bins}"
        raise Error(f"the checkpoint's feature extractor has {what}", "They are the bands of one spectrogram.")
    return length


def hop_length(processor: Mapping[str, Any]) -> int:
    """Samples from one frame of a spectrogram to the next; WhisperFeatureExtractor's own where nothing is said."""
    hop = processor.get("hop_length", 160)
    if type(hop) is not int or hop < 1:
        raise Error(f"preprocessor_config.json has hop_length: {hop!r}; it is a whole number of samples")
    return hop


def sampling_rate(processor: Mapping[str, Any]) -> Any:
    """Samples a second."""
    return processor.get("sampling_rate", SAMPLING_RATE)


def _one_of(option: str, value: Any, known: Any) -> None:
    if value not in known:
        raise Error(f"{option} is {value!r}; it must be one of {', '.join(known)}")
