"""What belongs to one comparison: a package, what it was built by, and transformers' model of the checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from milbuild import architectures
from milbuild.architectures.family import Family
from milbuild.caches import Geometry
from milbuild.generation.session import Session
from milbuild.model import Model
from milbuild.program.interfaces import INTERFACES, Interface
from milbuild.program.lengths import Length
from milbuild.program.plan import Plan
from milbuild.weights.fields import Config, looks_backwards

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from milbuild.validation.sample_inputs import SampleInputs

Arrays = dict[str, np.ndarray]  # by name


@dataclass(frozen=True)
class Comparison:
    """A package (`model`, and `encoder` where it has `decode` only) with its `plan`, and the model it is held against: `truth`,
    transformers' own. `samples` makes what both are fed. `ours`: milbuild built the package."""

    plan: Plan
    truth: "PreTrainedModel"
    samples: "SampleInputs"
    model: Model
    encoder: Model | None = None
    ours: bool = True

    def by(self, plan: Plan) -> "Comparison":
        """The same with another plan."""
        return replace(self, plan=plan)

    @property
    def config(self) -> "PretrainedConfig":
        return self.truth.config

    @property
    def family(self) -> type[Family] | None:
        """The class of the model type's graph; None for a model type that milbuild builds no package of."""
        known = self.config.model_type in architectures.SUPPORTED
        return architectures.find(self.config.model_type) if known else None

    @property
    def geometry(self) -> Geometry:
        """That of the decoder's keys and values."""
        return Geometry.of(architectures.find(self.config.model_type), self.config)

    @property
    def interface(self) -> Interface:
        """The consumer's names and shapes."""
        return INTERFACES[self.plan.interface]

    @property
    def description(self) -> Any:
        """The protobuf that describes the package's inputs, outputs and states."""
        return self.model.interface

    @property
    def main_input(self) -> str:
        """transformers' name of what the model reads: input_ids, pixel_values, input_values, input_features."""
        return str(self.truth.main_input_name)

    @property
    def encoder_decoder(self) -> bool:
        """Whether the model has an encoder and a decoder."""
        return self.family is not None and self.family.encode is not None

    @property
    def causal(self) -> bool:
        """Whether a token attends to those before it only, so that its scores do not depend on later ones."""
        known = architectures.SUPPORTED.get(self.config.model_type)
        decoder = known is not None and (known.decoder or bool(getattr(self.config, "is_decoder", False)))
        return decoder and looks_backwards(self.config)

    @property
    def step(self) -> int:
        """The fewest tokens that can be fed: where a call of several scores the last only, a call must be full."""
        return self.plan.call if isinstance(self.plan.call, int) and self.plan.logits == "last" else 1

    @property
    def settled(self) -> int | None:
        """The longest text up to which positions do not depend on its length; None for any."""
        if self.family is None or self.encoder_decoder or self.main_input != "input_ids":
            return None
        return self.family.settled(Config(self.config, self.family.also))

    def calls(self, feeds: Sequence[int]) -> list[int]:
        """How many tokens at a time transformers' model must get so that its positions are those of this package with a cache,
        which is fed so many: none where one call over the whole gives the same."""
        if self.settled is None or self.plan.cache == "none" or sum(feeds) <= self.settled:
            return []
        return Session(self.model).calls_for(feeds)

    def usable(self, context: int) -> int:
        """How many tokens fit into a context where a call is padded to its length."""
        if self.plan.cache == "none" or self.step > 1:
            return context
        return context + 1 - (self.plan.call if isinstance(self.plan.call, int) else min(self.plan.call))

    @property
    def in_states(self) -> tuple[bool, bool]:
        """Whether keys and values are in states, which hold float16: those of self-attention, those of cross-attention."""
        return self.plan.cache == "state", self.plan.cross_in_state

    def scored(self, chunks: list[int]) -> np.ndarray:
        """The positions whose scores are known: where a call scores its last token only, the last one of each feed."""
        return np.cumsum(chunks) - 1 if self.plan.logits == "last" else np.arange(sum(chunks))


def lengths(length: Length) -> list[int]:
    """The lengths of a list, the bounds of a range, or the only one."""
    return [length] if isinstance(length, int) else list(length)
