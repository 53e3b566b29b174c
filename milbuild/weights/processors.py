"""What an image processor does where its file does not say: the defaults of the class that the file names, or of the model's.

Files written by hand, by other tools and by early transformers leave fields out, and transformers then takes the class
attributes of image_processing_*.py, as stands here. Tests hold the table to the installed transformers.
"""

from collections.abc import Mapping
from typing import Any

from milbuild.errors import Error

_HALF = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
_IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
_CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def _defaults(norm: tuple[list[float], list[float]], size: dict[str, int], crop: int | None = None) -> dict[str, Any]:
    mean, std = norm
    said = {"do_normalize": True, "image_mean": mean, "image_std": std, "do_rescale": True, "rescale_factor": 1 / 255}
    return said | {"size": size} | ({} if crop is None else {"do_center_crop": True, "crop_size": _square(crop)})


_DETECTION = _defaults(_IMAGENET, {"shortest_edge": 800, "longest_edge": 1333})

# The class's name without its ending -> its defaults.
DEFAULTS: dict[str, dict[str, Any]] = {
    "Beit": _defaults(_HALF, _square(224)),
    "Bit": _defaults(_CLIP, {"shortest_edge": 224}, 224),
    "Blip": _defaults(_CLIP, _square(384)),
    "CLIP": _defaults(_CLIP, {"shortest_edge": 224}, 224),
    "ConditionalDetr": _DETECTION,
    "ConvNext": _defaults(_HALF, {"shortest_edge": 384}),
    "DPT": _defaults(_HALF, _square(384)),
    "DeformableDetr": _DETECTION,
    "DeiT": _defaults(_HALF, _square(256), 224),
    "Detr": _DETECTION,
    "Levit": _defaults(_IMAGENET, {"shortest_edge": 224}, 224),
    "MobileNetV1": _defaults(_HALF, {"shortest_edge": 256}, 224),
    "MobileNetV2": _defaults(_HALF, {"shortest_edge": 256}, 224),
    "PoolFormer": _defaults(_IMAGENET, {"shortest_edge": 224}, 224),
    "Pvt": _defaults(_IMAGENET, _square(224)),
    "Segformer": _defaults(_IMAGENET, _square(512)),
    "Siglip": _defaults(_HALF, _square(224)),
    "ViT": _defaults(_HALF, _square(224)),
    "VideoMAE": _defaults(_HALF, {"shortest_edge": 224}, 224),
    "Vilt": _defaults(_HALF, {"shortest_edge": 384}),
    "Yolos": _DETECTION,
}

# The class of a file that names none, by model_type; models of sound are not here, and their files stay as they are.
CLASSES = {
    "convnext": "ConvNext",
    "mobilenet_v2": "MobileNetV2",
    "resnet": "ConvNext",
    "segformer": "Segformer",
    "vit": "ViT",
    "yolos": "Yolos",
}

# Those whose size is an edge between two bounds, and what the sides of an image are multiples of (image_processing_yolos.py).
_EDGES = {name: 16 if name == "Yolos" else 1 for name, said in DEFAULTS.items() if said is _DETECTION}

_ENDINGS = ("ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor")


def complete(processor: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """A file's fields, and below them its class's; those of a model without images as they are, and an empty file's.

    Raises `Error` for a class that is not known and a file that leaves to it how images are normalized, and for channels
    in another order.
    """
    if not processor or model_type not in CLASSES:
        return dict(processor)
    if processor.get("do_flip_channel_order"):
        raise Error(
            "the checkpoint's image processor turns the channels about: do_flip_channel_order is True",
            "Build with plain tensors (postprocess=False, --raw) and give them in that order.",
        )
    named = processor.get("image_processor_type") or processor.get("feature_extractor_type")
    name = CLASSES[model_type] if named is None else str(named)
    for ending in _ENDINGS:
        name = name.removesuffix(ending)
    if name in DEFAULTS:
        found = DEFAULTS[name] | dict(processor)
        return found | {"size": _made(found, _EDGES[name])} if name in _EDGES else found
    missing = [field for field in ("do_normalize", "image_mean", "image_std") if field not in processor]
    if missing and processor.get("do_normalize", True):
        raise Error(
            f"the checkpoint's image processor is a {named}, which leaves out {', '.join(missing)}; milbuild has "
            f"the defaults of {', '.join(DEFAULTS)}",
            "Write the fields into preprocessor_config.json as the class has them.",
        )
    return dict(processor)


def _made(processor: Mapping[str, Any], unit: int) -> Any:
    """The size that a square image gets from a processor that bounds both edges, as far as its file says; else what it says."""
    size = processor["size"]
    if isinstance(size, int):
        size = {"shortest_edge": size, "longest_edge": processor.get("max_size") or 1333}
    if not isinstance(size, Mapping):
        return size
    if isinstance(edge := size.get("shortest_edge"), int):
        side = min(edge, size.get("longest_edge") or edge)
        return _square(side - side % unit)
    if isinstance(size.get("max_height"), int) and isinstance(size.get("max_width"), int):
        return _square(min(size["max_height"], size["max_width"]))
    return size
