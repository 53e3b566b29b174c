"""Models of Hugging Face through torch.jit.trace and coremltools, both precisions, against torch: packages that are not ours.

Tiny configurations of those that convert with torch 2.13, transformers 5 and coremltools 9 once the mask is made for them.
"""

import inspect
from pathlib import Path
from typing import Any, NamedTuple

import coremltools as ct
import numpy as np
import pytest
import torch
import transformers as hf
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from milbuild import runtime

TOKENS = 7
TEXT = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
PATCHES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
WAVES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [16, 24],
    "conv_stride": [5, 2],
    "conv_kernel": [10, 3],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}


class Case(NamedTuple):
    """`quick`: in `make test` too; the others, and every float16 one, in `make test-all`."""

    model: Any
    config: Any
    shape: tuple[int, ...] = (1, TOKENS)
    quick: bool = False


CASES = {
    "bert": Case(hf.BertModel, hf.BertConfig(**TEXT), quick=True),
    "roberta": Case(hf.RobertaModel, hf.RobertaConfig(**TEXT)),
    "distilbert": Case(
        hf.DistilBertModel,
        hf.DistilBertConfig(vocab_size=61, dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=40),
    ),
    "albert": Case(hf.AlbertModel, hf.AlbertConfig(**TEXT, embedding_size=24)),
    "electra": Case(hf.ElectraModel, hf.ElectraConfig(**TEXT, embedding_size=24)),
    "squeezebert": Case(hf.SqueezeBertModel, hf.SqueezeBertConfig(**TEXT, embedding_size=32)),
    "mobilebert": Case(hf.MobileBertModel, hf.MobileBertConfig(**TEXT, embedding_size=24, intra_bottleneck_size=32)),
    "vit": Case(hf.ViTModel, hf.ViTConfig(**PATCHES), (1, 3, 32, 32)),
    "clip": Case(hf.CLIPVisionModel, hf.CLIPVisionConfig(**PATCHES), (1, 3, 32, 32)),
    "convnext": Case(hf.ConvNextModel, hf.ConvNextConfig(**STAGES), (1, 3, 32, 32)),
    "resnet": Case(
        hf.ResNetModel, hf.ResNetConfig(embedding_size=8, layer_type="basic", **STAGES), (1, 3, 32, 32), quick=True
    ),
    "regnet": Case(hf.RegNetModel, hf.RegNetConfig(embedding_size=8, groups_width=8, **STAGES), (1, 3, 32, 32)),
    "mobilenet_v2": Case(
        hf.MobileNetV2Model, hf.MobileNetV2Config(depth_multiplier=0.25, image_size=32), (1, 3, 32, 32)
    ),
    "segformer": Case(
        hf.SegformerModel,
        hf.SegformerConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 4]),
        (1, 3, 64, 64),
    ),
    "wav2vec2": Case(hf.Wav2Vec2Model, hf.Wav2Vec2Config(**WAVES), (1, 800), quick=True),
    "hubert": Case(hf.HubertModel, hf.HubertConfig(**WAVES), (1, 800)),
    "whisper": Case(
        WhisperEncoder,
        hf.WhisperConfig(
            d_model=32,
            encoder_layers=2,
            encoder_attention_heads=4,
            encoder_ffn_dim=48,
            num_mel_bins=20,
            max_source_positions=30,
        ),
        (1, 20, 60),
    ),
    "audio-spectrogram-transformer": Case(
        hf.ASTModel,
        hf.ASTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            max_length=64,
            num_mel_bins=32,
        ),
        (1, 64, 32),
    ),
}


class Hidden(torch.nn.Module):
    """Input -> last hidden state. What transformers 5 makes for text by itself does not convert, so it is given."""

    def __init__(self, model: torch.nn.Module, text: bool) -> None:
        super().__init__()
        self.model = model
        taken = inspect.signature(model.forward).parameters
        given = {
            "attention_mask": torch.zeros(1, 1, TOKENS, TOKENS),
            "token_type_ids": torch.zeros(1, TOKENS, dtype=torch.int64),
            "position_ids": torch.arange(TOKENS)[None] + 2,
        }
        self.names = [name for name in given if text and name in taken]
        for name in self.names:
            self.register_buffer(name, given[name])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x, **{name: getattr(self, name) for name in self.names}).last_hidden_state


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        pytest.param(name, precision, marks=[] if case.quick and precision == "FLOAT32" else [pytest.mark.all])
        for name, case in CASES.items()
        for precision in ("FLOAT32", "FLOAT16")
    ],
)
@pytest.mark.filterwarnings("ignore")  # of the tracer and of coremltools, which are not under test
def test_traced_models(tmp_path: Path, name: str, precision: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    case.config._attn_implementation = "eager"
    model = case.model(case.config).eval()
    text = len(case.shape) == 2 and case.shape[1] == TOKENS
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        wrapped = Hidden(model, text).eval()
        x = torch.randint(2, 61, case.shape) if text else torch.randn(case.shape)
        expected = wrapped(x).numpy()
        graph = torch.jit.trace(wrapped, x, check_trace=False, strict=False)
    ct.convert(
        graph,
        inputs=[ct.TensorType("x", case.shape, np.int32 if text else np.float32)],
        outputs=[ct.TensorType("y")],
        minimum_deployment_target=ct.target.iOS17,
        compute_precision=ct.precision[precision],
        skip_model_load=True,
    ).save(str(tmp_path / "x.mlpackage"))
    result = runtime.load(tmp_path / "x.mlpackage").predict({"x": x})["y"]
    error = np.abs(result - expected).max() / np.abs(expected).max()
    assert error < (1e-5 if precision == "FLOAT32" else 5e-3)
    # In float32 a float16 package differs by the rounding of its weights only.
    wide = runtime.load(tmp_path / "x.mlpackage", precision="float32").predict({"x": x})["y"]
    assert np.abs(wide - expected).max() <= max(error, 1e-5) * np.abs(expected).max()
