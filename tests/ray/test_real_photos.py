"""A few real photos through the whole pipeline, with the preset that the README's table was made with."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

import raycap
from raycap.config import DataConfig, load_document
from raycap.data.prepare import PrepareConfig, prepare
from raycap.evaluate import EvaluateConfig, EvaluateOptions, evaluate
from raycap.train import TrainConfig, train
from raycap.train.record import read_metrics

pytestmark = [pytest.mark.ray, pytest.mark.real, pytest.mark.usefixtures("ray_session")]
IMAGES = 32


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> dict[str, Any]:
    """The preset on the first photos, its folders and one epoch of two steps put in place of its own."""
    folder = tmp_path_factory.mktemp("real")
    document = load_document("flickr30k_small")
    document["source"]["path"] = str(shared / "flickr30k-subset")
    document["data"] = {"path": str(folder / "data"), "limit": IMAGES}
    document["encoder"]["name"] = str(shared / "models/mobilenet_v2_1.0_224")
    document["model"]["language_model"] = str(shared / "models/gpt2-flickr30k-captions")
    document["featurize"]["output"] = str(folder / "features")
    document["train"] |= {
        "run": str(folder / "run"),
        "epochs": 1,
        "batch_size": IMAGES // 2,
        "cpus_per_worker": 1,
    }
    return document


def test_photos_become_a_captioner(document: dict[str, Any], shared: Path) -> None:
    prepare(PrepareConfig.from_document(document))
    run = train(TrainConfig.from_document(document))
    rows = read_metrics(run)
    losses = [row["loss"] for row in rows if row["kind"] == "step"]
    (epoch,) = [row for row in rows if row["kind"] == "epoch"]
    # The language model's own perplexity on validation captions is 31; a fresh cross-attention adds nothing to it.
    assert losses[0] == pytest.approx(math.log(31), abs=0.5)
    assert epoch["val_loss"] == pytest.approx(math.log(31), abs=0.5)

    config = EvaluateConfig(
        checkpoint=run,
        data=DataConfig.model_validate(document["data"]),
        evaluate=EvaluateOptions(vocabulary="captions", bootstrap=0),
    )
    report = json.loads(Path(evaluate(config)).read_text())
    assert report["num_images"] == IMAGES
    assert 0.2 < report["metrics"]["bleu_1"] < 0.8
    photo = next((shared / "flickr8k-sample/Images").glob("*.jpg"))
    caption = raycap.load(run, device="cpu").caption(photo)
    assert 3 <= len(caption.text.split()) <= 40
    assert caption.text.isascii()
