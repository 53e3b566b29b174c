"""What programs that use packages by names expect; the names in a package show which program it is for."""

import json
import re
from collections.abc import Iterator

from milbuild.linting.rules import ERROR, WARNING, Subject, rule
from milbuild.package.graph import Graph, Place, array_of, listed, ranges
from milbuild.package.reader import type_name

Found = Iterator[tuple[Place, str]]

SWIFT = "huggingface/swift-transformers, Sources/Models/LanguageModel.swift"
EXPORTERS, TASK = "co.huggingface.exporters.name", "co.huggingface.exporters.task"


def swift(subject: Subject) -> Graph | None:
    """The function that swift-transformers would call, if the package is for it: it generates text, and does nothing else."""
    if renamed(subject) or subject.metadata.get(TASK, "text-generation") not in ("text-generation", "causal-lm"):
        return None
    graph = subject.by_name.get(subject.package.default_function)
    named = graph is not None and any(feature.name == "inputIds" for feature in graph.description.input)
    return graph if named else None


def renamed(subject: Subject) -> bool:
    """Whether milbuild was asked for other names: they are then the user's own, and no consumer's."""
    try:
        asked = json.loads(subject.metadata.get("milbuild.options", "{}"))
    except ValueError:
        return False
    return isinstance(asked, dict) and bool(asked.get("inputs") or asked.get("outputs"))


@rule(
    "swift-transformers-inputs",
    ERROR,
    "For swift-transformers `inputIds` is int32, (1, tokens); with states it is ranged, or the app crashes (fatalError).",
    fix="Build with the interface swift-transformers, which ranges it: ct.RangeDim(1, 2048).",
    source=SWIFT,
    targets="iOS18 and later",
)
def swift_transformers_inputs(subject: Subject) -> Found:
    graph = swift(subject)
    if graph is None:
        return
    ids = next(feature for feature in graph.description.input if feature.name == "inputIds")
    array = array_of(ids)
    if array is None or type_name(array) != "INT32" or len(array.shape) != 2 or array.shape[0] != 1:
        yield graph.here("inputIds"), "inputIds is not int32 (1, tokens)"
        return
    if graph.description.state:
        bounds = ranges(ids)
        low, high = bounds[1] if bounds is not None and len(bounds) == 2 else (0, 0)
        if high - low <= 1:
            kind = (
                "lists its shapes" if listed(ids) else "is fixed" if bounds is None else f"ranges from {low} to {high}"
            )
            yield graph.here("inputIds"), f"inputIds {kind}, and the package has a state"


@rule(
    "swift-transformers-cache",
    ERROR,
    "For swift-transformers keys and values are two states, keyCache and valueCache, or none; never inputs.",
    fix="Build with the cache state and the interface swift-transformers.",
    source=SWIFT,
    targets="iOS18 and later",
)
def swift_transformers_cache(subject: Subject) -> Found:
    graph = swift(subject)
    if graph is None:
        return
    there = {feature.name for feature in graph.description.state}
    if there and there != {"keyCache", "valueCache"}:
        yield graph.here(), f"its states are {', '.join(sorted(there))}"
    for feature in graph.description.input:
        if feature.name in ("keyCache", "valueCache"):
            yield graph.here(feature.name), f"{feature.name} is an input"


@rule(
    "swift-transformers-logits",
    ERROR,
    "For swift-transformers `logits` is an output (1, tokens, vocabulary): it reads the row of the last token.",
    fix="Return the scores of every token.",
    source=SWIFT,
)
def swift_transformers_logits(subject: Subject) -> Found:
    graph = swift(subject)
    if graph is None:
        return
    if "logits" not in {feature.name for feature in graph.description.output}:
        yield graph.here(), f"its outputs are {', '.join(feature.name for feature in graph.description.output)}"
        return
    value = graph.values.get("logits")
    if value is not None and value.shape is not None and len(value.shape) != 3:
        yield graph.here("logits"), f"logits has {len(value.shape)} axes"


@rule(
    "swift-transformers-tokenizer",
    WARNING,
    f"For swift-transformers the metadata {EXPORTERS} names the tokenizer's repository; without it the file's name is used.",
    fix=f"Write {EXPORTERS} into the user-defined metadata.",
    source=SWIFT,
)
def swift_transformers_tokenizer(subject: Subject) -> Found:
    if swift(subject) is not None and not subject.metadata.get(EXPORTERS):
        yield Place(), f"the metadata has no {EXPORTERS}"


