"""`validate` sees what is wrong, says where it begins, and takes what users give it."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
import transformers
from coremltools.converters.mil import Builder as mb
from PIL import Image
from safetensors.numpy import load_file, save_file

import milbuild
from milbuild import architectures, caches
from milbuild.architectures import gpt2
from milbuild.layers import activation, attention, linear, normalization, rope
from milbuild.validation import reference as hf
from milbuild.validation.bar import Bar
from milbuild.validation.figures import measure, measure_labels
from milbuild.validation.sample_inputs import random_image
from milbuild.weights.tensor import Tensor
from tests.conftest import check_module_outputs, checkpoint, reference, tokens
from tests.test_mutations import (
    Patch,
    _head_of_positions,
    _keys_are_values,
    _layer,
    _mask_shows_the_next,
    _no_transposition,
    _positions_from_one,
    _replace,
)
from tests.test_vision import with_processor
from tests.tiny import TEXT_MODELS

DEMO = Path(milbuild.__file__).parent / "demo"


def _one_closer(original: Any) -> Any:
    return lambda query, key, w, *rest: original(np.asarray(query) - 1, key, w, *rest)


def _values_are_keys(original: Any) -> Any:
    def wrong(x: Any, heads: int, w: Any, parts: Any = 1) -> Any:
        q, k, v = original(x, heads, w, parts)
        return [q, v, k]

    return wrong


def _second_layer_left_out(original: Any) -> Any:
    return lambda self, x, w, layer: (original(self, x, w, layer), x)[layer.i == 1]


def _swapped(table: Any) -> Any:
    return table | {"gelu": table["gelu_new"], "gelu_new": table["gelu"]}


def _second_layer_lost(original: Any) -> Any:
    def wrong(self: Any, row: int, name: str, new: Any, *places: Any) -> Any:
        return original(self, row, name, mb.sub(x=new, y=new) if row == 1 else new, *places)

    return wrong


def _adjacent(original: Any) -> Any:
    """Adjacent pairs are rotated, as in the first papers, instead of halves."""

    def wrong(x: Any, rotation: Any, w: Any) -> Any:
        width = x.shape[-1]
        order = np.arange(width).reshape(2, -1).T.reshape(-1).astype(np.int32)
        rotated = original(mb.gather(x=x, indices=np.argsort(order).astype(np.int32), axis=-1), rotation, w)
        return mb.gather(x=rotated, indices=order, axis=-1)

    return wrong


def _smaller_epsilon(original: Any) -> Any:
    return lambda x, w, epsilon, *rest: original(x, w, epsilon / 10, *rest)


# What is broken, in which family, with which cache, and the first module that is wrong (or missing).
FAULTS: dict[str, tuple[str, str, str, Patch]] = {
    "wrong transpose of a square weight": (
        "gpt2",
        "none",
        "transformer.h.0.attn",
        _replace(Tensor, "T", _no_transposition),
    ),
    "mask off by one": (
        "gpt2",
        "none",
        "transformer.h.0.attn",
        _replace(caches.cache, "causal_mask", _mask_shows_the_next),
    ),
    "epsilon 1e-6 for 1e-5": (
        "gpt2",
        "none",
        "transformer.h.0.ln_1",
        _layer(normalization.layer_norm, _smaller_epsilon),
    ),
    "keys and values swapped": (
        "gpt2",
        "none",
        "transformer.h.0.attn",
        _layer(attention.split_heads, _values_are_keys),
    ),
    "no scale": (
        "gpt2",
        "none",
        "transformer.h.0.attn",
        _replace(gpt2.GPT2, "scale", lambda original: lambda self, i: 1.0),
    ),
    "one layer left out": ("gpt2", "none", "transformer.h.1", _replace(gpt2.GPT2, "block", _second_layer_left_out)),
    "kinds of GELU swapped": (
        "gpt2",
        "none",
        "transformer.h.0.mlp.act",
        lambda patch: patch.setattr(activation, "ACTIVATIONS", _swapped(activation.ACTIVATIONS)),
    ),
    "a cache write lost": (
        "gpt2",
        "state",
        "transformer.h.1.attn",
        _replace(caches.state_tensor.StateTensor, "write", _second_layer_lost),
    ),
    "a tied head untied": ("gpt2", "none", "lm_head", _layer(linear.linear_from, _head_of_positions)),
    "halves of rope interleaved": ("llama", "none", "model.layers.0.self_attn", _layer(rope.rotate, _adjacent)),
    "positions off by one": ("gpt2", "none", "transformer.drop", _replace(caches.none, "count", _positions_from_one)),
    "values of a cache are its keys": (
        "gpt2",
        "io",
        "transformer.h.0.attn",
        _replace(caches.io.InputOutputCache, "update", _keys_are_values),
    ),
}


# Both kinds of GELU differ by less than rounding to float16 does: a package in float32 tells them apart.
DRAWN = [(fault, precision) for fault in FAULTS for precision in ("float32", "float16")]
DRAWN.remove(("kinds of GELU swapped", "float16"))


@pytest.mark.parametrize(("fault", "precision"), DRAWN)
def test_a_fault_fails_and_its_first_module_is_named(
    fault: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_type, cache, module, break_it = FAULTS[fault]
    folder = faint(tmp_path) if "epsilon" in fault else checkpoint(model_type)
    options: dict[str, Any] = {"sequence_length": 11} if cache == "none" else {"cache": cache, "prefill_length": 4}
    right = milbuild.validate(milbuild.build(folder, precision=precision, **options), folder)
    assert right.passed, str(right)
    assert right.drift is not None
    assert (right.drift.jump("float32"), right.drift.jump("declared"), right.drift.missing) == (None, None, [])
    break_it(monkeypatch)
    wrong = milbuild.validate(milbuild.build(folder, precision=precision, **options), folder)
    assert not wrong.passed
    assert wrong.drift is not None
    jump = wrong.drift.jump("float32")
    assert jump is not None
    named = [jump[0].module, *sorted(wrong.drift.missing, key=len)]
    assert module in (named[0], named[min(1, len(named) - 1)]), named
    assert f" {module}" in str(wrong)


def test_of_two_errors_the_first_in_the_graph_is_named(tmp_path: Path) -> None:
    """Not the first by alphabet: lm_head is the last that is computed, and transformer.h comes before transformer.wte there."""
    folder = shutil.copytree(checkpoint(), tmp_path / "two")
    tensors = load_file(folder / "model.safetensors")
    for name in ("transformer.h.0.attn.c_proj.weight", "transformer.wte.weight"):
        tensors[name] = tensors[name] * np.float32(1.5)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    model = milbuild.build(folder, sequence_length=11, precision="float32")
    with pytest.raises(AssertionError, match=r"^transformer\.wte\b"):
        check_module_outputs(model, checkpoint(), "text-generation", {"input_ids": tokens(1, 11)}, ())
    report = milbuild.validate(model, checkpoint())
    assert not report.passed
    assert report.drift is not None
    assert [output.module for output in report.drift.outputs][:2] == ["transformer.wte", "transformer.drop"]
    for backend in ("float32", "declared"):
        jump = report.drift.jump(backend)
        assert jump is not None
        assert jump[0].module == "transformer.wte"
    assert "the error first jumps at transformer.wte (float32)" in str(report)


def faint(folder: Path) -> Path:
    """A checkpoint whose embeddings are as small as trained ones, so that an epsilon beside their variance counts."""
    copy = shutil.copytree(checkpoint(), folder / "faint")
    tensors = load_file(copy / "model.safetensors")
    for name in ("transformer.wte.weight", "transformer.wpe.weight"):
        tensors[name] = tensors[name] * np.float32(0.004)
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    return copy


class _Texts(torch.nn.Module):
    """A transformers model as people trace it: ids and a mask of ones and zeros in, the first outputs out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Any, mask: Any) -> Any:
        # What transformers 5 makes of such a mask does not convert; this is the same by hand.
        shown = (1.0 - mask[:, None, None, :].float()) * -1e4
        places = torch.arange(11)[None]
        return self.model(ids, attention_mask=shown, token_type_ids=torch.zeros_like(ids), position_ids=places)[0]


