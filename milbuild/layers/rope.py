"""Rotary position embeddings: every rope_type of transformers (modeling_rope_utils.py), and their application.

Angles are computed in float64. Those of "dynamic" and "longrope" depend on how long a sequence is at the end of a call, its
past included, once it is longer than the context of the training: constants where a call has one length, else worked out
in the graph from the call's positions. Keys in a cache stay as their own call has rotated them, as transformers' do.
"""

import math
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var

from milbuild.errors import Error
from milbuild.layers.attention import Positions
from milbuild.layers.layout import layer
from milbuild.weights import Cursor
from milbuild.weights.fields import Config

Rotation = tuple[Var | np.ndarray, Var | np.ndarray]  # cosines and signed sines (T, E), or (B, 1, T, E)


def rotation(
    parameters: dict[str, Any], config: Config, positions: Positions, longest: int, w: Cursor, width: int | None = None
) -> Rotation:
    """What `rotate` takes: cosines and sines at `positions`, (T,) or (B, T), each below `longest`; of `width` features of a
    head only, what `rotate_part` takes.

    The sines of the first half of the features are negative: what they multiply are the features of the other half.
    """
    trained = settled(parameters, config)
    if isinstance(positions, Var) and trained is not None and trained < longest:
        by_length = _stretched if parameters["rope_type"] == "dynamic" else _switched
        return by_length(parameters, config, positions, trained, longest, w, width)
    frequencies, factor = inverse_frequencies(parameters, config, longest, width)
    known = positions if isinstance(positions, np.ndarray) else np.arange(longest)
    tables = _tables(known, frequencies, factor, w)
    return tables if isinstance(positions, np.ndarray) else _looked_up(tables, positions, w)


def ropes(config: Config) -> list[dict[str, Any]]:
    """The rope_parameters of a configuration: one dictionary, or one for each kind of layer."""
    parameters = config.rope_parameters
    kinds = [p for p in parameters.values() if isinstance(p, dict)]
    return kinds or [parameters]


def rotated_width(parameters: dict[str, Any], head: int) -> int:
    """How many of a head's features are rotated, where the model has a `partial_rotary_factor`. Rope of type proportional rotates
    all of them, those beyond its share by 0."""
    share = 1.0 if parameters.get("rope_type") == "proportional" else parameters.get("partial_rotary_factor", 1.0)
    return int(head * share)


def settled(parameters: dict[str, Any], config: Config) -> int | None:
    """The longest sequence, in tokens, up to which the angles do not depend on its length; None where they never do."""
    kind = parameters.get("rope_type", "default")
    trained = config.max_position_embeddings if kind == "dynamic" else None
    if kind == "longrope":
        trained = parameters.get("original_max_position_embeddings")
    return int(trained) if isinstance(trained, int | float) else None