@rule(
    "exporters-cache",
    ERROR,
    "For users of huggingface/exporters every past_key_values_<i>_key has its _value, and its present_key_values or present "
    "among the outputs.",
    fix="Name them past_key_values_0_key, past_key_values_0_value and present_key_values_0_key, present_key_values_0_value.",
    source="huggingface/exporters config.py",
)
def exporters_cache(subject: Subject) -> Found:
    if renamed(subject):
        return
    for graph in subject.graphs:
        inputs = {feature.name for feature in graph.description.input}
        outputs = {feature.name for feature in graph.description.output}
        for name in sorted(inputs):
            match = re.fullmatch(r"past_key_values_(\d+)_(key|value)", name)
            if match is None:
                continue
            other = {"key": "value", "value": "key"}[match[2]]
            if f"past_key_values_{match[1]}_{other}" not in inputs:
                yield graph.here(name), f"{name} has no {other}"
            wanted = {f"{stem}_{match[1]}_{match[2]}" for stem in ("present_key_values", "present")}
            if not wanted & outputs:
                yield graph.here(name), f"no output updates {name}"


@rule(
    "exporters-ids",
    ERROR,
    "Token ids and masks of text (input_ids, attention_mask, token_type_ids) are int32.",
    fix="Declare them int32.",
    source="huggingface/exporters config.py; argmaxinc/WhisperKit; Anemll",
)
def exporters_ids(subject: Subject) -> Found:
    for graph, feature in subject.features("input"):
        array = array_of(feature)
        names = ("input_ids", "attention_mask", "token_type_ids", "decoder_input_ids")
        if feature.name in names and array is not None and type_name(array) != "INT32":
            yield graph.here(feature.name), f"{feature.name} is {type_name(array).lower()}"


# Names of WhisperKit's decoder -> axes; it reads sizes from them.
WHISPERKIT = {
    "input_ids": 1,
    "cache_length": 1,
    "key_cache": 4,
    "value_cache": 4,
    "kv_cache_update_mask": 2,
    "encoder_output_embeds": 4,
    "decoder_key_padding_mask": 2,
}
WHISPERKIT_OUTPUTS = {"logits": 3, "key_cache_updates": 4, "value_cache_updates": 4}


@rule(
    "whisperkit-decoder",
    ERROR,
    "WhisperKit's TextDecoder has its seven inputs and three outputs, of its ranks: it reads the sizes of the model from them.",
    fix="Name and shape them as argmaxinc/whisperkittools does.",
    source="argmaxinc/WhisperKit, TextDecoder.swift",
)
def whisperkit_decoder(subject: Subject) -> Found:
    if renamed(subject):
        return
    for graph in subject.graphs:
        inputs = {feature.name: feature for feature in graph.description.input}
        if "kv_cache_update_mask" not in inputs:
            continue
        outputs = {feature.name: feature for feature in graph.description.output}
        for wanted, there, kind in ((WHISPERKIT, inputs, "input"), (WHISPERKIT_OUTPUTS, outputs, "output")):
            for name, axes in wanted.items():
                value = graph.values.get(name)
                if name not in there:
                    yield graph.here(name), f"there is no {kind} {name}"
                elif value is not None and value.shape is not None and len(value.shape) != axes:
                    yield graph.here(name), f"the {kind} {name} has {len(value.shape)} axes, not {axes}"


@rule(
    "anemll-part",
    ERROR,
    "A part of an Anemll model has the inputs that its runner binds: hidden_states, position_ids, causal_mask, current_pos "
    "of a chunk, hidden_states of a head.",
    fix="Name them as anemll's converter does.",
    source="Anemll/Anemll 0.3.4",
)
def anemll_part(subject: Subject) -> Found:
    if not any(key.startswith("com.anemll.") for key in subject.metadata):
        return
    for graph in subject.graphs:
        inputs = {feature.name for feature in graph.description.input}
        outputs = {feature.name for feature in graph.description.output}
        if "output_hidden_states" in outputs:
            missing = {"hidden_states", "position_ids", "causal_mask", "current_pos"} - inputs
        elif any(re.fullmatch(r"logits\d+", name) for name in outputs):
            missing = {"hidden_states"} - inputs
        else:
            continue
        if missing:
            yield graph.here(), f"it has no input {', '.join(sorted(missing))}"
