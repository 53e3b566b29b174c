"""What every model class has: tables, and what the rest of milbuild asks of it, with the usual answer."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, ClassVar

from milbuild.caches import Cache
from milbuild.errors import Error
from milbuild.heads.head import Head
from milbuild.weights import Cursor
from milbuild.weights.fields import Config, looks_backwards


class Family:
    """The graph of a model type. What goes in is the signature of `hidden_states`, or of `encode` where it has an encoder and
    a decoder: the model's inputs by transformers' names, each None where the build leaves it out.

    Methods that take a `config` are asked before there is a graph.
    """

    # Tables
    prefix: str  # of the base model's tensors; files may leave it out
    required_config: ClassVar[Mapping[str, tuple[Any, str]]] = {}  # the only value there is a graph for, and why
    unused_config: tuple[str, ...] = ()  # fields that change nothing here
    ignored_weights: tuple[str, ...] = ()  # patterns of tensors that no task reads
    also: tuple[str, ...] = ()  # fields that transformers' model reads although its class does not have them
    spellings: tuple[tuple[str, str], ...] = ()  # (pattern, replacement): older names of tensors in files
    heads: ClassVar[Mapping[str, Head]]  # by task
    encoder_tasks: tuple[str, ...] = ()  # those that need no decoder

    hidden_states: Callable[..., Any]
    encode: Callable[..., Any] | None = None

    def __init__(self, config: Config, weights: Cursor, cache: Cache) -> None:
        self.config, self.weights, self.cache = config, weights, cache

    @cached_property
    def width(self) -> int:
        """D, the features of a token."""
        return int(self.config.hidden_size)

    @staticmethod
    def longest(config: Config) -> Any:
        """The most tokens of a sequence; with an encoder and a decoder those of each, None for any number."""
        return config.max_position_embeddings

    @staticmethod
    def shortest(config: Config, task: str) -> int:
        """The fewest steps of an input that the task can be computed of, as samples of audio."""
        return 1

    @staticmethod
    def settled(config: Config) -> int | None:
        """The longest sequence up to which nothing but the tokens before it decides on a token; None for any."""
        return None

    @staticmethod
    def bidirectional(config: Config) -> bool:
        """Whether a token sees those after it, and so padding."""
        return not looks_backwards(config)

    # Keys and values that a cache keeps

    @staticmethod
    def num_layers(config: Config) -> int:
        return int(config.num_hidden_layers)

    @staticmethod
    def kv_heads(config: Config) -> int:
        return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)

    @staticmethod
    def head_width(config: Config) -> int:
        return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)

    @classmethod
    def windows(cls, config: Config) -> list[int | None]:
        """How many tokens each layer sees, itself included; None for all: by `layer_types`, else by `sliding_window` alone.
        Raises `Error` for a layer that sees nothing, or of a kind that no graph is written for."""
        window, kinds = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
        if kinds is None:
            kinds = ["full_attention" if window is None else "sliding_attention"] * cls.num_layers(config)
        if strange := sorted({kind for kind in kinds if kind not in ("full_attention", "sliding_attention")}):
            known = "full_attention and sliding_attention"
            raise Error(f"layer_types of config.json has {', '.join(strange)}; the graph is written for {known}")
        if "sliding_attention" in kinds:
            if window is None:
                raise Error(
                    "layer_types of config.json has sliding_attention, and sliding_window says no number of tokens"
                )
            if window < (1 if looks_backwards(config) else 0):
                raise Error(f"sliding_window is {window} in config.json: a token would not even see itself")
        return [window if kind == "sliding_attention" else None for kind in kinds]
