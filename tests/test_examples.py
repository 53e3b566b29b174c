"""Every example runs from end to end, and prints what transformers makes of the same tiny checkpoint."""

import json
import re
import runpy
import shutil
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image, ImageChops
from safetensors.torch import load_file, save_file

import milbuild
from milbuild import architectures
from milbuild.validation import reference as hf
from milbuild.validation.sample_inputs import random_image
from tests.conftest import checkpoint, reference
from tests.test_sound import sound
from tests.test_vision import with_processor
from tests.tiny import VISION_MODELS

EXAMPLES = Path(__file__).parents[1] / "examples"
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] the a poem of Ada Grace was written by in London Rome who what wrote it . , ?"
TEXT = "The poem was written by Ada, in London."

Run = Callable[..., str]


def test_every_example_is_run() -> None:
    written = Path(__file__).read_text()
    assert all(f'run("{path.stem}"' in written for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_without_arguments_it_says_how_it_is_used(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [str(path)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path))
    assert f"python examples/{path.name} " in str(ended.value.code)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """What an example prints when it is called with these arguments."""

    def call(script: str, *arguments: Any) -> str:
        monkeypatch.setattr("sys.argv", [script, *map(str, arguments)])
        capsys.readouterr()
        runpy.run_path(str(EXAMPLES / f"{script}.py"))
        return capsys.readouterr().out.strip()

    return call


def text_encoder(task: str, folder: Path, **options: Any) -> tuple[Path, Path]:
    """(a package, its checkpoint): BERT for the task, with a tokenizer of a few words."""
    shutil.copytree(checkpoint("bert", task), folder)
    words = {word: number for number, word in enumerate(WORDS.lower().replace("[", " [").split())}
    words = {word.upper() if word[0] == "[" else word: number for word, number in words.items()}
    words |= {f"word{number}": number for number in range(len(words), 61)}
    transformers.BertTokenizer(vocab=words).save_pretrained(folder)
    package = folder.with_suffix(".mlpackage")
    milbuild.build(folder, task=task, sequence_length=24, precision="float32", **options).save(package)
    return package, folder


def test_similarity(run: Run, tmp_path: Path) -> None:
    package, folder = text_encoder("feature-extraction", tmp_path / "bert", pooling="mean", normalize=True)
    sentences = [TEXT, "Who wrote it?", "It was written in Rome by Grace.", "The poem was written by Ada."]
    lines = run("similarity", package, folder, *sentences).splitlines()
    tokenizer, model = transformers.AutoTokenizer.from_pretrained(folder), reference(folder, "feature-extraction")
    with torch.no_grad():
        means = [model(**tokenizer([each], return_tensors="pt"))[0][0].mean(0) for each in sentences]
    expected = {
        each: torch.cosine_similarity(means[0], mean, dim=0) for each, mean in zip(sentences, means, strict=True)
    }
    assert sorted(line[6:] for line in lines) == sorted(sentences[1:])
    assert [line[:4] for line in lines] == sorted((line[:4] for line in lines), reverse=True)
    assert all(float(line[:4]) == pytest.approx(float(expected[line[6:]]), abs=0.006) for line in lines)


def test_phonemes(run: Run, tmp_path: Path) -> None:
    """As transformers generates; a real one is in test_real."""
    chars = "____" + "".join(chr(ord("a") + number) for number in range(26)) + "'-" + "".join(map(chr, range(65, 90)))
    folder = shutil.copytree(checkpoint("bart", "text2text-generation"), tmp_path / "bart")
    config = json.loads((folder / "config.json").read_text()) | {"grapheme_chars": chars, "phoneme_chars": chars[::-1]}
    config |= {"bos_token_id": 1, "decoder_start_token_id": 5}
    (folder / "config.json").write_text(json.dumps(config))
    milbuild.build(folder, sequence_length=16, cache="io", precision="float32").save(tmp_path / "bart.mlpackage")
    truth = reference(checkpoint("bart", "text2text-generation"), "text2text-generation")
    expected = []
    for word in ("spell", "word's"):
        ids = torch.tensor([[1, *map(chars.index, word), 2]])
        rules = {"decoder_start_token_id": 5, "forced_eos_token_id": 2, "do_sample": False}
        found = truth.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=29, **rules)[0, 1:].tolist()
        expected.append(f"{word} {''.join(chars[::-1][token] for token in found if token > 3)}")
    assert run("phonemes", tmp_path / "bart.mlpackage", folder, "spell", "word's") == "\n".join(expected)


def test_fill_mask(run: Run, tmp_path: Path) -> None:
    package, folder = text_encoder("fill-mask", tmp_path / "bert")
    text = "The [MASK] was written by Ada, in [MASK]."
    lines = run("fill_mask", package, folder, text).splitlines()
    pipeline = transformers.pipeline("fill-mask", str(folder), device="cpu")
    expected = [", ".join(f"{each['token_str']} ({each['score']:.1%})" for each in mask) for mask in pipeline(text)]
    assert lines == expected
    with pytest.raises(SystemExit, match=re.escape("the text has no [MASK]")):
        run("fill_mask", package, folder, TEXT)


