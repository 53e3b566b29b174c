"""Which fields of a config.json count: those of its configuration class, and the few that transformers reads beside them.

transformers keeps whatever a config.json holds as an attribute, and its own models look at the attributes that their classes
declare; leftovers of a renamed checkpoint change nothing there. But some of its code serves all models and asks any
configuration (`getattr(config, "is_causal", True)`). SHARED says of each such field what becomes of it here; a test reads the
installed transformers and fails when it asks for one that is not in the table.
"""

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from milbuild.errors import Error

HONOURED = "honoured"  # as transformers does, in every family
FOLDED = "folded"  # transformers' class makes other fields of it when it reads config.json
REFUSED = "refused"  # where it is set
CACHED = "cached"  # read by transformers' cache alone: without effect in a build that has none, refused in one that has
NOTHING = "nothing"  # in a graph: training, other features, or sizes that a class which has a use for them declares


class Shared(NamedTuple):
    effect: str
    why: str


_TRAINING = "attention_dropout classifier_dropout hidden_dropout initializer_factor initializer_range init_std"
_SEVERAL = """chain_hidden_post_norm first_k_dense_replace logits_mup_width_multiplier mlp_layer_types mtp_hidden_states_first
mtp_layer_types mtp_mlp_layer_types mtp_per_layer_config num_mtp_layers unpadded_vocab_size"""
_ELSEWHERE = """_rope_type_labels distributed_config encoder gradient_checkpointing number_of_conv_states qk_head_dim
sep_token_id"""
_DECLARED = """bos_token_id embed_dim eos_token_id head_dim hidden_size max_position_embeddings num_attention_heads num_heads
num_hidden_layers num_key_value_heads pad_token_id rms_norm_eps tie_word_embeddings vocab_size"""


def _alike(names: str, effect: str, why: str) -> dict[str, Shared]:
    return dict.fromkeys(names.split(), Shared(effect, why))


SHARED = {
    "is_causal": Shared(HONOURED, "false lets a decoder look both ways (masking_utils)"),
    "token_classification_bias": Shared(HONOURED, "of the generic head for tokens (modeling_layers)"),
    **_alike(
        "rope_parameters rope_theta partial_rotary_factor original_max_position_embeddings",
        FOLDED,
        "into rope_parameters, by classes that have them (modeling_rope_utils)",
    ),
    "per_layer_config": Shared(REFUSED, "layers that differ from each other"),
    "quantization_config": Shared(REFUSED, "weights that are no plain numbers"),
    "transformers_weights": Shared(REFUSED, "another file of weights"),
    "fusion_config": Shared(REFUSED, "other modules in the place of the model's own"),
    **_alike(
        "sliding_window layer_types attention_chunk_size kv_sharing_modes",
        CACHED,
        "transformers' cache forgets tokens by them (cache_utils)",
    ),
    **_alike(_TRAINING, NOTHING, "training"),
    **_alike(_SEVERAL, NOTHING, "layers that guess several tokens at once"),
    **_alike(_ELSEWHERE, NOTHING, "other devices, other kinds of layers, warnings"),
    **_alike(_DECLARED, NOTHING, "sizes and tokens, which classes that have them declare"),
}

# What tools write into config.json for each other and for people. Not worth a word in the summary of a build.
BOOKKEEPING = frozenset(
    """_attn_implementation _attn_implementation_autoset _commit_hash _name_or_path architectures auto_map custom_pipelines
    dtype feature_extractor_type finetuning_task gradient_checkpointing image_processor_type license model_type name_or_path
    onnx_export output_attentions prefix processor_class quantization revision sentence_transformers
    tags task_specific_params tie_encoder_decoder tokenizer_class torch_dtype torchscript transformers.js_config
    transformers_version unsloth_fixed unsloth_version use_bfloat16 use_cache use_return_dict""".split()
)
# Fields of older versions whose usual value says nothing.
USUAL = {"position_embedding_type": "absolute"}


