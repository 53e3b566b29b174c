"""transformers' own model of a checkpoint, and the outputs of its modules: the numbers a package is compared with."""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from safetensors import SafetensorError

from milbuild import architectures
from milbuild.errors import Error
from milbuild.program.outputs import SENTENCE
from milbuild.program.plan import PROMPT, Plan, parse_pooling
from milbuild.tasks import TASKS
from milbuild.validation.figures import DEVIATIONS, MAGNITUDE
from milbuild.weights.checkpoint import locate, modern
from milbuild.weights.sentence_transformers import repository_folder

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, SequenceFeatureExtractor

    Processor = Callable[[Image], np.ndarray]
    Fit = Callable[[Image], Image]

SHARE = 1e-3  # by which states are changed: little compared with them, much compared with float32's rounding
TRIED = 64  # changes of an output; a tenth of their root mean square is chance


@contextlib.contextmanager
def _running(what: str, again: str) -> Iterator[None]:
    """Whatever transformers or torch raises inside becomes an `Error`: `what` cannot be done, with how to reproduce it
    without milbuild."""
    try:
        yield
    except Error:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        hint = f"Without milbuild: {again}"
        raise Error(f"{what}: {type(error).__name__}{f': {said}' if said else ''}", hint) from error


def load(source: str | os.PathLike[str], task: str, revision: str | None = None) -> "PreTrainedModel":
    """The transformers model for a task, eager, in float32. Raises `Error` where transformers cannot load it."""
    name, folder, file = locate(source, revision)
    auto = getattr(transformers, TASKS[task].auto)
    arguments: dict[str, Any] = {"attn_implementation": "eager", "dtype": torch.float32, "local_files_only": True}
    again = f"transformers.{TASKS[task].auto}.from_pretrained({str(folder)!r}, attn_implementation='eager')"
    with _running(f"transformers cannot load {name} for {task}", again), _quiet():
        if file is not None and file.name != "model.safetensors":
            from safetensors.torch import load_file

            config = transformers.AutoConfig.from_pretrained(folder)
            model = auto.from_pretrained(None, config=config, state_dict=load_file(file), **arguments)
        else:
            model = auto.from_pretrained(Path(folder), **arguments)
        model.folder = folder
        return model.float().eval()  # some parameters insist on another type (xIELU's on bfloat16)


def forward(
    model: "PreTrainedModel",
    inputs: dict[str, np.ndarray],
    rounded: tuple[bool, bool] = (False, False),
    calls: Sequence[int] = (),
) -> dict[str, np.ndarray]:
    """One plain forward pass, without a cache; float32 outputs by transformers' names.

    `rounded`: keys and values are rounded to float16, as a state holds them: those of self-attention, those of an encoder's
    states. `calls`: how many tokens of a decoder's input_ids are given at a time, with transformers' own cache between the
    calls; it matters where positions depend on how long the sequence is.
    """
    tensors: dict[str, Any] = {name: _tensor(np.asarray(value)) for name, value in inputs.items() if name != PROMPT}
    switches: dict[str, Any] = {"use_cache": False}
    if "pixel_values" in inputs and tuple(inputs["pixel_values"].shape[2:]) != _size(model.config):
        switches["interpolate_pos_encoding"] = True
    tensors |= {name: value for name, value in switches.items() if name in _parameters(model)}
    if any(rounded) or calls:
        own, cross = (_Rounded(model.config) if each else transformers.DynamicCache() for each in rounded)
        both = transformers.EncoderDecoderCache(own, cross) if model.config.is_encoder_decoder else own
        # transformers 5.24 calls it cache.
        name = "cache" if "cache" in _parameters(model) else "past_key_values"
        tensors |= {"use_cache": True, name: both}
    given = ", ".join(f"{name} {tuple(value.shape)}" for name, value in tensors.items() if hasattr(value, "shape"))
    kind, where = type(model).__name__, model.config._name_or_path
    again = (
        f"transformers.{kind}.from_pretrained({where!r}, attn_implementation='eager')({given}). "
        "Is it the checkpoint that the package was built from?"
    )
    with torch.no_grad(), _fresh(model), _running(f"transformers' {kind} does not take what the package takes", again):
        if not calls:
            found = [model(**tensors)]
        else:
            parts = tensors["input_ids"].split(list(calls), dim=1)
            found = [model(**tensors | {"input_ids": part}) for part in parts]
    return {
        name: (torch.cat([each[name] for each in found], dim=1) if calls else value).float().numpy()
        for name, value in found[0].items()
        if isinstance(value, torch.Tensor)
    }


