"""Speech as text, as transformers' Whisper decodes it: window by window, each as far as its timestamps reach.

Greedy, at one temperature: what transformers can do besides (other temperatures where a text repeats itself or is unlikely,
skipping windows without speech, conditioning on earlier text, beams) is not done here.
Reference: transformers/models/whisper/generation_whisper.py.
"""

import os
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from milbuild.errors import Error
from milbuild.generation.audio import RATE
from milbuild.generation.audio import read as read_audio
from milbuild.generation.rules import Rules, Timestamps
from milbuild.generation.sampling import Sampling, generate_tokens
from milbuild.generation.session import Session, opened, padded
from milbuild.generation.tokenizer import checkpoint_of, read_tokenizer, remark
from milbuild.model import Model
from milbuild.program.plan import AUDIO
from milbuild.weights.checkpoint import locate
from milbuild.weights.generation_config import answer_start, ends, of_package, undone

# Samples of a frame of the spectrogram, frames of a state of the encoder, which is what a timestamp counts in: transformers'
# own constants, whatever a checkpoint's feature extractor says.
HOP, STRIDE = 160, 2


@dataclass(frozen=True)
class Segment:
    """What is said from `start` to `end`, in seconds; `tokens` with the timestamps among them."""

    start: float
    end: float
    text: str
    tokens: list[int]


