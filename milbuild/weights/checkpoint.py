"""A Hugging Face checkpoint as it lies on the disk or on the hub: its config.json and its tensors by their names.

Every tensor is accounted for: `tensor()` remembers what was asked for, and `check()` refuses what is missing, of another
shape, or asked for by nobody.
"""

import functools
import hashlib
import json
import math
import os
import re
from collections.abc import Container, Iterable
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np

from milbuild.errors import Error
from milbuild.weights import processors, safetensors, sentence_transformers
from milbuild.weights.files import read_json
from milbuild.weights.sentence_transformers import Recipe, Step
from milbuild.weights.tensor import Tensor

# What a build reads of a repository, with the card that names the license; pickles (*.bin, *.pt) are never fetched.
HUB_FILES = ["*.safetensors", "*.json", "README.md", "tokenizer*", "*.model", "vocab.txt", "merges.txt", "spiece.*"]

TOKENIZER_FILES = (
    "tokenizer.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)

# How tensors were called -> how transformers 5 calls them: (pattern, replacement), applied one after another.
Spellings = tuple[tuple[str, str], ...]

# For every model type (conversion_mapping.py, "legacy"); those of one type are its class's `spellings`.
RENAMES: Spellings = (
    (r"LayerNorm\.gamma$", "LayerNorm.weight"),
    (r"LayerNorm\.beta$", "LayerNorm.bias"),
    (r"\.weight_g$", ".parametrizations.weight.original0"),
    (r"\.weight_v$", ".parametrizations.weight.original1"),
)

PICKLES = (".bin", ".pt", ".pth", ".ckpt")

# What is in a generation_config.json of Whisper only: transformers takes none of it from config.json.
BEYOND = frozenset(
    """alignment_heads is_multilingual lang_to_id language max_initial_timestamp_index no_timestamps_token_id prev_sot_token_id
    return_timestamps task task_to_id""".split()
)
# A shard's name, and that of the weights of one language that wav2vec 2.0 exchanges in a model (MMS).
SHARD = re.compile(r"(.+)-\d+-of-(\d+)\.safetensors")
LANGUAGE = re.compile(r"adapter\.(.+)\.safetensors")


def safe_conversion(folder: Path) -> str:
    """How a pickle becomes safetensors: with the class that the configuration beside it names."""
    named = "AutoModel"
    try:
        found = read_json(folder / "config.json").get("architectures")
        if isinstance(found, list) and found and isinstance(found[0], str) and found[0].isidentifier():
            named = found[0]
    except Error:
        pass
    return (
        "A pickle can run code when it is loaded, so milbuild reads safetensors only. Convert it once: "
        f"transformers.{named}.from_pretrained(folder).save_pretrained(new_folder, safe_serialization=True)"
    )


class Checkpoint:
    """A checkpoint: `name` (hub id or the folder's name), `folder`, `config` (config.json as it stands), `tensors`."""

    def __init__(self, name: str, folder: Path, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        self.name = name
        self.folder = folder
        self.config = config
        self.tensors = tensors
        self.respell(RENAMES)
        self.read: set[str] = set()
        self.missing: dict[str, tuple[int, ...]] = {}
        self.misshapen: dict[str, tuple[int, ...]] = {}
        self.reasons: dict[str, str] = {}

    @classmethod
    def open(cls, source: str | os.PathLike[str], revision: str | None = None) -> "Checkpoint":
        """The checkpoint at `source`: a folder, a .safetensors file with a config.json beside it, or a hub id.

        `revision` is a branch, tag or commit of a hub id. With HF_HUB_OFFLINE=1 only the local cache is asked.
        Raises `Error` for whatever cannot be a checkpoint.
        """
        name, folder, file = locate(source, revision)
        _refuse_adapter(name, folder, file)
        config = read_config(folder)
        if found := _quantized(config):
            field, method = found
            hint = "Use the checkpoint it was made from; compression comes after the build (coremltools.optimize)."
            raise Error(
                f"{name} is quantized ({method}) by {field} of config.json; its tensors are not the model's weights",
                hint,
            )
        if config.get("per_layer_config"):
            raise Error(
                f"{name} has a per_layer_config: its layers differ in size, which no graph of milbuild is written for"
            )
        tensors = _read_tensors(folder, file)
        _refuse_wrapped(name, tensors)
        return cls(name, folder, config, tensors)

    def credits(self) -> tuple[str, str]:
        """(author, license) as far as the checkpoint says, "" where it does not: the hub's organisation, and the model card's
        front matter."""
        from huggingface_hub import metadata_load
        from yaml import YAMLError

        author = self.name.split("/")[0] if "/" in self.name else ""
        try:
            # Not ModelCard, which warns on stderr of a card without front matter.
            found = metadata_load(self.folder / "README.md") or {}
        except (OSError, ValueError, YAMLError):  # there is none, or it is damaged: no more than a credit is lost
            found = {}
        first, named = found.get("license"), found.get("license_name")
        first = first[0] if isinstance(first, list) and first else first
        said = named if first == "other" and named else first
        return author, said if isinstance(said, str) else ""

    @property
    def commit(self) -> str | None:
        """Of a hub id, as the local cache calls its folder; None for a folder."""
        return self.folder.name if self.folder.parent.name == "snapshots" and self.name != self.folder.name else None

    @functools.cached_property
    def processor(self) -> dict[str, Any]:
        """preprocessor_config.json (or the part of processor_config.json), with the defaults of its class for images;
        empty where there is none."""
        return processors.complete(self._processor(), str(self.config.get("model_type")))

    def _processor(self) -> dict[str, Any]:
        if (self.folder / "preprocessor_config.json").is_file():
            return read_json(self.folder / "preprocessor_config.json")
        if not (self.folder / "processor_config.json").is_file():
            return {}
        found = read_json(self.folder / "processor_config.json")
        parts = [found[part] for part in ("image_processor", "feature_extractor") if isinstance(found.get(part), dict)]
        return parts[0] if parts else found

    @functools.cached_property
    def generation(self) -> dict[str, Any]:
        """generation_config.json as it stands; where there is none, config.json, which old checkpoints keep it in."""
        file = self.folder / "generation_config.json"
        if not file.is_file():
            return {name: value for name, value in self.config.items() if name not in BEYOND}
        found = read_json(file)
        if found.get("forced_decoder_ids") is None and self.config.get("model_type") == "whisper":
            # The one field for which transformers looks into config.json whatever stands beside it (generation_whisper.py).
            found["forced_decoder_ids"] = self.config.get("forced_decoder_ids")
        return found

    @functools.cached_property
    def recipe(self) -> Recipe | None:
        """What sentence-transformers' modules.json makes of the model's states; None where there is none."""
        return sentence_transformers.read(sentence_transformers.repository_folder(self.folder))

    @functools.cached_property
    def modules(self) -> "Checkpoint":
        """The tensors of the modules after a pooling, by the module's folder and their names there."""
        steps: tuple[Step, ...] = () if self.recipe is None else self.recipe.steps
        folder = sentence_transformers.repository_folder(self.folder)
        return Checkpoint(self.name, folder, {}, sentence_transformers.tensors(folder, steps))

    @functools.cached_property
    def vocabulary(self) -> dict[str, Any]:
        """vocab.json as it stands, token by token; empty where there is none."""
        return read_json(self.folder / "vocab.json") if (self.folder / "vocab.json").is_file() else {}

    def respell(self, spellings: Spellings) -> None:
        """Calls the tensors as transformers 5 does. One whose new name the file has as well keeps its old one, and is found to
        be left over."""
        self.tensors = {modern(key, spellings, self.tensors): array for key, array in self.tensors.items()}

    def has(self, path: str, prefix: str) -> bool:
        """Whether the file has the parameter `path`, with or without the base model's prefix."""
        return self._key(path, prefix) is not None

    def tensor(self, path: str, shape: tuple[int, ...], prefix: str) -> Tensor:
        """The parameter `path` of `shape`; files may leave out the base model's `prefix`.

        One that is missing or of another shape is remembered for `check`, which lists them all, and holds no numbers.
        """
        if any(size < 1 for size in shape):
            raise Error(f"{self.name}: {path} of shape {shape} cannot be", "Look into config.json.")
        key = self._key(path, prefix)
        if key is not None:
            self.read.add(key)
            array = self.tensors[key]
            if array.shape == shape:
                return Tensor(path, path, array)
            self.misshapen[key] = shape
        else:
            self.missing[path] = shape
        if math.prod(shape) > sum(array.size for array in self.tensors.values()):
            # More than the whole checkpoint holds: sizes that no graph should be tried with.
            self.check((), (), prefix)
        return Tensor(path, path, np.broadcast_to(np.float32(0), shape))

    def expect(self, path: str, reason: str) -> None:
        """Keeps why the parameter `path` has to be there, which is said where it is missing."""
        self.reasons[path] = f" ({reason})"

    def same(self, path: str, other: str, prefix: str) -> bool:
        """Whether two parameters are equal, byte by byte: a tied tensor that was stored twice."""
        one, two = (self.tensors[self._key(name, prefix) or ""] for name in (path, other))
        if one.shape != two.shape or one.dtype != two.dtype:
            return False
        both = (safetensors.pieces(each.reshape(-1).view(np.uint8)) for each in (one, two))
        return all(np.array_equal(a, b) for a, b in zip(*both, strict=True))

    def lend(self, path: str, tables: tuple[str, ...], prefix: str) -> None:
        """Takes the parameter `path` for the token embedding where the file has that by none of its names: of tied tensors a
        file may hold either one, and transformers gives it to both."""
        key = self._key(path, prefix)
        if key is not None and not any(self.has(table, prefix) for table in tables):
            self.tensors[tables[0]] = self.tensors.pop(key)

    def mark_read(self, path: str, prefix: str) -> None:
        """Counts a parameter as used though its content comes from elsewhere (the second copy of a tied tensor)."""
        if key := self._key(path, prefix):
            self.read.add(key)

    def check(self, ignored: Iterable[str], other_heads: Iterable[str], prefix: str) -> None:
        """Raises `Error` for missing and misshapen tensors, and for those that nobody asked for.

        Not asked for need be what matches `ignored_weights`, patterns of the base model's own names (buffers of old checkpoints),
        and the tensors of `other_heads`, modules that another task reads.
        """
        if self.missing:
            raise self._missing(self.unread(ignored, prefix))
        if self.misshapen:
            shapes = "; ".join(
                f"{key} has the shape {self.tensors[key].shape}, config.json asks for {shape}"
                for key, shape in self.misshapen.items()
            )
            raise Error(f"{self.name}: {shapes}", "Is it the config.json of this checkpoint?")
        heads = tuple(f"{head}." for head in other_heads)
        unused = [
            key
            for key in self.unread(ignored, prefix)
            if not key.startswith(heads) and not key.removeprefix(f"{prefix}.").startswith(heads)
        ]
        if unused:
            hint = "What the graph leaves out would change its numbers silently. Is config.json this checkpoint's own?"
            named = ", ".join(sorted(unused))
            raise Error(f"{self.name} has {len(unused)} tensors that its architecture does not use: {named}", hint)

    def _missing(self, unused: list[str]) -> Error:
        """What to say of tensors that the file lacks, where it has others that nobody asked for."""
        wanted = ", ".join(
            f"{path} of shape {shape}{self.reasons.get(path, '')}" for path, shape in self.missing.items()
        )
        alike = {path: self._alike(path, shape, unused) for path, shape in self.missing.items()}
        pairs = [f"{' or '.join(names)} for {path}" for path, names in alike.items() if names]
        if not pairs:
            kinds = {path.rsplit(".", 1)[-1] for path in self.missing}
            near = [name for name in self.tensors if name.rsplit(".", 1)[-1] in kinds]
            has = f"it has {_list(sorted(near or self.tensors))}"
            hint = "The checkpoint is incomplete, or its config.json belongs to another model."
        else:
            has = f"of the same shape it has tensors that nothing uses: {_list(pairs)}"
            hint = (
                "Are they the same under another name? Then save the file with the names above, as "
                "save_pretrained of transformers' own class does; `spellings` of a model type's class rename them in every "
                "checkpoint. Else the checkpoint is incomplete, or its config.json belongs to another model."
            )
        if self.reasons.keys() & self.missing.keys():
            hint = f"{hint} If the module shares the token embedding, set tie_word_embeddings to true in config.json."
        return Error(f"{self.name} has no tensor {wanted}; {has}", hint)

    def _alike(self, path: str, shape: tuple[int, ...], unused: list[str], most: int = 3) -> list[str]:
        """The names of `unused` tensors of a shape, those first that are most like `path`."""
        same = [key for key in unused if self.tensors[key].shape == shape]
        return sorted(same, key=lambda key: (-SequenceMatcher(None, path, key).ratio(), key))[:most]

    def unread(self, ignored: Iterable[str], prefix: str) -> list[str]:
        """Tensors that nobody asked for, but for those that match `ignored_weights` (see `check`)."""
        patterns = [re.compile(pattern) for pattern in ignored]
        rest = [key for key in self.tensors if key not in self.read]
        return [
            key for key in rest if not any(pattern.fullmatch(key.removeprefix(f"{prefix}.")) for pattern in patterns)
        ]

    def _key(self, path: str, prefix: str) -> str | None:
        return next((key for key in (path, path.removeprefix(f"{prefix}.")) if key in self.tensors), None)


def locate(source: str | os.PathLike[str], revision: str | None = None) -> tuple[str, Path, Path | None]:
    """(name, folder, the one weight file that was named, if one was) of a source; downloads a hub id. Raises `Error`."""
    path = Path(source).expanduser()
    packed = (path / "Manifest.json").is_file() and not (path / "config.json").exists()
    if packed or (path.exists() and path.suffix in (".mlmodel", ".mlmodelc", ".mlpackage")):
        hint = "Give the checkpoint that it was built from; `milbuild inspect` shows what is in a package."
        raise Error(f"{path.name} is a Core ML model, not a checkpoint", hint)
    if path.is_dir():
        return path.resolve().name, sentence_transformers.model_folder(path), None
    if path.is_file():
        if path.suffix != ".safetensors":
            if path.suffix in PICKLES:
                raise Error(f"{path.name} is a pickle", safe_conversion(path.parent))
            raise Error(f"{path.name} is neither a folder nor a .safetensors file")
        return path.resolve().parent.name, path.parent, path
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source)) or str(source).startswith("."):
        raise Error(
            f"there is no folder {source}",
            "Give a checkpoint's folder, its .safetensors file, or a hub id such as openai-community/gpt2.",
        )
    return str(source), sentence_transformers.model_folder(download(str(source), revision)), None


