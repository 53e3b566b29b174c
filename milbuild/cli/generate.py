"""`milbuild generate`."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from milbuild.cli.arguments import Json, Package
from milbuild.cli.console import note, remarks, show, status, stream_text
from milbuild.errors import Error


def generate(
    package: Package,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="The checkpoint whose tokenizer to use: folder or hub id. (default: what the package was built from)",
            show_default=False,
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The text to go on with or to answer.", show_default=False)
    ] = None,
    audio: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Audio to transcribe, instead of a prompt: speech.wav", show_default=False),
    ] = None,
    encoder: Annotated[
        Path | None,
        typer.Option(
            metavar="PACKAGE", help="The package of `encode`, where PACKAGE has `decode` only.", show_default=False
        ),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(
            metavar="en", help="The language that is spoken. (default: what the model detects)", show_default=False
        ),
    ] = None,
    translate: Annotated[bool, typer.Option("--translate", help="Transcribe into English.")] = False,
    timestamps: Annotated[
        bool, typer.Option("--timestamps", help="A line for each segment of the audio, with its times.")
    ] = False,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(help="(default: 100, of an audio window all, or what the context leaves)", show_default=False),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Sample; without it the likeliest token is taken.", show_default=False)
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample from the k likeliest.", show_default=False)] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Sample from the likeliest that make up p.", show_default=False)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the sampling.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Write text with a package.

    Token by token, until the token that ends a text: after a prompt, as an answer to it, or what is said in audio.

    \b
      milbuild generate gpt2.mlpackage --prompt "Once upon a time"
      milbuild generate whisper.mlpackage --audio speech.wav
    """
    sampling: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    spoken: dict[str, Any] = {"language": language, "translate": translate, "timestamps": timestamps}
    _check_generate(prompt, audio, sampling, spoken)
    from milbuild.cli import imports

    imports.prepare()
    if audio is not None:
        from milbuild.generation.speech import Transcript

        with status("loading"):
            transcript = Transcript(package, tokenizer, audio, encoder=encoder, max_new_tokens=max_new_tokens, **spoken)
        _transcribe(transcript, str(audio), timestamps, as_json)
        return
    from milbuild.generation.text import TextStream

    assert prompt is not None
    with status("loading"):
        stream = TextStream(package, tokenizer, prompt, encoder=encoder, max_new_tokens=max_new_tokens, **sampling)
    warned = remarks(stream)
    if as_json:
        text = "".join(stream)
        show({"prompt": prompt, "text": text, "tokens": stream.tokens, **stream.speed(), "warnings": warned})
        return
    stream_text(prompt, stream)


def _check_generate(prompt: str | None, audio: Path | None, sampling: dict[str, Any], spoken: dict[str, Any]) -> None:
    """Whether the options of `generate` belong together. Raises `Error`."""
    if prompt is None and audio is None:
        raise Error("there is nothing to write about", "Give a text: --prompt TEXT, or audio: --audio speech.wav")
    if prompt is not None and audio is not None:
        raise Error("there are both a prompt and audio", "One of them is written about: --prompt or --audio.")
    strange = spoken if audio is None else sampling
    if given := [
        f"--{name.replace('_', '-')}" for name, value in strange.items() if value is not None and value is not False
    ]:
        if audio is None:
            raise Error(f"{', '.join(given)} belongs to audio", "Give it: --audio speech.wav")
        raise Error(f"{', '.join(given)} belongs to text; for audio the likeliest token is taken")


def _transcribe(transcript: Any, audio: str, timestamps: bool, as_json: bool) -> None:
    """Prints the segments of a transcript as they come: a window's at once, since the next one may take back what it cut off."""
    warned = remarks(transcript)
    if transcript.features is not None:
        note("The package takes input_features: transformers' WhisperFeatureExtractor makes them")
    segments = []
    for segment in transcript:
        segments.append({"start": round(segment.start, 2), "end": round(segment.end, 2), "text": segment.text})
        if as_json:
            continue
        if timestamps:
            print(f"[{_clock(segment.start)} -> {_clock(segment.end)}] {segment.text.strip()}", flush=True)
        else:
            # The space before a segment parts it from the one before.
            sys.stdout.write(segment.text if len(segments) > 1 else segment.text.lstrip())
            sys.stdout.flush()
    speed = transcript.speed()
    if as_json:
        text = "".join(str(segment["text"]) for segment in segments).strip()
        found = {"audio": audio, "language": transcript.heard_language(), "text": text, "segments": segments}
        show({**found, "tokens": transcript.tokens, **speed, "warnings": warned})
        return
    if not timestamps:
        sys.stdout.write("\n")
        sys.stdout.flush()
    note(f"{speed['sound_seconds']:,.1f} s of audio at {speed['sound_seconds_per_second']:,.1f} a second, "
          f"{len(transcript.tokens)} tokens at {speed['tokens_per_second']:,.0f} a second")  # fmt: skip


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(100 * seconds), 6000)
    return f"{minutes:02}:{rest / 100:05.2f}"