def _tables(positions: np.ndarray, frequencies: np.ndarray, factor: float, w: Cursor) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and signed sines (T, E)."""
    angles = np.outer(positions, np.concatenate([frequencies, frequencies]))
    signs = np.repeat([-1.0, 1.0], len(frequencies))
    return (factor * np.cos(angles)).astype(w.dtype), (factor * (np.sin(angles) * signs)).astype(w.dtype)


def _looked_up(tables: tuple[np.ndarray, np.ndarray], rows: Var, w: Cursor) -> Rotation:
    """Rows (T,) or (B, T) of both tables."""
    names = [f"{w.name}_{name}" for name in ("cos", "sin")]
    found = [mb.gather(x=table, indices=rows, axis=0, name=name) for table, name in zip(tables, names, strict=True)]
    if rows.rank == 2:
        found = [mb.expand_dims(x=x, axes=[1], name=f"{x.op.name}_heads") for x in found]
    return found[0], found[1]


def _switched(
    p: dict[str, Any], config: Config, positions: Var, trained: int, longest: int, w: Cursor, width: int | None
) -> Rotation:
    """longrope: the tables for short sequences come before those for long ones."""
    parts = []
    for length in (trained, longest):
        frequencies, factor = inverse_frequencies(p, config, length, width)
        parts.append(_tables(np.arange(length), frequencies, factor, w))
    last = mb.reduce_max(x=positions, keep_dims=False, name=f"{w.name}_last")
    long = mb.greater_equal(x=last, y=np.int32(trained), name=f"{w.name}_long")
    begin = mb.mul(
        x=mb.cast(x=long, dtype="int32", name=f"{w.name}_table"), y=np.int32(trained), name=f"{w.name}_begin"
    )
    rows = mb.add(x=positions, y=begin, name=f"{w.name}_rows")
    cos, sin = (np.concatenate(tables) for tables in zip(*parts, strict=True))
    return _looked_up((cos, sin), rows, w)


def _stretched(
    p: dict[str, Any], config: Config, positions: Var, trained: int, longest: int, w: Cursor, width: int | None
) -> Rotation:
    """dynamic: a row of frequencies for each length from the trained one on, in turns and not in radians, of which whole
    ones can be left out.

    A product of position and frequency loses in float32 what its whole turns take, so a frequency is the sum of two: the
    first has few enough bits for exact products, the second is small.
    """
    turns = np.array([inverse_frequencies(p, config, n, width)[0] for n in range(trained, longest + 1)]) / (2 * math.pi)
    grid = 2.0 ** math.floor(24 - math.log2(longest * turns.max()))
    coarse = np.floor(turns * grid) / grid
    table = np.stack([coarse, turns - coarse], axis=1).astype(np.float32)
    last = mb.reduce_max(x=positions, keep_dims=False, name=f"{w.name}_last")
    beyond = mb.maximum(
        x=mb.sub(x=last, y=np.int32(trained - 1), name=f"{w.name}_from_trained"),
        y=np.int32(0),
        name=f"{w.name}_beyond",
    )
    frequencies = mb.gather(x=table, indices=beyond, axis=0, name=f"{w.name}_frequencies")
    coarse_, fine = mb.split(x=frequencies, num_splits=2, axis=0, name=f"{w.name}_parts")  # (1, E / 2) each
    tokens = mb.cast(x=positions, dtype="fp32", name=f"{w.name}_positions")
    tokens = mb.expand_dims(x=tokens, axes=[1] if positions.rank == 1 else [1, 3], name=f"{w.name}_tokens")
    turned = mb.mul(x=tokens, y=coarse_, name=f"{w.name}_turns")
    turned = mb.sub(x=turned, y=mb.floor(x=turned, name=f"{w.name}_whole_turns"), name=f"{w.name}_rest")
    turned = mb.add(x=turned, y=mb.mul(x=tokens, y=fine, name=f"{w.name}_fine"), name=f"{w.name}_turned")
    angles = mb.mul(x=turned, y=np.float32(2 * math.pi), name=f"{w.name}_angles")
    cos, sin = mb.cos(x=angles, name=f"{w.name}_cos_half"), mb.sin(x=angles, name=f"{w.name}_sin_half")
    if w.dtype == np.float16:
        cos, sin = (mb.cast(x=x, dtype="fp16", name=f"{x.op.name}_float16") for x in (cos, sin))
    negative = mb.mul(x=sin, y=w.dtype.type(-1), name=f"{w.name}_sin_negative")
    return (
        mb.concat(values=[cos, cos], axis=-1, name=f"{w.name}_cos"),
        mb.concat(values=[negative, sin], axis=-1, name=f"{w.name}_sin"),
    )


@layer
def rotate(x: Var, rotation: Rotation, w: Cursor) -> Var:
    """(B, H, T, E) -> (B, H, T, E): the features of each half rotated with those of the other, by the token's position."""
    cos, sin = rotation
    first, second = mb.split(x=x, num_splits=2, axis=-1, name=f"{w.name}_halves")
    turned = mb.concat(values=[second, first], axis=-1, name=f"{w.name}_turned")
    return mb.add(
        x=mb.mul(x=x, y=cos, name=f"{w.name}_cos"),
        y=mb.mul(x=turned, y=sin, name=f"{w.name}_sin"),
        name=f"{w.name}_rotated",
    )


