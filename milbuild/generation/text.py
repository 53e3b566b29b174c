"""Text from a package: the continuation of a prompt, or the answer to it."""

import os
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from milbuild.errors import Error
from milbuild.generation.rules import Rules
from milbuild.generation.sampling import Sampling, generate_tokens
from milbuild.generation.session import Session, opened
from milbuild.generation.tokenizer import checkpoint_of, read_tokenizer, remark
from milbuild.model import Model
from milbuild.weights.generation_config import answer_start, ends, of_package, undone


class TextStream:
    """New text after a prompt, or the answer to it, piece by piece as it is generated; counts and times the calls.

    What the checkpoint's generation_config.json asks for (suppressed, banned and forced tokens, no repetition, a least length)
    is done, except for beams, guidance, watermarks and strings that end a text: the most likely token is taken, or one is
    sampled. `undone` says in one line what else it asks for.

    Args:
        package: a package's path or a `Model` built for text-generation or text2text-generation.
        tokenizer: where the checkpoint's tokenizer is (folder or hub id), or a tokenizer of transformers; None for the
            checkpoint that the package was built from: from the hub, or where a folder of its name, beside the package or
            here, has the tokenizer that it had. `remark` says where it knows fewer tokens than the package.
        prompt: the text to continue or to answer.
        encoder: the package with `encode`, where `package` has `decode` only.
        max_new_tokens: by default 100, or what the context leaves.
        temperature, top_k, top_p, seed: sampling; without any of them the most likely token is taken.

    Raises `Error` when the prompt, or the prompt with max_new_tokens, is longer than the context.
    """

    def __init__(
        self,
        package: str | os.PathLike[str] | Model,
        tokenizer: Any,
        prompt: str,
        *,
        encoder: str | os.PathLike[str] | Model | None = None,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> None:
        self.sampling = Sampling(temperature, top_k, top_p, seed)
        model = opened(package)
        self.session = Session(model, None if encoder is None else opened(encoder))
        task = self.session.plan.task
        if task not in ("text-generation", "text2text-generation"):
            hint = "It takes audio: --audio, milbuild.transcribe." if task == "speech-seq2seq" else None
            raise Error(f"the package is for {task}, not for text-generation", hint)
        self.generation = of_package(model.user_defined_metadata)
        given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
        self.undone = undone(self.generation, [name for name, value in given.items() if value is not None])
        source = checkpoint_of(model, tokenizer)
        self.tokenizer = read_tokenizer(source)
        self.remark = remark(self.session, self.tokenizer, source, model.user_defined_metadata)
        self.stop = ends(self.generation) or ends({"eos_token_id": self.tokenizer.eos_token_id})
        self.prompt = [int(token) for token in self.tokenizer.encode(prompt)]
        if not self.prompt:
            raise Error("the prompt has no token", "Give at least one word to continue.")
        # What the decoder begins with: the prompt, or a token of its own where an encoder reads the prompt.
        self.start = [answer_start(self.generation)] if self.session.plan.apart else self.prompt
        context = self.session.context
        if len(self.start) > context:
            raise Error(
                f"the prompt has {len(self.start)} tokens, the context {context}",
                "Shorten the prompt or build with a longer context.",
            )
        left = context - len(self.start) + 1  # the last new token is not fed
        if max_new_tokens is not None and not 1 <= max_new_tokens <= left:
            room = f"after {len(self.start)} tokens the context of {context} leaves 1 to {left}"
            raise Error(f"max_new_tokens is {max_new_tokens}; {room}")
        self.most = min(100, left) if max_new_tokens is None else max_new_tokens
        self.rules = Rules(self.generation, len(self.start), len(self.start) + self.most, self.prompt)
        for each in self.session.models.values():
            each.load()  # what cannot run says so before anything is written
        self.tokens: list[int] = []
        self.prompt_seconds = self.seconds = 0.0

    def __iter__(self) -> Iterator[str]:
        start = time.perf_counter()
        written = ""
        if self.session.plan.apart:
            self.session.read({"input_ids": np.array([self.prompt], np.int32)})
        for token in generate_tokens(self.session, self.start, self.most, self.stop, self.sampling, self.rules):
            if not self.tokens:
                self.prompt_seconds = time.perf_counter() - start
                start = time.perf_counter()
            self.tokens.append(token)
            text = self._decode()
            # Bytes of a character that is not complete decode to a replacement character: wait for the rest.
            if not text.endswith("\ufffd") and len(text) > len(written):
                yield text[len(written) :]
                written = text
        self.seconds = time.perf_counter() - start
        if len(text := self._decode()) > len(written):
            yield text[len(written) :]

    def speed(self) -> dict[str, Any]:
        """Tokens per second of the prompt (its calls and the first new token) and of the tokens after it."""
        later = max(0, len(self.tokens) - 1)
        return {
            "prompt_tokens": len(self.prompt),
            "prompt_tokens_per_second": len(self.prompt) / self.prompt_seconds if self.prompt_seconds else 0.0,
            "tokens_per_second": later / self.seconds if later and self.seconds else 0.0,
            "calls": dict(self.session.calls),
        }

    def _decode(self) -> str:
        if self.session.plan.apart:
            return str(self.tokenizer.decode(self.tokens, skip_special_tokens=True))
        # After the prompt, not alone: some tokenizers drop the space before a first word.
        whole = self.tokenizer.decode(self.prompt + self.tokens, skip_special_tokens=True)
        return str(whole[len(self.tokenizer.decode(self.prompt, skip_special_tokens=True)) :])


def generate(package: str | os.PathLike[str] | Model, tokenizer: Any, prompt: str, **options: Any) -> str:
    """The text that the package generates after `prompt`; the options are those of `TextStream`."""
    stream = TextStream(package, tokenizer, prompt, **options)
    for said in filter(None, (stream.remark, stream.undone)):
        warnings.warn(said, stacklevel=2)
    return "".join(stream)
