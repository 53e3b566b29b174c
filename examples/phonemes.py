"""How words are spoken: python examples/phonemes.py misaki.mlpackage CHECKPOINT word ...

The package: milbuild build CHECKPOINT misaki.mlpackage --sequence-length 32 --cache state
with a BART that was trained on spellings, for CHECKPOINT; its letters and sounds stand in config.json.
"""

import json
import sys
from pathlib import Path

import milbuild

if len(sys.argv) < 4:
    sys.exit(__doc__)
package, checkpoint, *words = sys.argv[1:]
config = json.loads(Path(checkpoint, "config.json").read_text())


class Letters:
    """Letters in, sounds out: a token each, with a beginning and an end."""

    eos_token_id = config["eos_token_id"]

    def encode(self, word: str) -> list[int]:
        letters = [config["grapheme_chars"].find(letter) for letter in word]
        return [config["bos_token_id"], *(max(letter, 3) for letter in letters), self.eos_token_id]

    def decode(self, tokens: list[int], skip_special_tokens: bool = True) -> str:
        return "".join(config["phoneme_chars"][token] for token in tokens if token > 3)


model = milbuild.Model(package)
for word in words:
    print(word, milbuild.generate(model, Letters(), word))
