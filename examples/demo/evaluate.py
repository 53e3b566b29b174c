"""Judge the demo checkpoint: how many sums are right, and are its stories ones the grammar could have told?

It reads the saved float16 folder as a user would, but computes in float32. A sum counts as right only if the
answer is exact and the model then stops by itself. A sampled story counts as sound if the grammar itself
could have written it word for word: one hero, one set of things and the right pronouns from end to end.
"""

from __future__ import annotations

import argparse
import json
import random
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import grammar
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel, GPT2Tokenizer
from transformers import logging as transformers_logging

DEMO = Path(__file__).resolve().parents[2] / "milbuild" / "demo"
PROMPTS = ["Once upon a time", "One morning, Mia", "Pip was a", "One night", "One winter day, Hugo"]


@torch.inference_mode()
def complete(
    model: GPT2LMHeadModel, tokenizer: GPT2Tokenizer, prompts: Sequence[str], temperature: float = 0.0
) -> list[str]:
    """Continue each prompt until the model stops; a text that ends without the end mark ran out of room.

    Prompts of one length go together, so that none of them needs padding.
    """
    encoded = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    texts = [""] * len(prompts)
    for length in sorted({len(ids) for ids in encoded}):
        places = [place for place, ids in enumerate(encoded) if len(ids) == length]
        rows = torch.tensor([encoded[place] for place in places])
        how = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
        room = model.config.n_positions - length
        output = model.generate(rows, attention_mask=torch.ones_like(rows), max_new_tokens=room, **how)
        for place, row in zip(places, output, strict=True):
            before, end, _ = tokenizer.decode(row).partition(tokenizer.eos_token)
            texts[place] = before + end
    return texts


def right_sums(
    model: GPT2LMHeadModel, tokenizer: GPT2Tokenizer, pairs: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], bool]:
    """For each pair, whether the greedy answer to its question is exact and ends there."""
    texts = complete(model, tokenizer, [grammar.question(a, b) for a, b in pairs])
    return {
        pair: text == grammar.sum_in_words(*pair) + tokenizer.eos_token for pair, text in zip(pairs, texts, strict=True)
    }


def readings(
    text: str, template: str, words: grammar.Words, choices: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, grammar.Words]]:
    """Every way to read `template` at the start of `text`: what is left, and the words it fixes."""
    literal, blank, _, _ = next(iter(string.Formatter().parse(template)), ("", None, None, None))
    if not text.startswith(literal):
        return
    text = text.removeprefix(literal)
    if blank is None:
        yield text, words
        return
    rest = template[len(literal) + len(blank) + 2 :]
    for known in bindings(blank, words, choices):
        value = known[blank]
        if text.startswith(value):
            yield from readings(text.removeprefix(value), rest, known, choices)


def bindings(blank: str, words: grammar.Words, choices: Mapping[str, Sequence[str]]) -> Iterator[grammar.Words]:
    """The words known so far if they fill `blank`, or else with each choice that would fill it."""
    name = blank.lower().removeprefix("a ")
    if name in words:
        yield words
        return
    blanks = next(blanks for blanks in choices if name in blanks.split())
    for option in choices[blanks]:
        yield grammar.Words(words | dict(zip(blanks.split(), option.split(" | "), strict=True)))


def follows(text: str, steps: Sequence[Sequence[str]], words: grammar.Words, plot: grammar.Plot) -> bool:
    """Whether `text` tells exactly these steps, with the words already fixed."""
    if not steps:
        return not text
    for template in steps[0]:
        for left, known in readings(text, template, words, plot.all_choices()):
            # A step left out leaves no space behind it, and neither does the last.
            if template and left and not left.startswith(" "):
                continue
            if follows(left.removeprefix(" "), steps[1:], known, plot):
                return True
    return False


def is_sound(text: str) -> bool:
    """Whether the grammar could have written this story."""
    return any(follows(text, plot.steps, grammar.Words(), plot) for plot in grammar.PLOTS)


def main() -> None:
    parser = argparse.ArgumentParser(description="Judge the demo checkpoint.")
    parser.add_argument("folder", type=Path, nargs="?", default=DEMO)
    parser.add_argument("--hold-out", type=int, default=0, help="as given to train.py, to count these apart")
    parser.add_argument("--stories", type=int, default=100, help="sampled stories to read")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the figures and stories as JSON")
    args = parser.parse_args()

    transformers_logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(args.folder)
    model = AutoModelForCausalLM.from_pretrained(args.folder, dtype=torch.float32).eval()
    torch.manual_seed(args.seed)
    end = tokenizer.eos_token

    sums = right_sums(model, tokenizer, grammar.all_pairs())
    hundred = random.Random(args.seed).sample(grammar.all_pairs(), 100)
    held_out = grammar.held_out_pairs(args.hold_out)
    greedy = complete(model, tokenizer, PROMPTS)
    prompts = [PROMPTS[number % 2] for number in range(args.stories)]
    sampled = complete(model, tokenizer, prompts, args.temperature)

    figures = {
        "parameters": model.num_parameters(),
        "bytes": sum(file.stat().st_size for file in args.folder.iterdir()),
        "sums": len(sums),
        "sums_right": sum(sums.values()),
        "hundred_right": sum(sums[pair] for pair in hundred),
        "held_out": len(held_out),
        "held_out_right": sum(sums[pair] for pair in held_out),
        "wrong": [grammar.question(*pair) for pair, right in sums.items() if not right],
        "sampled": len(sampled),
        "sampled_stopped": sum(text.endswith(end) for text in sampled),
        "sampled_sound": sum(is_sound(text.removesuffix(end)) for text in sampled),
        "greedy": len(greedy),
        "greedy_sound": sum(is_sound(text.removesuffix(end)) for text in greedy),
    }
    if args.json:
        print(json.dumps({"figures": figures, "greedy": greedy, "sampled": sampled}, indent=2))
        return
    for name, value in figures.items():
        print(f"{name}: {value}")
    for title, texts in (("greedy", greedy), (f"sampled at {args.temperature}", sampled[:6])):
        print(f"\n{title}")
        for text in texts:
            print(f"\n{text}")


if __name__ == "__main__":
    main()
