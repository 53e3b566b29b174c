"""Names and shapes that consumers of packages expect."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Interface:
    """A consumer's names for what every family has, and the caches it knows, each with its kind (caches.KINDS), first the one it
    is built with by default.

    `ranged`: the consumer prefills and decodes through one function of ranged length, and `position` is its causal mask.
    `packages`: it wants a package for each function, under such a name, and is for `tasks` only; their sequences end at
    `context` tokens.
    """

    caches: Mapping[str, str]
    input_ids: str = "input_ids"
    attention_mask: str = "attention_mask"
    position: str = "position"
    key: str = "key_cache"
    value: str = "value_cache"
    past: str = ""
    present: str = ""
    ranged: bool = False
    decoder_input_ids: str = "decoder_input_ids"
    input_features: str = "input_features"
    encoder_last_hidden_state: str = "encoder_last_hidden_state"
    packages: Mapping[str, str] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    context: int | None = None


INTERFACES = {
    "milbuild": Interface({"none": "none", "state": "state"}),
    # huggingface/exporters
    "hf": Interface(
        {"none": "none", "io": "io"},
        past="past_key_values_{layer}_{kind}",
        present="present_key_values_{layer}_{kind}",
    ),
    # huggingface/swift-transformers, Sources/Models/LanguageModel.swift
    "swift-transformers": Interface(
        {"none": "none", "state": "ranged"},
        "inputIds",
        "attentionMask",
        "causalMask",
        "keyCache",
        "valueCache",
        ranged=True,
    ),
    # argmaxinc/WhisperKit, Sources/WhisperKit/Core; what has no name elsewhere, and all shapes, are in whisperkit.py
    "whisperkit": Interface(
        {"io": "slots"},
        position="cache_length",
        past="{kind}_cache",
        present="{kind}_cache_updates",
        decoder_input_ids="input_ids",
        input_features="melspectrogram_features",
        encoder_last_hidden_state="encoder_output_embeds",
        packages={"mel": "MelSpectrogram", "encode": "AudioEncoder", "decode": "TextDecoder"},
        tasks=("speech-seq2seq",),
        context=224,  # Constants.maxTokenContext of Core/Models.swift
    ),
}