def download(repository: str, revision: str | None) -> Path:
    """The folder of a hub id in the local cache. Raises `Error`."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    fetch = functools.partial(snapshot_download, repository, revision=revision, allow_patterns=HUB_FILES)

    at = f" at revision {revision}" if revision else ""
    try:
        try:
            return Path(fetch())
        except OfflineModeIsEnabled:
            # Releases up to 2.0 at least ask the hub which files a commit has, also where they may not.
            return Path(fetch(local_files_only=True))
    except LocalEntryNotFoundError as error:
        hint = "Check the spelling; without a network only what the local cache holds can be built."
        raise Error(
            f"there is no folder {repository}, the local cache has no {repository}{at}, and the hub cannot be reached",
            hint,
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        hint = "Check the spelling; for a private or gated repository log in with: hf auth login"
        raise Error(f"there is no folder {repository}, and the hub has no {repository}{at}", hint) from error
    except (OSError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Error(f"{repository}{at} cannot be downloaded: {first}") from error


def tokenizer_digest(folder: Path) -> str | None:
    """Tells tokenizers apart: of the files that say which token has which id; None where there is none of them."""
    files = sorted(folder / name for name in TOKENIZER_FILES if (folder / name).is_file())
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:32]


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder, as it stands. Raises `Error` where there is none or it is no JSON object."""
    if not (folder / "config.json").is_file():
        hint = "A checkpoint is a folder with config.json and model.safetensors, as save_pretrained writes it."
        raise Error(f"{folder.resolve().name} has no config.json", hint)
    return read_json(folder / "config.json")


