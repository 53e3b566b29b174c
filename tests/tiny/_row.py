"""What a row of the table says."""

from dataclasses import dataclass, field
from typing import Any

# What a model takes, in the words of milbuild.options; SEQ2SEQ and SPEECH_SEQ2SEQ have an encoder and a decoder.
KINDS = TEXT, VISION, AUDIO, SEQ2SEQ, SPEECH_SEQ2SEQ = "text", "vision", "audio_encoder", "seq2seq", "speech_seq2seq"


@dataclass(frozen=True)
class Tiny:
    """`config`: what differs from the class's defaults; `operations`: how many the graph has that are not constants, as
    tests/helpers/operations.py counts and writes them; `flags`: variations, each tested in both precisions;
    `module_outputs`: modules of transformers whose outputs must be among those compared, `*` for every layer; `kind`:
    what it takes; `size`: (height, width) of images, in the tests; `processor`: transformers' image processor, without
    "ImageProcessor"; `in_files`: a task, and tensors that files of the hub have besides, without the base model's prefix.

    Those tensors are listed here, and not taken from the class, so that no table of a class can be emptied unseen: buffers
    that transformers registered once (position_ids, inv_freq, attn.bias), heads and poolers of classes that have no task
    here, training's own, and what transformers itself ignores (_keys_to_ignore_on_load_unexpected)."""

    model_type: str
    config: dict[str, Any]
    operations: int
    flags: dict[str, dict[str, Any]] = field(default_factory=dict)
    module_outputs: tuple[str, ...] = ()
    kind: str = TEXT
    size: tuple[int, int] = (0, 0)
    processor: str = ""
    in_files: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """Of a build, small and with transformers' own outputs."""
        if self.kind == VISION:
            return {"postprocess": False} | ({} if "image_size" in self.config else {"image_size": self.size})
        lengths = {AUDIO: 431, SPEECH_SEQ2SEQ: 34 * 160}
        return {"sequence_length": lengths.get(self.kind, 7), "postprocess": self.kind != SPEECH_SEQ2SEQ}
