"""What a package is fed: a user's own text, images or audio through the checkpoint's processor, else seeded random ones."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from milbuild.errors import Error
from milbuild.generation.audio import read
from milbuild.program.plan import hop_length
from milbuild.validation import reference
from milbuild.weights import Checkpoint

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PreTrainedTokenizerBase, SequenceFeatureExtractor

SQUARE = 16  # pixels of the squares that random images are made of
IMAGES = 4  # calls with another image each: a classifier says little of a single one


@dataclass
class SampleInputs:
    """`text`, `images` (PIL's) and `audio` (samples, 16,000 a second) are the user's, if any; each is repeated where a call
    takes more of it. Without them inputs are random."""

    source: str | os.PathLike[str]
    revision: str | None
    random: np.random.Generator
    text: str | None = None
    images: "list[Image]" = field(default_factory=list)
    audio: np.ndarray | None = None
    _tokenizer: "PreTrainedTokenizerBase | None" = None
    _extractor: "SequenceFeatureExtractor | None" = None

    @classmethod
    def of(
        cls,
        source: str | os.PathLike[str],
        revision: str | None,
        seed: int,
        text: str | None = None,
        image: Any = None,
        audio: Any = None,
    ) -> "SampleInputs":
        """Of what `milbuild.validate` was given. Raises `Error` for what cannot be read."""
        if seed < 0:
            raise Error(f"seed is {seed}; it is a whole number from 0")
        if text is not None and not text.strip():
            raise Error("there are no words in the text")
        images = (
            [] if image is None else [_image(each) for each in (image if isinstance(image, list | tuple) else [image])]
        )
        samples = None
        if audio is not None:
            samples = read(audio) if isinstance(audio, str | os.PathLike) else np.asarray(audio, np.float32)
            if samples.ndim != 1 or not len(samples):
                raise Error(
                    f"audio has the shape {samples.shape}", "It is a file, or samples (n,) at a rate of 16000 Hz."
                )
        return cls(source, revision, np.random.default_rng(seed), text, images, samples)

    def check(self, kind: str) -> None:
        """Raises `Error` for what a model of `kind` (text, images, audio) does not take."""
        given = {"text": self.text is not None, "images": bool(self.images), "audio": self.audio is not None}
        if unusable := [name for name, there in given.items() if there and name != kind]:
            raise Error(f"the package takes {kind}, not {' and '.join(unusable)}")

    @property
    def origin(self) -> str:
        """What the name of a case adds where the input is the user's."""
        return " of the text" if self.text is not None else " of the audio" if self.audio is not None else ""

    def ids(self, vocabulary: int, rows: int, count: int) -> np.ndarray:
        """(rows, count) token ids; each row of a text begins with another of its words."""
        if self.text is None:
            return self.random.integers(0, vocabulary, (rows, count), np.int32)
        words = self.text.split(" ")
        texts = [
            self.text,
            *(" ".join(words[row % len(words) :] + words[: row % len(words)]) for row in range(1, rows)),
        ]
        return np.array([self._encoded(text, count) for text in texts], np.int32)

    def _encoded(self, text: str, count: int) -> list[int]:
        """As the tokenizer makes it for a model that takes `count` tokens, with its beginning and end."""
        if self._tokenizer is None:
            self._tokenizer = reference.tokenizer(self.source, self.revision)
        every = self._tokenizer(text)["input_ids"]
        if not every:
            raise Error("the tokenizer finds no tokens in the text", "Does the checkpoint have its own tokenizer?")
        text = " ".join([text] * -(-2 * count // len(every)))
        if self._tokenizer.num_special_tokens_to_add() < count:
            found = self._tokenizer(text, truncation=True, max_length=count)["input_ids"]
            if len(found) == count:
                return list(found)
        return list((every * count)[:count])

    def values(self, rows: int, count: int) -> np.ndarray:
        """(rows, count) input_values: noise of unit variance, as feature extractors scale audio, or the user's audio."""
        if self.audio is None:
            return self.random.standard_normal((rows, count), np.float32)
        return reference.values(self.extractor, self.waveform(rows, count))

    def waveform(self, rows: int, count: int) -> np.ndarray:
        """(rows, count) samples from -1 to 1: a tone of changing pitch, like a voice, or the user's audio."""
        if self.audio is None:
            steps = self.random.uniform(0.01, 0.2, (rows, count // 100 + 1)).repeat(100, axis=1)[:, :count]
            tones = 0.3 * np.sin(np.cumsum(steps, axis=1)) + 0.01 * self.random.normal(size=(rows, count))
            return tones.astype(np.float32)
        return np.stack([np.resize(np.roll(self.audio, -row * count), count) for row in range(rows)])

    def features(self, rows: int, bands: int, frames: int) -> np.ndarray:
        """(rows, bands, frames) input_features: noise, or the spectrogram of the user's audio."""
        if self.audio is None:
            return self.random.normal(size=(rows, bands, frames)).astype(np.float32)
        return reference.spectrogram(self.extractor, self.waveform(rows, frames * self.hop))

    @property
    def hop(self) -> int:
        """Samples of a frame of the checkpoint's spectrogram."""
        return hop_length(Checkpoint.open(self.source, self.revision).processor)

    @property
    def extractor(self) -> "SequenceFeatureExtractor":
        """The checkpoint's feature extractor. Raises `Error` where it has none."""
        if self._extractor is None:
            self._extractor = reference.feature_extractor(self.source, self.revision)
        return self._extractor

    def images_of(self, size: tuple[int, int], batch: int, fit: "Callable[[Image], Image]") -> "Iterator[Image]":
        """PIL images of (height, width): squares in random colours, or the user's as `fit` resizes them; as many as fill
        calls of `batch`."""
        for number in range(batch * (-(-len(self.images) // batch) if self.images else IMAGES)):
            yield fit(self.images[number % len(self.images)]) if self.images else random_image(size, self.random)


def random_image(size: tuple[int, int], random: np.random.Generator) -> "Image":
    """A PIL image of squares in random colours, which a model tells apart better than noise."""
    import PIL.Image

    height, width = size
    squares = random.integers(0, 256, (-(-height // SQUARE), -(-width // SQUARE), 3), np.uint8)
    pixels = squares.repeat(SQUARE, axis=0).repeat(SQUARE, axis=1)
    return PIL.Image.fromarray(np.ascontiguousarray(pixels[:height, :width]))


def _image(image: Any) -> "Image":
    import PIL.Image

    if not isinstance(image, str | os.PathLike):
        return image.convert("RGB")  # type: ignore[no-any-return]
    path = Path(image).expanduser()
    if not path.is_file():
        raise Error(f"there is no image {path}")
    try:
        return PIL.Image.open(path).convert("RGB")
    except (PIL.UnidentifiedImageError, OSError) as error:
        raise Error(f"{path} is not an image that can be read") from error