def _quantized(config: dict[str, Any]) -> tuple[str, str] | None:
    """The field that says that the weights of a checkpoint are packed, and how, if they are."""
    if quantization := config.get("quantization_config"):
        named = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        return "quantization_config", named if isinstance(named, str) else "an unnamed method"
    if quantization := config.get("quantization"):
        # MLX's own; mlx-lm writes quantization_config beside it, older versions did not
        bits = quantization.get("bits") if isinstance(quantization, dict) else None
        return "quantization", "MLX" if bits is None else f"MLX, {bits} bits"
    return None


def _refuse_adapter(name: str, folder: Path, file: Path | None) -> None:
    """Raises `Error` for what belongs to a model and is none."""
    if file is not None and (language := LANGUAGE.fullmatch(file.name)):
        hint = "Name the folder, or its model.safetensors; transformers' load_adapter and save_pretrained make another."
        raise Error(f"{file.name} is the adapter of one language ({language[1]}) of wav2vec 2.0, not a model", hint)
    adapter = folder / "adapter_config.json"
    if not adapter.is_file() or (file is not None and not file.name.startswith("adapter_model")):
        return
    found = read_json(adapter)
    base = found.get("base_model_name_or_path") or "a model that it does not name"
    hint = (
        "Merge it once with peft: PeftModel.from_pretrained(model, folder).merge_and_unload().save_pretrained(new_folder), "
        f"where the model is {base}."
    )
    if (folder / "model.safetensors").is_file():
        hint += f" To build the model without it name {name}/model.safetensors."
    raise Error(f"{name} holds an adapter ({found.get('peft_type', 'of peft')}) of {base}, not a model alone", hint)