@layer
def rotate_part(x: Var, rotation: Rotation, w: Cursor, neighbours: bool = False) -> Var:
    """(B, H, T, E) -> (B, H, T, E): the first features, as many as the rotation has, and the others as they are.

    Needed by GPT-NeoX, Phi, StableLM (partial_rotary_factor) and, with `neighbours` as pairs, by GPT-J and CodeGen (rotary_dim),
    Moonshine and GLM.
    """
    turned, width = rotation[0].shape[-1], x.shape[-1]
    rest = None
    if turned < width:
        x, rest = mb.split(x=x, split_sizes=[turned, width - turned], axis=-1, name=f"{w.name}_rotary_and_rest")
    x = rotate(evens_first(x, w) if neighbours else x, rotation, w)
    return x if rest is None else mb.concat(values=[x, rest], axis=-1, name=f"{w.name}_rotated_part")


@layer
def evens_first(x: Var, w: Cursor) -> Var:
    """(B, H, T, E) -> (B, H, T, E): features 0, 2, 4, ..., then 1, 3, 5, ...

    Pairs that are neighbours in GPT-J and Cohere are as far apart then as `rotate` has them. Queries and keys may stay so:
    a score is a sum over features, in any order. Values may not.
    """
    batch, heads, tokens, width = x.shape
    tokens = tokens if isinstance(tokens, int) else -1
    x = mb.reshape(x=x, shape=[batch, heads, tokens, width // 2, 2], name=f"{w.name}_neighbours")
    x = mb.transpose(x=x, perm=[0, 1, 2, 4, 3], name=f"{w.name}_neighbours_apart")
    return mb.reshape(x=x, shape=[batch, heads, tokens, width], name=f"{w.name}_evens_first")


def inverse_frequencies(
    parameters: dict[str, Any], config: Config, longest: int, width: int | None = None
) -> tuple[np.ndarray, float]:
    """(one frequency for each pair of features, what cosines and sines are multiplied by) of a rope_parameters dictionary.

    `longest` is the length of the longest sequence; `width` the number of features that a model rotates, where those are not
    all of a head. Raises `Error` for a rope_type that is not known.
    """
    kind = parameters.get("rope_type", "default")
    if kind not in TYPES:
        raise Error(f"rope_type is {kind!r}; it must be one of {', '.join(TYPES)}")
    head = width or getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if head % 2:
        said = "head_dim, or hidden_size over num_attention_heads"
        if width:
            said = "partial_rotary_factor in rope_parameters, or rotary_dim"
        raise Error(
            f"a head has {head} features{' to rotate' if width else ''} ({said}), and rotary positions turn pairs",
            "Look into config.json.",
        )
    # Of the default type transformers' models compute all frequencies themselves, whatever partial_rotary_factor says.
    whole = width is not None or kind in ("default", "proportional")
    share = 1.0 if whole else parameters.get("partial_rotary_factor", 1.0)
    try:
        width = int(head * share)
        if width != head and len(_powers(1.0, width)) * 2 != head:
            raise Error(
                f"partial_rotary_factor is {share!r} with rope_type {kind}: it would turn {width} of the {head} features of a "
                "head, and transformers' model turns all or fails"
            )
        frequencies, factor = TYPES[kind](parameters, config, width, longest)
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise Error(
            f"rope_parameters of type {kind} lack or misstate {error}: {parameters}", "Look into config.json."
        ) from error
    return frequencies, float(factor)


def _powers(base: float, width: int) -> np.ndarray:
    return 1.0 / base ** (np.arange(0, width, 2) / width)


def _default(p: dict[str, Any], config: Config, width: int, longest: int) -> tuple[np.ndarray, float]:
    return _powers(p["rope_theta"], width), 1.0


def _linear(p: dict[str, Any], config: Config, width: int, longest: int) -> tuple[np.ndarray, float]:
    return _powers(p["rope_theta"], width) / p["factor"], 1.0


def _dynamic(p: dict[str, Any], config: Config, width: int, longest: int) -> tuple[np.ndarray, float]:
    """NTK scaling: the base grows with the part of the sequence that lies beyond the context of the training."""
    factor, trained = p["factor"], config.max_position_embeddings
    stretch = factor * max(longest, trained) / trained - (factor - 1)
    return _powers(p["rope_theta"] * stretch ** (width / (width - 2)), width), 1.0


def _yarn(p: dict[str, Any], config: Config, width: int, longest: int) -> tuple[np.ndarray, float]:
    """High frequencies as they are, low ones stretched, a ramp between them (arXiv 2309.00071)."""
    base, trained = p["rope_theta"], p["original_max_position_embeddings"]
    stretch = config.max_position_embeddings / trained if p["factor"] is None else p["factor"]

    def magnitude(scale: float = 1.0) -> float:
        return 1.0 if stretch <= 1 else 0.1 * scale * math.log(stretch) + 1.0

    factor = p.get("attention_factor")
    if factor is None:
        some, all_ = p.get("mscale"), p.get("mscale_all_dim")
        factor = magnitude(some) / magnitude(all_) if some and all_ else magnitude()

    def feature(turns: float) -> float:
        """The feature that turns so often within the context of the training."""
        return width * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = feature(p.get("beta_fast") or 32), feature(p.get("beta_slow") or 1)
    # transformers looks for it beside the dictionaries of layer types, not in them.
    if config.rope_parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    high += 0.001 if low == high else 0
    stretched = np.clip((np.arange(width // 2) - low) / (high - low), 0, 1)
    powers = _powers(base, width)
    return powers * (stretched / stretch + 1 - stretched), factor


def _longrope(p: dict[str, Any], config: Config, width: int, longest: int) -> tuple[np.ndarray, float]:
    """A divisor of its own for each frequency, one set for short sequences and one for long ones (arXiv 2402.13753)."""
    trained = p["original_max_position_embeddings"]
    stretch = p.get("factor")
    stretch = config.max_position_embeddings / trained if stretch is None else stretch
    factor = p.get("attention_factor")
    if factor is None:
        factor = 1.0 if stretch <= 1 else math.sqrt(1 + math.log(stretch) / math.log(trained))
    divisors = np.array(p["long_factor" if longest > trained else "short_factor"], np.float64)
    return _powers(p["rope_theta"], width) / divisors, factor


def _llama3(p: dict[str, Any], config: Config, width: int, longest: int) -> tuple[np.ndarray, float]:
    """Long waves stretched, short ones as they are, a smooth passage between them."""
    powers, stretch = _powers(p["rope_theta"], width), p["factor"]
    low, high, trained = p["low_freq_factor"], p["high_freq_factor"], p["original_max_position_embeddings"]
    turns = trained * powers / (2 * math.pi)  # within the context of the training
    short = np.clip((turns - low) / (high - low), 0, 1)
    return powers * (short + (1 - short) / stretch), 1.0


def _proportional(p: dict[str, Any], config: Config, width: int, longest: int) -> tuple[np.ndarray, float]:
    """All features have a frequency, those beyond the rotary part the frequency 0."""
    turned = int(p.get("partial_rotary_factor", 1.0) * width // 2)
    frequencies = np.zeros(width // 2)
    frequencies[:turned] = 1.0 / p["rope_theta"] ** (np.arange(0, 2 * turned, 2) / width)
    return frequencies / p.get("factor", 1.0), 1.0


TYPES = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "longrope": _longrope,
    "llama3": _llama3,
    "proportional": _proportional,
}