class _Rounded(transformers.DynamicCache):  # type: ignore[misc]
    """A cache that holds float16, and gives it back in the type that came."""

    def __init__(self, config: "PretrainedConfig") -> None:
        super().__init__(config=config)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *rest: Any, **named: Any) -> Any:
        rounded = (each.half().to(each.dtype) for each in (key_states, value_states))
        return super().update(*rounded, *rest, **named)


def terms(
    model: "PreTrainedModel",
    inputs: dict[str, np.ndarray],
    finished: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]],
) -> dict[str, float]:
    """How large the terms are that each output is summed of: of random signs, the standard deviation of their sum.

    Of y = w h it is the root of sum (w h)^2. Of any head it is found by trying: what the body of the model gives is changed by
    a small share, up or down at random for each number, and the outputs' change is divided by that share. Scores change by
    the share of their largest magnitude that `figures.MAGNITUDE` says, too. `finished` is what is done to outputs.
    """
    body, kept = _body(model), list[Any]()
    with _fresh(model):
        body.register_forward_hook(lambda module, arguments, output: kept.append(output))
        plain = forward(model, inputs)
    if len(kept) != 1:
        return {}
    before, random = finished(dict(plain)), torch.Generator().manual_seed(0)
    squares: dict[str, float] = {}
    fewest = min(value.size for value in before.values())
    draws = max(1, -(-TRIED // max(1, fewest)))
    with _fresh(model):
        body.forward = lambda *arguments, **named: _shaken(kept[0], random)
        for _ in range(draws):
            found = forward(model, inputs)
            for name, value in found.items():
                signs = torch.randint(0, 2, value.shape, generator=random).numpy() * 2 - 1
                found[name] = value + signs * np.float32(SHARE * MAGNITUDE / DEVIATIONS * np.abs(plain[name]).max())
            for name, value in finished(found).items():
                change = (value.astype(np.float64) - before[name]) / SHARE
                squares[name] = squares.get(name, 0.0) + float(np.mean(change**2)) / draws
    return {name: float(np.sqrt(value)) for name, value in squares.items()}


def _body(model: "PreTrainedModel") -> torch.nn.Module:
    """The base model under a head, which some classes for a task keep under another name."""
    if model.base_model is not model:
        return model.base_model  # type: ignore[no-any-return]
    largest: torch.nn.Module = max(model.children(), key=lambda child: sum(each.numel() for each in child.parameters()))
    return largest


def _shaken(output: Any, random: torch.Generator) -> Any:
    """A module's output, every number of it larger or smaller by `SHARE`."""
    if isinstance(output, torch.Tensor):
        if not output.is_floating_point():
            return output
        return output * (1 + SHARE * (torch.randint(0, 2, output.shape, generator=random) * 2 - 1))
    if isinstance(output, transformers.utils.ModelOutput):
        return type(output)(**{name: _shaken(value, random) for name, value in output.items()})
    return tuple(_shaken(each, random) for each in output) if isinstance(output, tuple) else output


@contextlib.contextmanager
def _fresh(model: "PreTrainedModel") -> Iterator[None]:
    """Undoes what a call changes in a model: rotary tables of some types depend on the longest call so far."""
    before = []
    for module in model.modules():
        # Buffers and hooks are in dictionaries of the module: their contents count, and the values of buffers.
        tables = {name: dict(value) for name, value in module.__dict__.items() if isinstance(value, dict)}
        tables["_buffers"] = {name: None if value is None else value.clone() for name, value in module._buffers.items()}
        before.append((module, dict(module.__dict__), tables))
    try:
        yield
    finally:
        for module, attributes, tables in before:
            module.__dict__.clear()
            module.__dict__.update(attributes)
            for name, table in tables.items():
                getattr(module, name).clear()
                getattr(module, name).update(table)


def cross_attentions(model: "PreTrainedModel", inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The cross-attention weights of each layer of a decoder, (B, H, T, S)."""
    tensors = {name: _tensor(value) for name, value in inputs.items()}
    with (
        torch.no_grad(),
        _running("transformers' model returns no attention weights", "call it with output_attentions=True"),
    ):
        outputs = model(**tensors, use_cache=False, output_attentions=True)
    return [weights.float().numpy() for weights in outputs.cross_attentions]


def vectors(
    model: "PreTrainedModel", states: np.ndarray, mask: np.ndarray, plan: Plan, prompt_length: int
) -> dict[str, np.ndarray]:
    """The sentence embedding that sentence-transformers makes of hidden states (B, T, D), with its modules Pooling, Dense,
    LayerNorm and Normalize."""
    assert plan.pooling is not None
    x, given = torch.from_numpy(states), torch.from_numpy(mask).bool()
    count = x.shape[1]
    begins = given.int().argmax(1, keepdim=True)
    shown = given & (torch.arange(count) >= begins + (0 if plan.include_prompt else prompt_length))
    number, weights = shown.sum(1, keepdim=True).float(), shown.float()
    rows = torch.arange(len(x))
    places = (torch.arange(count) + 1 - begins).float() * weights
    modes = {
        "cls": lambda: x[rows, shown.int().argmax(1)],
        "last": lambda: x[rows, (torch.arange(count) * shown).argmax(1)],
        "max": lambda: x.masked_fill(~shown[..., None], -torch.inf).amax(1),
        "mean": lambda: torch.einsum("bt,btd->bd", weights, x) / number,
        "mean_sqrt_len_tokens": lambda: torch.einsum("bt,btd->bd", weights, x) / number.sqrt(),
        "weightedmean": lambda: torch.einsum("bt,btd->bd", places, x) / places.sum(1, keepdim=True),
    }
    vector = torch.cat([modes[mode]() for mode in parse_pooling(plan.pooling)], dim=-1)
    for path in plan.modules:
        vector = _module(vector, repository_folder(model.folder) / path)
    return {SENTENCE: (torch.nn.functional.normalize(vector) if plan.normalize else vector).numpy()}


def _module(x: torch.Tensor, folder: Path) -> torch.Tensor:
    """A module of a repository, by the files in its folder. Raises `Error` where there are none."""
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        if "in_features" not in config and "dimension" not in config:
            return torch.nn.functional.normalize(x)
        held = {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}
        if "dimension" in config:
            return torch.nn.functional.layer_norm(x, x.shape[-1:], held["norm.weight"], held["norm.bias"])
        y: torch.Tensor = torch.nn.functional.linear(x, held["linear.weight"], held.get("linear.bias"))
        named = config.get("activation_function", "torch.nn.modules.activation.Tanh")
        y = getattr(torch.nn, named.rsplit(".", 1)[-1])()(y)
        if not config.get("use_residual"):
            return y
        other = held.get("residual.weight")
        return y + (x if other is None else torch.nn.functional.linear(x, other))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        hint = "Validate a package with the checkpoint it was built from."
        raise Error(
            f"the package was built with the module {folder.name}, which cannot be read here: {error}", hint
        ) from error


def _tensor(value: np.ndarray) -> torch.Tensor:
    """Whole numbers as torch indexes with, others in float32."""
    tensor = torch.from_numpy(value)
    return tensor.float() if tensor.is_floating_point() else tensor.long()


def _size(config: "PretrainedConfig") -> tuple[int, int] | None:
    """(height, width) of the images a model was trained on, where its configuration says so."""
    size = getattr(config, "image_size", None)
    return None if size is None else (size, size) if isinstance(size, int) else tuple(size)


def processor(
    source: str | os.PathLike[str], size: tuple[int, int], revision: str | None = None
) -> "tuple[Processor, Fit]":
    """A checkpoint's own image processor as two functions: from an image of (height, width) to pixel_values (1, 3, H, W), and
    from any image to one of that size, as the processor resizes and crops it. Raises `Error`."""
    name, folder, _ = locate(source, revision)
    again = f"transformers.AutoImageProcessor.from_pretrained({str(folder)!r}, backend='pil')"
    with _running(f"transformers has no image processor for {name}", again), _quiet():
        found = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    steps = {step: False for step in ("do_resize", "do_center_crop", "do_pad") if hasattr(found, step)}
    numbers = {step: False for step in ("do_rescale", "do_normalize") if hasattr(found, step)}

    def process(image: "Image") -> np.ndarray:
        with _running(f"{type(found).__name__} cannot process the image", "call the processor with the image"):
            return np.asarray(found(image, return_tensors="np", **steps)["pixel_values"], np.float32)

    def fit(image: "Image") -> "Image":
        import PIL.Image

        with _running(f"{type(found).__name__} cannot process the image", "call the processor with the image"):
            pixels = np.asarray(found(image, return_tensors="np", **numbers)["pixel_values"])[0]
        made = PIL.Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8).transpose(1, 2, 0))
        return made if made.size == size[::-1] else made.resize(size[::-1], PIL.Image.Resampling.BICUBIC)

    return process, fit


def tokenizer(source: str | os.PathLike[str], revision: str | None = None) -> "PreTrainedTokenizerBase":
    """A checkpoint's own tokenizer. Raises `Error`."""
    name, folder, _ = locate(source, revision)
    again = f"transformers.AutoTokenizer.from_pretrained({str(folder)!r})"
    with _running(f"transformers has no tokenizer for {name}", again), _quiet():
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)


def feature_extractor(source: str | os.PathLike[str], revision: str | None = None) -> "SequenceFeatureExtractor":
    """A checkpoint's own feature extractor, which makes a spectrogram of audio. Raises `Error`."""
    name, folder, _ = locate(source, revision)
    again = f"transformers.AutoFeatureExtractor.from_pretrained({str(folder)!r})"
    with _running(f"transformers has no feature extractor for {name}", again), _quiet():
        return transformers.AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)


def spectrogram(extractor: "SequenceFeatureExtractor", audio: np.ndarray) -> np.ndarray:
    """Samples (B, N) -> input_features (B, bands, frames) of exactly these samples."""
    rate = extractor.sampling_rate
    with _running(f"{type(extractor).__name__} cannot compute the spectrogram", "call the extractor with the audio"):
        features = extractor(list(audio), sampling_rate=rate, padding=False, truncation=False, return_tensors="np")
    return np.asarray(features["input_features"], np.float32)


def values(extractor: "SequenceFeatureExtractor", audio: np.ndarray) -> np.ndarray:
    """Samples (B, N) -> input_values (B, N), as the feature extractor makes them of whole recordings."""
    rate = extractor.sampling_rate
    with _running(f"{type(extractor).__name__} cannot process the audio", "call the extractor with the audio"):
        made = extractor(list(audio), sampling_rate=rate, padding=False, return_tensors="np")
    return np.asarray(made["input_values"], np.float32)


def shorten(model: "PreTrainedModel", positions: int) -> None:
    """Makes a model of audio windows of one length take shorter ones, of fewer encoder positions, as milbuild builds it: with
    the first rows of its position table."""
    encoder = next(module for name, module in model.named_modules() if name.rsplit(".", 1)[-1] == "encoder")
    if positions < encoder.config.max_source_positions:
        encoder.embed_positions.weight = torch.nn.Parameter(encoder.embed_positions.weight[:positions].detach())
        encoder.embed_positions.num_embeddings = positions
        encoder.config.max_source_positions = positions


def postprocessed(
    task: str,
    outputs: dict[str, np.ndarray],
    config: "PretrainedConfig",
    size: tuple[int, int] | None = None,
    attention_mask: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """What transformers' pipeline makes of the outputs of `forward`, by the names of a package built with `postprocess`.

    `size` is the image's, (height, width); `attention_mask` that of a text, which hides where no answer can be. Instead of
    each pixel's label it gives the scores of all labels.
    """
    found = {name: torch.from_numpy(value) for name, value in outputs.items()}
    if task == "semantic-segmentation":
        found = {"classLabels": torch.nn.functional.interpolate(found["logits"], size=size, mode="bilinear")}
    if task == "object-detection" and size is not None:
        x, y, width, height = found["pred_boxes"].unbind(-1)
        corners = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], dim=-1)
        found = {
            "scores": found["logits"].softmax(-1)[..., :-1],
            "boxes": corners * torch.tensor([size[1], size[0], size[1], size[0]]),
        }
    if TASKS[task].classifies:
        if config.problem_type == "regression":
            return outputs
        alone = config.num_labels == 1 and task != "audio-classification"
        several = config.problem_type == "multi_label_classification" or alone
        # Labels that are true each by itself have their scores beside their probabilities.
        logits = found["logits"] if several else found.pop("logits")
        found["probabilities"] = logits.sigmoid() if several else logits.softmax(-1)
    if task == "audio-frame-classification":
        found["frame_scores"] = found.pop("logits").sigmoid()
    if task == "question-answering" and attention_mask is not None:
        hidden = torch.from_numpy(attention_mask) == 0
        for name in ("start_logits", "end_logits"):
            found[name] = found[name].masked_fill(hidden, -1e4)
    for name, renamed in {
        "token-classification": {"logits": "token_scores"},
        "fill-mask": {"logits": "token_scores"},
        "ctc": {"logits": "token_scores"},
        "multiple-choice": {"logits": "probabilities"},
        "next-sentence-prediction": {"logits": "probabilities"},
        "question-answering": {"start_logits": "start_scores", "end_logits": "end_scores"},
    }.get(task, {}).items():
        found[renamed] = found.pop(name).softmax(-1)
    return {name: value.numpy() for name, value in found.items()}