def test_answer(run: Run, tmp_path: Path) -> None:
    package, folder = text_encoder("question-answering", tmp_path / "bert")
    tokenizer, model = transformers.AutoTokenizer.from_pretrained(folder), reference(folder, "question-answering")
    answers = set()
    for question in ("Who wrote it?", "What was written?", "Who was in Rome?", "What?"):
        line = run("answer", package, folder, question, TEXT)
        tokens = tokenizer([question], [TEXT], return_tensors="pt")
        with torch.no_grad():
            scores = model(**tokens)
        text = [place for place, number in enumerate(tokens.sequence_ids(0)) if number == 1]
        starts, ends = (scores[f"{end}_logits"][0, text].softmax(-1).tolist() for end in ("start", "end"))
        # All of the text is within 16 tokens.
        chance, first, last = max(
            (starts[a] * ends[b], text[a], text[b]) for b in range(len(text)) for a in range(b + 1)
        )
        begin, end = tokens.token_to_chars(0, first).start, tokens.token_to_chars(0, last).end
        assert line == f"{TEXT[begin:end]} ({chance:.1%})"
        answers.add(TEXT[begin:end])
    assert len(answers) > 1


def test_entities(run: Run, tmp_path: Path) -> None:
    package, folder = text_encoder("token-classification", tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {str(number): name for number, name in enumerate(["O", "A", "B", "C", "D", "E", "F"])}
    config["label2id"] = {name: int(number) for number, name in config["id2label"].items()}
    (folder / "config.json").write_text(json.dumps(config))
    lines = run("entities", package, folder, TEXT).splitlines()
    pipeline = transformers.pipeline("token-classification", str(folder), device="cpu")
    expected = [
        f"{TEXT[each['start'] : each['end']]}: {each['entity']} ({each['score']:.1%})" for each in pipeline(TEXT)
    ]
    assert lines == expected
    assert len(lines) >= 3


def test_classify_and_segment(run: Run, tmp_path: Path) -> None:
    random_image((90, 70), np.random.default_rng(0)).save(tmp_path / "picture.png")

    def package(model_type: str) -> Path:
        task = architectures.SUPPORTED[model_type].tasks[0]
        folder, _ = with_processor(checkpoint(model_type, task), model_type, tmp_path / model_type)
        milbuild.build(folder, image_size=VISION_MODELS[model_type].size).save(tmp_path / f"{model_type}.mlpackage")
        return tmp_path / f"{model_type}.mlpackage"

    assert re.fullmatch(r"LABEL_\d \(\d+\.\d%\)", run("classify", package("vit"), tmp_path / "picture.png"))
    names = run("segment", package("segformer"), tmp_path / "picture.png", tmp_path / "mask.png")
    assert all(re.fullmatch(r"LABEL_\d", name) for name in names.split(", "))
    with Image.open(tmp_path / "mask.png") as mask:
        assert mask.size == (70, 90)


def test_detect(run: Run, tmp_path: Path) -> None:
    folder, processor = with_processor(checkpoint("yolos", "object-detection"), "yolos", tmp_path / "yolos")
    tensors = load_file(folder / "model.safetensors")
    tensors["class_labels_classifier.layers.2.weight"] *= 10  # a model that is sure of what it sees
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    size = VISION_MODELS["yolos"].size
    milbuild.build(folder, image_size=size, precision="float32").save(tmp_path / "yolos.mlpackage")
    image = random_image((90, 70), np.random.default_rng(0))
    image.save(tmp_path / "picture.png")
    lines = run("detect", tmp_path / "yolos.mlpackage", folder, tmp_path / "picture.png", tmp_path / "boxes.png")
    small = processor(image.resize(size[::-1]), return_tensors="pt", do_resize=False, do_pad=False)
    with torch.no_grad():
        truth = reference(folder, "object-detection")(**small)
    found = processor.post_process_object_detection(truth, threshold=0.5, target_sizes=[(90, 70)])[0]
    expected = [
        f"LABEL_{label} ({score:.1%}): {box[0]:.0f}, {box[1]:.0f} to {box[2]:.0f}, {box[3]:.0f}"
        for score, label, box in zip(*(found[name].tolist() for name in ("scores", "labels", "boxes")), strict=True)
    ]
    assert lines.splitlines() == expected
    assert expected
    with Image.open(tmp_path / "boxes.png") as drawn:
        assert drawn.size == (70, 90)
        assert ImageChops.difference(drawn, image).getbbox() is not None


@pytest.mark.parametrize("masked", [False, True])
def test_transcribe(masked: bool, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint("wav2vec2", "ctc"), folder)
    tokens = ["<pad>", "<unk>", "|", *(chr(ord("!") + number) for number in range(58))]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=masked)
    processor = transformers.Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer)
    processor.save_pretrained(folder)
    milbuild.build(folder, sequence_length=431, precision="float32").save(tmp_path / "model.mlpackage")
    samples = (sound(400) * 3000).astype("<i2")
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(samples.tobytes())
    inputs = processor(
        samples / np.float32(32768), sampling_rate=16000, padding="max_length", max_length=431, return_tensors="np"
    )
    assert ("attention_mask" in inputs) == masked
    expected = processor.batch_decode(hf.forward(reference(folder, "ctc"), dict(inputs))["logits"].argmax(-1))[0]
    assert len(expected) >= 5
    assert run("transcribe_ctc", tmp_path / "model.mlpackage", folder, tmp_path / "a.wav") == expected.strip()