def _read_tensors(folder: Path, file: Path | None) -> dict[str, np.ndarray]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if file or single.is_file():
        return safetensors.read(file or single)
    if index.is_file():
        return _read_shards(folder, index)
    found = sorted(path.name for path in folder.glob("*.safetensors"))
    if shards := [match for name in found if (match := SHARD.fullmatch(name))]:
        stem, count = shards[0][1], int(shards[0][2])
        hint = f"Download {stem}.safetensors.index.json, which says what is in which shard; it is beside them."
        raise Error(f"{folder.name} has {len(shards)} of {count} shards and not their index", hint)
    if languages := [match[1] for name in found if (match := LANGUAGE.fullmatch(name))]:
        hint = "Download model.safetensors, which they belong to, as well."
        raise Error(f"{folder.name} has no model, only adapters of wav2vec 2.0: {', '.join(languages)}", hint)
    if pickles := sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES):
        raise Error(
            f"{folder.name} holds its weights as a pickle ({', '.join(pickles)}), not as safetensors",
            safe_conversion(folder),
        )
    hint = (
        f"Name the file itself: {folder.name}/{found[0]}"
        if found
        else "A checkpoint has a model.safetensors or a model.safetensors.index.json."
    )
    raise Error(f"{folder.name} has no model.safetensors", hint)