def _parameters(model: "PreTrainedModel") -> Iterable[str]:
    import inspect

    return inspect.signature(model.forward).parameters


@contextlib.contextmanager
def modules(model: "PreTrainedModel") -> Iterator[dict[str, np.ndarray]]:
    """While it is open, every module's output of the last pass, by the module's path in the model for a task."""
    seen: dict[str, np.ndarray] = {}
    prefix = (
        ""
        if any(name == model.base_model_prefix for name, _ in model.named_children())
        else f"{model.base_model_prefix}."
    )

    known = model.config.model_type in architectures.SUPPORTED
    spellings = architectures.find(model.config.model_type).spellings if known else ()

    def remember(name: str) -> Any:
        def hook(module: Any, arguments: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                # A copy: what comes after may write into it (ResNet's residuals).
                seen[name] = value.detach().float().numpy().copy()

        return hook

    handles = [
        module.register_forward_hook(remember(modern(prefix + name, spellings)))
        for name, module in model.named_modules()
        if name
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def module_outputs(paths: Iterable[str], operations: Iterable[str]) -> dict[str, str]:
    """Module path -> the operation whose value is the module's output: the one of that name, else the last one under it.

    In the graph's order, that of `operations`: where several modules are wrong, the first one is to blame. Of modules whose
    output one operation gives, the outermost comes first. An operation is under the module with the longest name that it
    begins with, and under those that contain this one: `self_attn_layer_norm` is beside `self_attn`, not under it.
    """
    named = {re.sub(r"\W", "_", path): path for path in paths}
    found: dict[str, str] = {}
    places: dict[str, int] = {}
    for place, operation in enumerate(operations):
        words = operation.split("_")
        prefixes = ("_".join(words[:count]) for count in range(len(words), 0, -1))
        owner = next((named[prefix] for prefix in prefixes if prefix in named), "")
        parts = owner.split(".")
        for path in (".".join(parts[:count]) for count in range(len(parts), 0, -1)):
            exact = re.sub(r"\W", "_", path)
            if path and exact in named and found.get(path) != exact:
                found[path], places[path] = operation, place
    return {path: found[path] for path in sorted(found, key=lambda path: (places[path], path.count(".")))}


def channels_first(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """An image (B, H, W, C) as the module gives it, (B, C, H, W), where that is `shape`; graphs keep some with channels last."""
    return np.moveaxis(value, -1, 1) if value.ndim == 4 and np.moveaxis(value, -1, 1).shape == shape else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps transformers' progress bars and advice out of a report."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