class Config:
    """transformers' configuration object as its own models see it, with a record of the fields that were read (`read`), by
    their own names: it has the fields of its class, those that the family's `also` names because transformers' model reads
    them beside the class, and those of SHARED that are honoured. For others it is as if config.json did not have them."""

    def __init__(self, config: Any, also: tuple[str, ...] = ()) -> None:
        kind = type(config)
        self._config = config
        self.class_name = kind.__name__
        self._declared = (
            {field.name for field in dataclasses.fields(kind)} | set(vars(kind())) | set(kind.attribute_map)
        )
        self._known = self._declared | set(also) | {name for name, (effect, _) in SHARED.items() if effect == HONOURED}
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        if name not in self._known and not hasattr(type(self._config), name):
            raise AttributeError(name)
        value = getattr(self._config, name)
        self.read.add(type(self._config).attribute_map.get(name, name))
        return value

    def knows(self, name: str) -> bool:
        """Whether transformers has a class of this name for models of this type. Reads their source, which imports nothing."""
        file = Path(inspect.getfile(type(self._config)))
        file = file.with_name(file.name.replace("configuration_", "modeling_"))
        return re.search(rf"^class {re.escape(name)}\b", file.read_text("utf-8"), re.MULTILINE) is not None

    def unusual(self) -> list[str]:
        """Those fields that were read, with their values, whose value no model of this type has by default: 0, 1, less, nothing,
        or of another kind than the class's own."""
        return [
            f"{name}: {value!r}"
            for name, value, usual in self._values()
            if not value or type(value) is not type(usual) or (isinstance(value, int | float) and value <= 1)
        ]

    def impossible(self) -> dict[str, str]:
        """Those fields that were read, by their names, that are no number above 0, and one in the class."""
        return {
            name: f"{name}: {value!r}"
            for name, value, usual in self._values()
            if isinstance(value, int | float) and type(usual) in (int, float) and value <= 0 < usual
        }

    def _values(self) -> Iterator[tuple[str, Any, Any]]:
        """The fields that were read and that differ from the class's own: name, value, the class's value."""
        usual, found = type(self._config)(), self._config.to_dict()
        for name in sorted(self.read & found.keys()):
            if found[name] != getattr(usual, name, None):
                yield name, found[name], getattr(usual, name, None)

    def spelled(self, name: str) -> str:
        """A field as config.json spells it, by its common name: of GPT-2 n_positions for max_position_embeddings."""
        return str(type(self._config).attribute_map.get(name, name))

    def unread(self, written: Mapping[str, Any]) -> tuple[str, ...]:
        """Fields that a config.json has `written` and that no model of its type reads, in transformers or here; without
        those that say nothing: bookkeeping, and nulls."""
        kept = vars(self._config)  # transformers takes fields away that it has understood otherwise
        return tuple(
            sorted(
                name
                for name, value in written.items()
                if name in kept
                and name not in self._known | BOOKKEEPING
                and SHARED.get(name, Shared(NOTHING, "")).effect != FOLDED
                and value not in (None, {}, [], USUAL.get(name))
            )
        )

    def foreign(self, name: str, written: Mapping[str, Any]) -> Any:
        """The value of a field that config.json has and the class has not; None if it has none."""
        return None if name in self._declared else written.get(name)


def check(config: Config, written: Mapping[str, Any], name: str) -> None:
    """Raises `Error` for fields of the config.json of `name` that transformers' shared code reads and no graph honours."""
    for field, (effect, why) in SHARED.items():
        if effect == REFUSED and written.get(field):
            raise Error(f"{name} has {field}: {written[field]!r} in config.json, which no graph is written for: {why}")


def check_cache(config: Config, written: Mapping[str, Any], name: str, context: int | None) -> None:
    """Raises `Error` for fields of which transformers' models know nothing and by which its cache forgets tokens within a
    `context`: what it generates with a cache is then not what its model computes without one."""
    fields = {field: config.foreign(field, written) for field, (effect, _) in SHARED.items() if effect == CACHED}
    kinds = fields.pop("layer_types")
    if isinstance(kinds, list) and hasattr(config, "sliding_window"):
        kinds = None  # the layers' windows are those of the class's own sliding_window
    forgetting = {
        **{field: value for field, value in fields.items() if value is not None and not _beyond(value, context)},
        **({"layer_types": kinds} if kinds is not None and set(kinds) != {"full_attention"} else {}),
    }
    if kinds is not None and "layer_types" not in forgetting:
        forgetting.pop("sliding_window", None)
    for field, value in forgetting.items():
        raise Error(
            f"{name} has {field}: {value!r} in config.json, which a {config.model_type} does not have; transformers' model "
            "ignores it, its cache forgets tokens by it",
            "Build it without a cache, or take the field out of config.json if it is a leftover.",
        )


def _beyond(value: Any, context: int | None) -> bool:
    """Whether so many tokens are more than a sequence has."""
    return isinstance(value, int) and context is not None and value >= context


def looks_backwards(config: Any) -> bool:
    """Whether a decoder does: `is_causal`, which transformers' masks read of every configuration, may say otherwise, and
    Gemma 3's own use_bidirectional_attention."""
    return bool(getattr(config, "is_causal", True)) and not getattr(config, "use_bidirectional_attention", False)