def _read_shards(folder: Path, index: Path) -> dict[str, np.ndarray]:
    try:
        weight_map = json.loads(index.read_text("utf-8"))["weight_map"]
        files = sorted(set(weight_map.values()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Error(
            f"{index.name} is no index of shards: it needs a weight_map of tensor names to file names"
        ) from error
    tensors: dict[str, np.ndarray] = {}
    for name in files:
        # Shards may be in a folder below, as transformers reads them.
        parts = name.split("/") if isinstance(name, str) else []
        if not parts or any(part in ("", ".", "..") or "\\" in part or ":" in part for part in parts):
            raise Error(f"{index.name} names the file {name!r}, which is not in the checkpoint's own folder")
        if not os.path.isfile(folder / name):  # pathlib's raises for a name that is too long
            raise Error(
                f"{folder.name} lacks the shard {name}, which {index.name} names",
                "Download the missing file; all shards stand beside the index.",
            )
        shard = safetensors.read(folder / name)
        if again := sorted(tensors.keys() & shard.keys()):
            raise Error(f"{name} holds tensors that another shard holds too: {_list(again)}")
        tensors |= shard
    wrong = sorted(key for key in weight_map if key not in tensors)
    if wrong:
        raise Error(f"{index.name} names tensors that no shard has: {_list(wrong)}", safetensors.DOWNLOAD_AGAIN)
    return tensors


# What wraps a model puts its own name before every tensor's.
WRAPPERS = {"module.": "DataParallel or DistributedDataParallel", "_orig_mod.": "torch.compile"}


def _refuse_wrapped(name: str, tensors: dict[str, np.ndarray]) -> None:
    """Raises `Error` for tensors that were saved from within a wrapper: transformers finds none of them, and makes up all."""
    for prefix, wrapper in WRAPPERS.items():
        if tensors and all(key.startswith(prefix) for key in tensors):
            raise Error(
                f"every tensor of {name} begins with {prefix!r}: the model was saved from within {wrapper}, and "
                "transformers finds none of its tensors",
                f"Save them once by their own names: save_file({{key.removeprefix({prefix!r}): value for key, value in "
                "load_file(path).items()}, path), of safetensors.torch.",
            )


def modern(key: str, spellings: Spellings, taken: Container[str] = ()) -> str:
    """A name as transformers 5 spells it; as it was if the new name is `taken`."""
    new = key
    for pattern, replacement in spellings:
        new = re.sub(pattern, replacement, new)
    return key if new in taken else new


def _list(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
