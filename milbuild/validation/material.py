"""What a package is fed: a user's own text, pictures or sound through the checkpoint's processor, else seeded random ones."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from milbuild.errors import Error
from milbuild.generation import audio as sound_
from milbuild.program.plan import hop_length
from milbuild.validation import reference
from milbuild.weights import Checkpoint

SQUARE = 16  # pixels, of what a random picture is made of
PICTURES = 4  # calls with other pictures each: a classifier says little of a single one


@dataclass
class Material:
    """`text`, `images` (PIL's) and `sound` (samples, 16,000 a second) are the user's; None where there is none.

    Each is repeated where a call takes more of it.
    """

    source: str | os.PathLike[str]
    revision: str | None
    random: np.random.Generator
    text: str | None = None
    images: list[Any] = field(default_factory=list)
    sound: np.ndarray | None = None
    _tokenizer: Any = None
    _extractor: Any = None

    @classmethod
    def of(
        cls,
        source: str | os.PathLike[str],
        revision: str | None,
        seed: int,
        text: str | None = None,
        image: Any = None,
        audio: Any = None,
    ) -> "Material":
        """Of what `milbuild.validate` was given. Raises `Error` for what cannot be read."""
        if seed < 0:
            raise Error(f"seed is {seed}; it is a whole number from 0")
        if text is not None and not text.strip():
            raise Error("there are no words in the text")
        images = [] if image is None else [_picture(each) for each in (image if isinstance(image, list) else [image])]
        samples = None
        if audio is not None:
            samples = sound_.read(audio) if isinstance(audio, str | os.PathLike) else np.asarray(audio, np.float32)
            if samples.ndim != 1 or not len(samples):
                raise Error(f"audio has the shape {samples.shape}", "It is a file, or samples (n,), 16000 a second.")
        return cls(source, revision, np.random.default_rng(seed), text, images, samples)

    def check(self, kind: str) -> None:
        """Raises `Error` for what a model of `kind` (text, pictures, sound) does not take."""
        given = {"text": self.text is not None, "pictures": bool(self.images), "sound": self.sound is not None}
        if strange := [name for name, there in given.items() if there and name != kind]:
            raise Error(f"the package takes {kind}, not {' and '.join(strange)}")

    @property
    def whose(self) -> str:
        """Behind the name of a case."""
        return " of the text" if self.text is not None else " of the sound" if self.sound is not None else ""

    def ids(self, vocabulary: int, rows: int, count: int) -> np.ndarray:
        """(rows, count) token ids; each row of a text begins with another of its words."""
        if self.text is None:
            return self.random.integers(0, vocabulary, (rows, count), np.int32)
        words = self.text.split(" ")
        turned = [
            self.text,
            *(" ".join(words[row % len(words) :] + words[: row % len(words)]) for row in range(1, rows)),
        ]
        return np.array([self._encoded(text, count) for text in turned], np.int32)

    def _encoded(self, text: str, count: int) -> list[int]:
        """As the tokenizer makes it for a model that takes `count` tokens, with its beginning and end."""
        if self._tokenizer is None:
            self._tokenizer = reference.tokenizer(self.source, self.revision)
        every = self._tokenizer(text)["input_ids"]
        if not every:
            raise Error("the tokenizer makes no tokens of the text", "Does the checkpoint have a tokenizer of its own?")
        text = " ".join([text] * -(-2 * count // len(every)))
        if self._tokenizer.num_special_tokens_to_add() < count:
            found = self._tokenizer(text, truncation=True, max_length=count)["input_ids"]
            if len(found) == count:
                return list(found)
        return list((every * count)[:count])

    def values(self, rows: int, count: int) -> np.ndarray:
        """(rows, count) input_values: noise of unit variance, as feature extractors make it of sounds, or the sound."""
        if self.sound is None:
            return self.random.standard_normal((rows, count), np.float32)
        return reference.values(self.extractor, self.samples(rows, count))

    def samples(self, rows: int, count: int) -> np.ndarray:
        """(rows, count) samples from -1 to 1: a tone that wanders, as voices do, or the sound."""
        if self.sound is None:
            steps = self.random.uniform(0.01, 0.2, (rows, count // 100 + 1)).repeat(100, axis=1)[:, :count]
            tones = 0.3 * np.sin(np.cumsum(steps, axis=1)) + 0.01 * self.random.normal(size=(rows, count))
            return tones.astype(np.float32)
        return np.stack([np.resize(np.roll(self.sound, -row * count), count) for row in range(rows)])

    def features(self, rows: int, bands: int, frames: int) -> np.ndarray:
        """(rows, bands, frames) input_features: noise, or the spectrogram of the sound."""
        if self.sound is None:
            return self.random.normal(size=(rows, bands, frames)).astype(np.float32)
        return reference.spectrogram(self.extractor, self.samples(rows, frames * self.hop))

    @property
    def hop(self) -> int:
        """Samples of a frame of the checkpoint's spectrogram."""
        return hop_length(Checkpoint.open(self.source, self.revision).processor)

    @property
    def extractor(self) -> Any:
        """The checkpoint's feature extractor. Raises `Error` where it has none."""
        if self._extractor is None:
            self._extractor = reference.feature_extractor(self.source, self.revision)
        return self._extractor

    def pictures(self, size: tuple[int, int], batch: int, fit: Any) -> Iterator[Any]:
        """PIL images of (height, width): squares in random colours, or the user's as `fit` makes them of that size; a
        number that fills calls of `batch`."""
        for number in range(batch * (-(-len(self.images) // batch) if self.images else PICTURES)):
            yield fit(self.images[number % len(self.images)]) if self.images else picture(size, self.random)


def picture(size: tuple[int, int], random: np.random.Generator) -> Any:
    """A PIL image of squares in random colours, which differ over the picture more than noise does to a model."""
    from PIL import Image

    height, width = size
    squares = random.integers(0, 256, (-(-height // SQUARE), -(-width // SQUARE), 3), np.uint8)
    pixels = squares.repeat(SQUARE, axis=0).repeat(SQUARE, axis=1)
    return Image.fromarray(np.ascontiguousarray(pixels[:height, :width]))


def _picture(image: Any) -> Any:
    from PIL import Image, UnidentifiedImageError

    if not isinstance(image, str | os.PathLike):
        return image.convert("RGB")
    path = Path(image).expanduser()
    if not path.is_file():
        raise Error(f"there is no picture {path}")
    try:
        return Image.open(path).convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise Error(f"{path} is no picture that can be read") from error
