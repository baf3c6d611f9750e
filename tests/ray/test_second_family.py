"""A family that raycap knows nothing of trains, stops where it must, and captions, through the seam alone."""

from pathlib import Path
from typing import Any

import pytest
from prepared import tiny_run

import raycap
from raycap import checkpoint
from raycap.checkpoint import RunCheckpoints
from raycap.schema import image_key
from raycap.train import TrainConfig, train
from raycap.train.launch import TrainingError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session", "tiny_plugin")]

IMAGES = 24


@pytest.fixture
def document(tmp_path: Path, tiny_encoder: str) -> dict[str, Any]:
    settings = tiny_run(tmp_path, tiny_encoder, train=IMAGES, val=5, batch_size=3, shuffle_images=8)
    return {**settings, "optim": {"lr": 0.05, "accumulate": 2}}


def keys_by_rank(log: Path) -> list[list[int]]:
    """Keys that each process trained on, in order."""
    return [[int(key) for key in path.read_text().split()] for path in sorted(log.glob("*.log"))]


def test_it_trains_and_captions(document: dict[str, Any], tmp_path: Path) -> None:
    run = train(TrainConfig.model_validate(document))
    everything = sorted(image_key(f"train-{number:03}") for number in range(IMAGES))
    ranks = keys_by_rank(tmp_path / "log")
    assert len(ranks) == 2
    for epoch in range(2):
        half = IMAGES // 2
        assert sorted(key for keys in ranks for key in keys[epoch * half : (epoch + 1) * half]) == everything
    assert ranks[0][: IMAGES // 2] != ranks[0][IMAGES // 2 :]  # another order in another epoch

    loaded = checkpoint.load(run)
    assert int(loaded.model.images_known) == IMAGES  # what finish() built from the training rows
    losses = loaded.manifest.metrics
    assert losses["val_loss"] < 5.0  # 5.9 at the start
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(open_photo(tmp_path / "data"))
    caption = raycap.load(run, device="cpu").caption(str(photo))
    assert caption.text.split()  # says something, in its own words
    tokens = loaded.tokenizer.encode([caption.text], max_tokens=30)[0]
    assert len(tokens) > 1


def open_photo(data: Path) -> bytes:
    import pyarrow.parquet as pq

    photo: bytes = pq.read_table(data / "val").to_pylist()[0]["image"]
    return photo


def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_saved(
    document: dict[str, Any], tmp_path: Path
) -> None:
    document["model"]["infinite_at"] = 3  # the second step's first batch
    with pytest.raises(
        TrainingError, match=r"the loss of step 2 is not finite \(.*inf\); nothing of it is saved"
    ):
        train(TrainConfig.model_validate(document))
    assert len(keys_by_rank(tmp_path / "log")) == 2  # no worker was started a second time
    newest = RunCheckpoints(document["train"]["run"]).newest_valid()
    assert newest is not None
    assert newest.endswith("step-00000001")