class Transcript:
    """What is said in audio, segment by segment; counts and times the calls.

    Audio that is longer than the package's window is transcribed window by window, each from where the last segment of the one
    before ended; shorter audio is padded with silence. What the checkpoint's generation_config.json asks for is done, except
    for beams, other temperatures, skipping windows and conditioning on earlier text; `undone` says in one line which of these
    it asks for.

    A package of input_features (`postprocess=False`, `--raw`) gets them from transformers' WhisperFeatureExtractor, computed
    of the whole audio at once, as in transformers. One of plain samples computes each window by itself: what counts as silence
    depends on the loudest part of it, and no window sees what is before and after it.

    Args:
        package: a package's path or a `Model` built for speech-seq2seq.
        tokenizer: where the checkpoint's tokenizer (and feature extractor) is, folder or hub id, or a tokenizer or
            processor of transformers; None for the checkpoint that the package was built from.
        audio: an audio file's path, or samples (n,) from -1 to 1, 16,000 per second.
        encoder: the package with `encode`, where `package` has `decode` only.
        language: of the audio: en, english; by default as the model detects it.
        translate: into English.
        timestamps: whether the model says when each segment begins and ends. It does in any case where the audio is longer
            than the window; without, there is one segment.
        max_new_tokens: of a window; by default as generation_config.json says, or what the context leaves.
    """

    def __init__(
        self,
        package: str | os.PathLike[str] | Model,
        tokenizer: Any,
        audio: str | os.PathLike[str] | np.ndarray,
        *,
        encoder: str | os.PathLike[str] | Model | None = None,
        language: str | None = None,
        translate: bool = False,
        timestamps: bool = False,
        max_new_tokens: int | None = None,
    ) -> None:
        model = opened(package)
        tokenizer = checkpoint_of(model, tokenizer)
        self.session = Session(model, None if encoder is None else opened(encoder))
        if self.session.plan.task != "speech-seq2seq":
            raise Error(f"the package is for {self.session.plan.task}, not for speech-seq2seq", "It takes no audio.")
        length = self.session.encoder_plan.sequence_length
        assert isinstance(length, int)
        self.window = length // HOP  # in frames
        self._check_states()
        self.audio = _samples(audio)
        self.frames = max(self.window, len(self.audio) // HOP)
        self.generation = of_package(model.user_defined_metadata)
        self.undone = undone(self.generation, speech=True)
        self.marker = self.generation.get("no_timestamps_token_id")
        self.timed = timestamps or bool(self.generation.get("return_timestamps")) or self.frames > self.window
        if self.timed and self.marker is None:
            longer = self.frames > self.window
            what = (
                f"the audio is longer than the window of {length / RATE:g} seconds" if longer else "timestamps is set"
            )
            hint = "Cut the audio: one window needs no timestamps." if longer else None
            raise Error(f"{what}, and generation_config.json has no no_timestamps_token_id: no timestamps", hint)
        self.task = "translate" if translate else self.generation.get("task")
        self.language = self._language_token(language, translate)
        self.features = None if self.session.encoder_plan.postprocess else self._features(tokenizer)
        self.tokenizer = read_tokenizer(tokenizer)
        self.remark = remark(self.session, self.tokenizer, tokenizer, model.user_defined_metadata)
        self.stop = ends(self.generation) or ends({"eos_token_id": self.tokenizer.eos_token_id})
        # A language that is yet to be detected takes as much room as any.
        begin, context = len(self._beginning(0)), self.session.context
        left = context - begin
        if left < 1:
            raise Error(
                f"the decoder begins with {begin} tokens, and its context has {context}", "Build with a longer context."
            )
        if max_new_tokens is not None and not 1 <= max_new_tokens <= left:
            room = f"after {begin} tokens the context of {context} leaves 1 to {left}"
            raise Error(f"max_new_tokens is {max_new_tokens}; {room}")
        most = max_new_tokens or self.generation.get("max_new_tokens") or self.generation.get("max_length") or left
        self.most = min(most, left)
        self.rules = Rules(self.generation, begin, begin + self.most)
        self.times = Timestamps(self.generation, begin, self.window // STRIDE) if self.timed else None
        for each in self.session.models.values():
            each.load()  # what cannot run says so before anything is written
        self.start: list[int] = []
        self.tokens: list[int] = []
        self.seconds = self.decoding = 0.0

    def __iter__(self) -> Iterator[Segment]:
        self.start, self.tokens, self.seconds, self.decoding = [], [], 0.0, 0.0
        seek = 0
        while seek < self.frames:
            begun = time.perf_counter()
            self.session.read(self._window_from(seek))
            read = time.perf_counter()
            # All windows have the language of the first.
            self.start = self.start or self._beginning(None)
            tokens = list(generate_tokens(self.session, self.start, self.most, self.stop, Sampling(), self._allowed))
            self.tokens += tokens
            segments, used = self._segments(tokens, seek, min(self.window, self.frames - seek))
            done = time.perf_counter()
            self.seconds, self.decoding = self.seconds + done - begun, self.decoding + done - read
            yield from segments
            seek += used

    def speed(self) -> dict[str, Any]:
        """Seconds of audio per second, and tokens per second of the decoder."""
        duration = len(self.audio) / RATE
        return {
            "sound_seconds": duration,
            "sound_seconds_per_second": duration / self.seconds if self.seconds else 0.0,
            "tokens_per_second": len(self.tokens) / self.decoding if self.decoding else 0.0,
            "calls": dict(self.session.calls),
        }

    def _allowed(self, scores: np.ndarray, sequence: Sequence[int]) -> np.ndarray:
        scores = self.rules(scores, sequence)
        return scores if self.times is None else self.times(scores, sequence)

    def heard_language(self) -> str | None:
        """The language that was detected or given, by its name in generation_config.json without <| and |>."""
        known = {token: name for name, token in (self.generation.get("lang_to_id") or {}).items()}
        found = next((known[token] for token in self.start if token in known), None)
        return None if found is None else found.strip("<|>")

    def _beginning(self, detected: int | None) -> list[int]:
        """The decoder's first tokens. A language that neither the caller nor the configuration names is `detected`; with None the
        model detects it in the window that the encoder has read."""
        generation = self.generation
        start: list[int | None] = [answer_start(generation)]
        # As in transformers, forced ids (of older checkpoints) count where neither task nor language is set.
        forced = [] if self.task or self.language is not None else generation.get("forced_decoder_ids") or []
        if forced and forced[0][0] == 1:
            for place, token in forced:
                if place != len(start):
                    raise Error(
                        f"forced_decoder_ids in generation_config.json leaves out place {len(start)}",
                        "The decoder's first tokens have no gaps.",
                    )
                start.append(token)
        language = self.language
        if language is None and generation.get("lang_to_id") and (len(start) == 1 or start[1] is None):
            language = self._detect_language() if detected is None else detected
        if language is not None:
            start[1:2] = [language]
        tasks = generation.get("task_to_id") or {}
        if self.task:
            if self.task not in tasks:
                raise Error(
                    f"the task is {self.task}; task_to_id in generation_config.json knows {', '.join(tasks) or 'none'}"
                )
            start.append(tasks[self.task])
        elif self.language is not None and tasks and not set(tasks.values()) & set(start):
            start.append(tasks["transcribe"])
        if self.timed:
            start = start[:-1] if start[-1] == self.marker else start
        elif self.marker is not None and start[-1] != self.marker:
            start.append(self.marker)
        return [token for token in start if token is not None]

    def _detect_language(self) -> int:
        """The token of the likeliest language, from one step of the decoder."""
        scores = self.session.feed([answer_start(self.generation)])[-1]
        known = sorted(self.generation["lang_to_id"].values())
        return int(known[int(scores[known].argmax())])

    def _check_states(self) -> None:
        """Raises `Error` for a package whose frames have another length: every time would be wrong."""
        for output in self.session.models["encode"].interface.output:
            shape = output.type.multiArrayType.shape
            if output.name == "encoder_last_hidden_state" and len(shape) == 3 and shape[1] * STRIDE != self.window:
                raise Error(
                    f"the encoder makes {shape[1]} states of a window of {self.window * HOP} samples",
                    f"Transcripts need {STRIDE * HOP} samples for each (hop_length {HOP}).",
                )

    def _language_token(self, language: str | None, translate: bool) -> int | None:
        if (language or translate) and self.generation.get("is_multilingual") is False:
            raise Error("the checkpoint is for English only: there is no language and no translation to choose")
        language = language or self.generation.get("language")
        if language is None:
            return None
        known = self.generation.get("lang_to_id")
        if not known:
            raise Error(f"language is {language!r}, and generation_config.json has no lang_to_id")
        from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

        name = language.lower()
        for spelled in (name, f"<|{TO_LANGUAGE_CODE.get(name, name)}|>"):
            if spelled in known:
                return int(known[spelled])
        codes = ", ".join(sorted(each.strip("<|>") for each in known))
        raise Error(f"language is {language!r}; the checkpoint knows {codes}")

    def _window_from(self, seek: int) -> dict[str, np.ndarray]:
        """The encoder's input: the window from frame `seek` on."""
        if self.features is None:
            size = self.window * HOP
            part = self.audio[seek * HOP : seek * HOP + size]
            return {AUDIO: padded(part, size)[None]}
        # transformers pads the features after the audio with 0, which is not silence.
        part = self.features[:, seek : seek + self.window]
        return {"input_features": padded(part, self.window)[None]}

    def _features(self, source: Any) -> np.ndarray:
        """The spectrogram (mels, frames) of the whole audio, at least of one window."""
        extractor = _extractor(source)
        size = self.window * HOP
        audio = padded(self.audio, max(size, len(self.audio)))
        try:
            made = extractor(audio, truncation=False, padding="longest", sampling_rate=RATE, return_tensors="np")
        except ValueError as error:
            raise Error(f"the feature extractor refuses the audio: {error}") from error
        features: np.ndarray = made["input_features"][0].astype(np.float32)
        shape = self.session.models["encode"].interface.input[0].type.multiArrayType.shape
        if features.shape != (shape[1], self.frames) or shape[2] != self.window:
            raise Error(
                f"the feature extractor makes {features.shape[0]} bands and {features.shape[1]} frames of {len(audio)} samples; "
                f"the package takes {shape[1]} bands, and {shape[2]} frames of {size}",
                "Give the checkpoint that the package was built from.",
            )
        return features

    def _segments(self, tokens: list[int], seek: int, count: int) -> tuple[list[Segment], int]:
        """The segments in the tokens of a window of `count` frames from `seek` on, and how many frames they cover."""
        first = np.inf if self.marker is None else self.marker + 1
        cut, used = segments(tokens, first, count)
        offset, unit = seek * HOP / RATE, STRIDE * HOP / RATE
        found = []
        for start, end, part in cut:
            text = self.tokenizer.decode([token for token in part if token < first], skip_special_tokens=True)
            found.append(Segment(offset + start * unit, offset + end * unit, str(text), part))
        return found, used


def segments(tokens: list[int], first: float, count: int) -> tuple[list[tuple[float, float, list[int]]], int]:
    """(start, end, tokens) of each segment of a window of `count` frames, in timestamps, and how many frames they cover.

    Tokens from `first` on are timestamps.
    """
    is_time = [token >= first for token in tokens]
    # Two timestamps in a row: the end of a segment and the beginning of the next one.
    cuts = [at for at in range(1, len(tokens)) if is_time[at - 1] and is_time[at]]
    if not cuts:
        times = [token - first for token in tokens if token >= first]
        end = times[-1] if times and times[-1] > 0 else count // STRIDE
        return [(0, end, tokens)], count
    # One at the very end: nothing is said after it. Else the window cut a segment off, which the next one has whole.
    ended = is_time[-2:] == [False, True]
    cuts = [*cuts, len(tokens)] if ended else [*cuts[:-1], cuts[-1] + 1]
    found = []
    for at, cut in zip([0, *cuts], cuts, strict=False):
        part = tokens[at:cut]
        last = part[-1] if ended or cut != cuts[-1] else part[-2]
        found.append((part[0] - first, last - first, part))
    used = int(tokens[cuts[-1] - 2] - first) * STRIDE
    # Where transformers would transcribe the same window again and again, it is done.
    return found, count if ended or used <= 0 else used


def transcribe(
    package: str | os.PathLike[str] | Model, tokenizer: Any, audio: str | os.PathLike[str] | np.ndarray, **options: Any
) -> str:
    """The text of audio; the options are those of `milbuild.generation.speech.Transcript`, which has the time of each segment."""
    transcript = Transcript(package, tokenizer, audio, **options)
    for said in filter(None, (transcript.remark, transcript.undone)):
        warnings.warn(said, stacklevel=2)
    return "".join(segment.text for segment in transcript).strip()


def _samples(audio: Any) -> np.ndarray:
    if isinstance(audio, str | os.PathLike):
        return read_audio(audio)
    samples = np.asarray(audio)
    if samples.ndim != 1 or not samples.size or not np.issubdtype(samples.dtype, np.floating):
        what = f"an array of shape {samples.shape} and type {samples.dtype}"
        raise Error(f"audio is {what}", f"It is a file, or floats (n,) from -1 to 1, {RATE} per second.")
    if not np.isfinite(samples).all():
        raise Error("audio has samples that are not finite numbers")
    return samples.astype(np.float32)


def _extractor(source: Any) -> Any:
    """The feature extractor of a checkpoint, or of a processor that is given."""
    if not isinstance(source, str | os.PathLike):
        if not hasattr(source, "feature_extractor"):
            hint = "Give the checkpoint, or a processor of transformers."
            raise Error("the package takes input_features, and a tokenizer makes none", hint)
        return source.feature_extractor
    from transformers import WhisperFeatureExtractor

    name, folder, _ = locate(source)
    try:
        return WhisperFeatureExtractor.from_pretrained(folder)
    except Exception as error:  # whatever transformers makes of such a file
        raise Error(
            f"{name} has no feature extractor that transformers can read, and the package takes input_features",
            "Add the checkpoint's preprocessor_config.json.",
        ) from error