def traced(
    folder: Path, model: Any, path: Path, *, softmax: bool = False, names: tuple[str, str] = ("inputIds", "mask")
) -> Path:
    """A BERT that tracing made a package of, with names of its maker's own."""

    class Whole(_Texts):
        def forward(self, ids: Any, mask: Any) -> Any:
            found = super().forward(ids, mask)
            return found.softmax(-1) if softmax else found

    example = (torch.zeros(1, 11, dtype=torch.int32), torch.ones(1, 11, dtype=torch.int32))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is of yesterday, and renames outputs
        graph = torch.jit.trace(Whole(model).eval(), example, check_trace=False)
        inputs = [ct.TensorType(name, (1, 11), np.int32) for name in names]
        made = ct.convert(graph, inputs=inputs, minimum_deployment_target=ct.target.iOS17, skip_model_load=True)
    made.save(str(path))
    return path


@pytest.fixture(scope="module")
def third_party(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = checkpoint("bert", "token-classification")
    model = reference(folder, "token-classification")
    path = tmp_path_factory.mktemp("traced") / "traced.mlpackage"
    return traced(folder, model, path, names=("inputIds", "attention_mask"))


def test_a_package_of_tracing_is_proved(third_party: Path) -> None:
    report = milbuild.validate(third_party, checkpoint("bert", "token-classification"), task="token-classification")
    assert report.passed, str(report)
    assert {row.output for row in report.rows} == {"logits"}
    assert {row.case for row in report.rows} == {"11 tokens", "11 tokens, padded on the right"}
    assert report.drift is not None
    assert report.drift.matched
    modules = [output.module for output in report.drift.outputs]
    assert {"bert.embeddings", "bert.encoder.layer.0.attention", "bert.encoder.layer.2", "classifier"} <= set(modules)
    assert "milbuild did not build this package" in str(report)
    with pytest.raises(milbuild.Error, match="it does not name its task"):
        milbuild.validate(third_party, checkpoint("bert", "token-classification"))


def test_a_package_of_tracing_with_another_checkpoint_fails(third_party: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("bert", "token-classification"), tmp_path / "other")
    tensors = load_file(folder / "model.safetensors")
    name = "bert.encoder.layer.1.output.dense.weight"
    tensors[name] = tensors[name][::-1].copy()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    report = milbuild.validate(third_party, folder, task="token-classification")
    assert not report.passed
    assert report.drift is not None
    modules = {output.module for output in report.drift.outputs}
    assert "bert.encoder.layer.1.intermediate" in modules
    assert report.drift.missing[0].startswith("bert.encoder.layer.1.output") or "layer.2" in report.drift.missing[0]


def test_a_package_of_tracing_with_softmax(tmp_path: Path) -> None:
    folder = checkpoint("bert", "text-classification")
    path = traced(folder, reference(folder, "text-classification"), tmp_path / "traced.mlpackage", softmax=True,
                  names=("input_ids", "attention_mask"))  # fmt: skip
    report = milbuild.validate(path, folder, task="sequence-classification")
    assert report.passed, str(report)
    assert {row.output for row in report.rows} == {"probabilities"}


def test_unknown_inputs_are_named(tmp_path: Path) -> None:
    folder = checkpoint("bert", "token-classification")
    path = traced(
        folder, reference(folder, "token-classification"), tmp_path / "traced.mlpackage", names=("words", "shown")
    )
    with pytest.raises(milbuild.Error, match="words, shown, for which validate has no values"):
        milbuild.validate(path, folder, task="token-classification")
    other = traced(
        folder,
        reference(folder, "token-classification"),
        tmp_path / "b.mlpackage",
        names=("input_ids", "attention_mask"),
    )
    with pytest.raises(milbuild.Error, match="no output of the package has the shape"):
        milbuild.validate(other, checkpoint("bert", "question-answering"), task="question-answering")


def described(path: Path, shape: tuple[int, ...], *, image: bool = False) -> Path:
    """A package whose one input, of this shape, is given back."""

    @mb.program(input_specs=[mb.TensorSpec(shape)], opset_version=ct.target.iOS17)
    def program(x: Any) -> Any:
        return mb.identity(x=x)

    inputs = [ct.ImageType("x", shape)] if image else None
    ct.convert(program, inputs=inputs, skip_model_load=True).save(str(path))
    return path


@pytest.mark.parametrize(
    ("shape", "image", "model_type", "task", "message"),
    [
        (
            (1, 2, 11),
            False,
            "bert",
            "token-classification",
            r"x of the shape \(1, 2, 11\); the axes of input_ids are \(batch, tokens\)",
        ),
        (
            (1, 3, 8, 8),
            True,
            "bert",
            "token-classification",
            r"takes the image x; the axes of input_ids are \(batch, tokens\)",
        ),
        ((1, 11), False, "vit", "image-classification", r"pixel_values are \(batch, channels, height, width\)"),
        ((1, 11), False, "t5", "text2text-generation", "belongs to a model with an encoder and a decoder"),
    ],
)
def test_a_package_of_another_kind_is_refused(
    tmp_path: Path, shape: tuple[int, ...], image: bool, model_type: str, task: str, message: str
) -> None:
    path = described(tmp_path / "other.mlpackage", shape, image=image)
    with pytest.raises(milbuild.Error, match=message):
        milbuild.validate(path, checkpoint(model_type, task), task=task)


SENTENCE = "one plus two is three. One morning, a dog went to the river and saw a boat."


def test_words_go_through_the_tokenizer() -> None:
    model = milbuild.build(DEMO, sequence_length=(4, 40), precision="float32")
    ids: list[list[int]] = []
    forward = hf.forward

    def remembered(model: Any, inputs: dict[str, np.ndarray], *rest: Any) -> dict[str, np.ndarray]:
        ids.append(inputs["input_ids"][0].tolist())
        return forward(model, inputs, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hf, "forward", remembered)
        report = milbuild.validate(model, DEMO, text=SENTENCE)
    assert report.passed, str(report)
    assert [row.case for row in report.rows[::2]][:3] == [f"{count} tokens of the text" for count in (4, 22, 40)]
    tokens = transformers.AutoTokenizer.from_pretrained(DEMO)(SENTENCE)["input_ids"]
    assert all(call[: len(tokens)] == tokens[: len(call)] for call in ids[:3])
    assert ids[-1][:16] == tokens[:16]  # a prompt, and what is generated after it
    assert len(tokens) < 40 == max(map(len, ids))  # repeated where a call takes more


def test_images_go_through_the_processor(tmp_path: Path) -> None:
    folder, _ = with_processor(checkpoint("vit", "image-classification"), "vit", tmp_path / "checkpoint")
    large = random_image((97, 61), np.random.default_rng(7))
    large.save(tmp_path / "large.png")
    for raw in (False, True):
        model = milbuild.build(folder, image_size=32, postprocess=not raw, precision="float32")
        report = milbuild.validate(model, folder, image=[tmp_path / "large.png", large])
        assert report.passed, str(report)
        assert {row.case for row in report.rows} == {"2 images of 32 x 32"}
    with pytest.raises(milbuild.Error, match="not an image"):
        milbuild.validate(model, folder, image=folder / "config.json")
    with pytest.raises(milbuild.Error, match="takes images, not text"):
        milbuild.validate(model, folder, text=SENTENCE)


def test_audio_goes_through_the_feature_extractor(tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("wav2vec2", "ctc"), tmp_path / "wav2vec2")
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    audio = np.sin(np.arange(300) / 7).astype(np.float32)
    model = milbuild.build(folder, sequence_length=431, precision="float32")
    report = milbuild.validate(model, folder, audio=audio)
    assert report.passed, str(report)
    assert report.rows[0].case.endswith("431 samples of the audio")
    with pytest.raises(milbuild.Error, match="no audio file"):
        milbuild.validate(model, folder, audio=tmp_path / "nothing.wav")


def test_bars_can_be_set() -> None:
    model = milbuild.build(checkpoint(), sequence_length=11)
    assert milbuild.validate(model, checkpoint()).passed
    assert not milbuild.validate(model, checkpoint(), min_psnr=300).passed
    assert not milbuild.validate(model, checkpoint(), max_error=1e-9).passed
    assert milbuild.validate(model, checkpoint(), max_error=0.5, min_psnr=20).passed
    with pytest.raises(milbuild.Error, match="min_psnr is 0; it must be a number above 0"):
        milbuild.validate(model, checkpoint(), min_psnr=0)


def test_a_report_for_machines_and_for_pages(tmp_path: Path) -> None:
    model = milbuild.build(checkpoint(), sequence_length=11, attention_mask=True)
    report = milbuild.validate(model, checkpoint())
    found = json.loads(json.dumps(report.as_dict()))
    assert found["verdict"] == "passed"
    assert found["first_jump"] == {"float32": None, "declared": None}
    assert [each["same"] for each in found["greedy"]] == [found["greedy"][0]["tokens"]] * 2
    case = next(each for each in found["cases"] if "padded" in each["case"])
    assert case["left_out"] == 3
    assert case["holds"]
    assert 0 <= case["kl"] < 1e-4
    assert case["cosine"] == pytest.approx(1, abs=1e-4)
    assert [each["module"] for each in found["landmarks"]][:2] == ["transformer.wte", "transformer.drop"]
    page = report.markdown().splitlines()
    assert page[0].startswith("**passed**: model.mlpackage")
    rows = [line for line in page if line.startswith("|")]
    assert len(rows) == 2 + len(report.rows)
    assert len({line.count("|") for line in rows}) == 1
    assert any("rows of padding" in line for line in page)
    report.plot(tmp_path / "drift.svg")
    drawn = (tmp_path / "drift.svg").read_text()
    assert "largest float16" in drawn
    assert "transformer.h.0" in drawn
    report.plot(tmp_path / "drift.png")
    with Image.open(tmp_path / "drift.png") as image:
        assert image.size == (1440, 780)
    with pytest.raises(milbuild.Error, match="cannot be written as"):
        report.plot(tmp_path / "drift.txt")


def test_values_near_the_end_of_float16_are_told(tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint(), tmp_path / "loud")
    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.h.1.mlp.c_fc.bias"][3] = 50_000
    tensors["transformer.h.1.mlp.c_proj.weight"][3] = 0
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    report = milbuild.validate(milbuild.build(folder, sequence_length=11), folder)
    assert report.drift is not None
    assert {each.operation for each in report.drift.large} >= {"transformer_h_1_mlp_c_fc", "transformer_h_1_mlp_act"}
    assert "warning: transformer_h_1_mlp_c_fc" in str(report)
    assert report.drift.largest.module == "transformer.h.1.mlp.c_fc"
    assert not milbuild.validate(milbuild.build(checkpoint(), sequence_length=11), checkpoint()).drift.large


def test_core_ml_gets_a_row_for_each_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is; here the runtime replaces it, and is 1 % off on one unit."""
    from milbuild import runtime
    from milbuild.validation.bar import Bar
    from milbuild.validation.compare import compare
    from milbuild.validation.sample_inputs import SampleInputs

    class Off:
        def __init__(self, engine: Any, unit: Any) -> None:
            self.engine, self.wrong = engine, 1.01 if unit is ct.ComputeUnit.CPU_AND_NE else 1

        def predict(self, data: dict[str, Any], state: Any = None) -> dict[str, Any]:
            return {name: self.wrong * value for name, value in self.engine.predict(data, state).items()}

        def make_state(self) -> Any:
            return self.engine.make_state()

    def core_ml(self: milbuild.Model) -> Off:
        return Off(runtime.load(self.package_path, self.function_name), self.compute_unit)

    monkeypatch.setattr(milbuild.Model, "core_ml", core_ml)
    model = milbuild.build(checkpoint(), cache="state", prefill_length=4)
    report = compare(model, SampleInputs.of(checkpoint(), None, 0), Bar(), core_ml=True)
    units = ["Core ML cpu_only", "Core ML cpu_and_gpu", "Core ML cpu_and_ne"]
    assert report.backends == ["float32", "declared", *units]
    assert {row.backend for row in report.rows} == set(report.backends)
    assert {
        row.backend for row in report.rows if not report.bar.holds(row)
    } == set()  # 40 dB is what a device must hold
    assert max(row.psnr for row in report.rows if row.backend == units[2]) < 60
    assert report.unproved is None
    with pytest.raises(milbuild.Error, match="compute_units is for Core ML"):
        milbuild.validate(model, checkpoint(), compute_units="cpu_only")


def test_each_call_meets_a_model_as_it_was_loaded() -> None:
    """A dynamic rope grows with the longest call: a short one after it has other numbers than in a fresh model."""
    ropes = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    folder = checkpoint("llama", rope_parameters=ropes, max_position_embeddings=8)
    short = {"input_ids": np.arange(5, dtype=np.int32)[None]}
    model = hf.load(folder, "text-generation")
    before = hf.forward(model, short)["logits"]
    kept = {name: value.clone() for name, value in model.named_buffers()}
    hf.forward(model, {"input_ids": np.arange(16, dtype=np.int32)[None]})
    assert all(torch.equal(kept[name], value) for name, value in model.named_buffers())
    assert np.array_equal(hf.forward(model, short)["logits"], before)


def test_a_package_keeps_its_own_engine() -> None:
    """Validation runs a copy: what a model predicts with stays as it was."""
    model = milbuild.build(checkpoint(), sequence_length=11)
    data = {"input_ids": np.arange(11, dtype=np.int32)[None]}
    before = model.predict(data)["logits"]
    milbuild.validate(model, checkpoint())
    assert np.array_equal(model.predict(data)["logits"], before)


@pytest.mark.parametrize(
    ("expected", "value", "figures"),
    [
        # logits of two rows, six classes: one best class is another
        (
            np.array([[5.0, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5]]),
            np.array([[5.0, 4, 3, 2, 1, 0], [0, 1, 2, 3, 6, 5]]),
            {"agreement": 0.5, "top5": 1.0, "max_abs": 2.0, "max_rel": 0.4},
        ),
        (
            np.array([[5.0, 4, 3, 2, 1, 0]]),
            np.array([[5.0, 4, 3, 2, 0, 1]]),
            {"agreement": 1.0, "top5": 0.8, "max_abs": 1.0},
        ),
    ],
)
def test_figures_by_hand(expected: np.ndarray, value: np.ndarray, figures: dict[str, float]) -> None:
    row = measure("", "", "logits", expected, value)
    assert {name: getattr(row, name) for name in figures} == pytest.approx(figures)
    shares = [np.exp(each) / np.exp(each).sum(-1, keepdims=True) for each in (expected, value)]
    assert row.kl == pytest.approx(float((shares[0] * np.log(shares[0] / shares[1])).sum(-1).mean()))
    assert row.psnr == pytest.approx(20 * np.log10(5 / np.sqrt(np.mean((expected - value) ** 2))))
    assert row.cosine == pytest.approx((expected * value).sum() / np.sqrt((expected**2).sum() * (value**2).sum()))


def test_what_is_no_number_lies_infinitely_far() -> None:
    row = measure("", "", "logits", np.array([[1.0, 2, 3]]), np.array([[1.0, np.nan, 3]]))
    assert (row.max_abs, row.psnr, row.kl) == (np.inf, -np.inf, np.inf)


def test_boxes_and_labels_by_hand() -> None:
    boxes = np.array([[[0.0, 0, 2, 2], [1, 1, 3, 3]]])
    moved = np.array([[[1.0, 0, 3, 2], [1, 1, 3, 3]]])
    assert measure("", "", "boxes", boxes, moved).iou == pytest.approx((1 / 3 + 1) / 2)
    middles = np.array([[[1.0, 1, 2, 2]]]), np.array([[[2.0, 1, 2, 2]]])
    assert measure("", "", "pred_boxes", *middles).iou == pytest.approx(1 / 3)
    scores = np.array([[[[3.0, 0], [1, 1]], [[0, 3], [0, 2]]]])  # labels 0 1 / 0 1
    row = measure_labels("", "", "classLabels", scores, np.array([[[0, 1], [1, 1]]]))
    assert (row.agreement, row.iou) == (0.75, pytest.approx((1 / 2 + 2 / 3) / 2))
    assert row.max_abs == 1
    broken = measure("", "", "logits", np.ones((1, 7)), np.array([[1, np.nan, 1, 1, 1, 1, 1]]))
    assert not Bar(max_error=1e9).holds(broken)
    assert not Bar(min_psnr=1e-9).holds(broken)


# Every task of BERT in `make test`, those of the other families that read text in `make test-all`.
TASKS = [
    pytest.param(model_type, task, marks=[] if model_type == "bert" else [pytest.mark.all])
    for model_type in TEXT_MODELS
    for task in architectures.SUPPORTED[model_type].tasks
]


@pytest.mark.parametrize(("model_type", "task"), TASKS)
def test_packages_of_every_task_pass(model_type: str, task: str) -> None:
    """Raw and finished, with the inputs that a build has by default, in batches and not."""
    folder = checkpoint(model_type, task)
    for options in ({"postprocess": False, "batch_size": 2}, {"precision": "float32", "sequence_length": (3, 9)}):
        options = {"sequence_length": 7, "task": task} | options
        report = milbuild.validate(milbuild.build(folder, **options), folder)
        assert report.passed, str(report)
        assert report.drift is not None
        assert len(report.drift.outputs) > 3  # of ALBERT few: its layers are one


def test_a_checkpoint_of_another_model_type_is_refused() -> None:
    model = milbuild.build(checkpoint(), sequence_length=11)
    with pytest.raises(milbuild.Error, match="was built from a gpt2 checkpoint, and this checkpoint is a bert"):
        milbuild.validate(model, checkpoint("bert", "text-generation"))


def test_a_package_that_gives_nan_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    original = gpt2.GPT2.scale
    monkeypatch.setattr(gpt2.GPT2, "scale", lambda self, i: np.nan if i == 1 else original(self, i))
    model = milbuild.build(checkpoint(), cache="io", context_length=20, precision="float32", lint=False)
    report = milbuild.validate(model, checkpoint())
    assert not report.passed
    assert not any(report.bar.holds(row) for row in report.rows)
