"""An image processor whose file leaves fields out, against transformers' own: the values and the size of its images."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from milbuild.errors import Error
from milbuild.program.plan import _image_size
from milbuild.program.processing import image_scaling
from milbuild.weights import Checkpoint, processors

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
NORMAL = {"do_normalize": True, "image_mean": MEAN, "image_std": STD}

# Files as checkpoints on the hub have them, and what hands and other tools leave of them.
FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "an early extractor": (
        "vit",
        NORMAL | {"feature_extractor_type": "ViTFeatureExtractor", "size": 224, "resample": 2},
    ),
    "a class alone": ("vit", {"image_processor_type": "ViTImageProcessor", "size": {"height": 40, "width": 32}}),
    "neither mean nor std": (
        "vit",
        {"feature_extractor_type": "ViTFeatureExtractor", "do_normalize": True, "size": 40},
    ),
    "std alone": ("vit", {"image_processor_type": "ViTImageProcessorFast", "image_std": STD, "size": 40}),
    "one number for all channels": ("vit", {"do_normalize": True, "image_mean": 0.4, "image_std": 0.3, "size": 40}),
    "not normalized": ("vit", {"do_normalize": None, "rescale_factor": 1 / 127.5, "size": [40, 32]}),
    "not rescaled": ("vit", NORMAL | {"do_rescale": None, "size": 40}),
    "cut by default": ("vit", NORMAL | {"image_processor_type": "DeiTImageProcessor", "size": 48, "crop_size": 40}),
    "not cut by default": ("vit", NORMAL | {"image_processor_type": "ViTImageProcessor", "size": 48, "crop_size": 40}),
    "another family's": ("vit", {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 230}}),
    "a share of the picture": (
        "resnet",
        {"feature_extractor_type": "ConvNextFeatureExtractor", "crop_pct": 0.9, "size": 40},
    ),
    "cut by the model's class": (
        "mobilenet_v2",
        {"size": {"shortest_edge": 48}, "crop_size": {"height": 40, "width": 40}},
    ),
    "no size": ("segformer", {"image_processor_type": "SegformerImageProcessor"}),
    "no class": ("yolos", {"format": "coco_detection", "size": 48, "max_size": 80}),
    "no multiple of 16": ("yolos", {"format": "coco_detection", "size": 40, "max_size": 60}),
    "the longest edge is the shorter one": ("yolos", {"size": {"shortest_edge": 60, "longest_edge": 44}}),
    "another detector's": (
        "yolos",
        {"image_processor_type": "DetrImageProcessor", "size": {"shortest_edge": 40, "longest_edge": 36}},
    ),
    "neither edge": ("yolos", {"size": {"height": 40, "width": 44}}),
    "bounds": ("yolos", {"size": {"max_height": 44, "max_width": 40}}),
}


def _folder(folder: Path, model_type: str, processor: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.mark.parametrize("name", FILES)
def test_what_a_file_leaves_out_is_the_class_s(name: str, tmp_path: Path) -> None:
    from PIL import Image
    from transformers import AutoImageProcessor

    model_type, processor = FILES[name]
    folder = _folder(tmp_path, model_type, processor)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8))
    truth = AutoImageProcessor.from_pretrained(folder, backend="pil")
    plain = truth(picture, return_tensors="np", do_resize=False, do_center_crop=False)["pixel_values"][0]
    made = truth(picture, return_tensors="np")["pixel_values"].shape[-2:]

    found = Checkpoint("it", folder, {"model_type": model_type}, {}).processor
    config = SimpleNamespace(num_channels=3, image_size=29)
    scale, shift = image_scaling(found, config)
    ours = np.asarray(picture, np.float64).transpose(2, 0, 1) * scale[:, None, None] + shift[:, None, None]
    assert np.abs(ours - plain).max() < 1e-6 * np.ptp(plain)
    assert _image_size(None, config, found) == made


def test_the_table_is_transformers_own() -> None:
    import transformers
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    for name, said in processors.DEFAULTS.items():
        truth = getattr(transformers, f"{name}ImageProcessorPil")
        fields = ("do_normalize", "image_mean", "image_std", "do_rescale", "rescale_factor", "size")
        assert {field: getattr(truth, field) for field in fields} == {field: said[field] for field in fields}, name
        cut = bool(getattr(truth, "do_center_crop", False))
        assert cut == said.get("do_center_crop", False), name
        if cut:
            assert truth.crop_size == said["crop_size"], name
    for model_type, name in processors.CLASSES.items():
        assert f"{name}ImageProcessorPil" in IMAGE_PROCESSOR_MAPPING_NAMES[model_type].values()


def test_a_class_that_is_not_known_must_say_how_it_normalizes(tmp_path: Path) -> None:
    with pytest.raises(
        Error, match=r"OtherImageProcessor, which leaves out do_normalize, image_mean, image_std; milbuild has"
    ):
        processors.complete({"image_processor_type": "OtherImageProcessor", "size": 40}, "vit")
    whole = NORMAL | {"image_processor_type": "OtherImageProcessor", "size": 40}
    assert processors.complete(whole, "vit") == whole
    plain = {"image_processor_type": "OtherImageProcessor", "do_normalize": False}
    assert processors.complete(plain, "vit") == plain


def test_channels_in_another_order_are_refused() -> None:
    with pytest.raises(Error, match="do_flip_channel_order"):
        processors.complete(NORMAL | {"do_flip_channel_order": True}, "mobilenet_v2")


def test_sounds_files_stay_as_they_are() -> None:
    assert processors.complete({"feature_extractor_type": "Wav2Vec2FeatureExtractor"}, "wav2vec2") == {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor"
    }
    assert processors.complete({}, "vit") == {}
