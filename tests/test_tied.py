"""Files that hold the head of a tied pair and not the token embedding: transformers gives it to both, and so do we."""

from pathlib import Path

import numpy as np
import pytest

from milbuild import architectures, build
from milbuild.tasks import TASKS
from tests.tiny import SPEECH_SEQ2SEQ, TABLE

CASES = [
    (model_type, task)
    for model_type in TABLE
    for task, head in architectures.find(model_type).heads.items()
    if head.shares and not (task == "text-generation" and "fill-mask" in architectures.find(model_type).heads)
]


@pytest.mark.parametrize(("model_type", "task"), CASES)
def test_the_head_stands_for_the_embedding(model_type: str, task: str, tmp_path: Path) -> None:
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    family, row = architectures.find(model_type), TABLE[model_type]
    head = family.heads[task]
    config = transformers.AutoConfig.for_model(model_type, **row.config, tie_word_embeddings=True)
    torch.manual_seed(0)
    auto = getattr(transformers, TASKS[task].auto)
    auto.from_config(config).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    names = [f"{family.prefix}.{table}.weight" for table in head.table]
    names += [name.removeprefix(f"{family.prefix}.") for name in names]
    table = next(tensors[name] for name in names if name in tensors)
    left = {name: tensor for name, tensor in tensors.items() if name not in names}
    save_file(left | {f"{head.shares}.weight": table}, tmp_path / "model.safetensors", {"format": "pt"})

    truth = auto.from_pretrained(tmp_path)
    assert torch.equal(truth.get_input_embeddings().weight, table)
    assert torch.equal(truth.get_output_embeddings().weight, table)
    options = {"postprocess": False} | ({} if row.kind == SPEECH_SEQ2SEQ else {"sequence_length": 7})
    if task in ("text2text-generation", "speech-seq2seq"):
        build(tmp_path, task=task, precision="float32", **options)  # the graph of the tests of both functions
        return
    model = build(tmp_path, task=task, precision="float32", **options)
    ids = np.random.default_rng(0).integers(6, 61, (1, 7)).astype(np.int32)
    feed = {"input_ids": ids}
    if model_type == "bart":
        feed = {name: ids for name in model.input_description if name.endswith("input_ids")}
    with torch.no_grad():
        want = truth.eval()(**{name: torch.tensor(value).long() for name, value in feed.items()}).logits.numpy()
    got = model.predict(feed)["logits"]
    assert np.abs(got - want).max() < 1e-5 * np.ptp(want)
