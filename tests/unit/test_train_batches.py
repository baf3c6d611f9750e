"""From pooled batches to windows: every image once, little padding, empty windows at the end."""

import itertools
import random
from pathlib import Path

import pytest
import torch
from fakes import captions_of, make_batch, make_language_model

from raycap.models.gpt2_cross import Gpt2CrossConfig
from raycap.schema import IGNORE_INDEX, CaptionBatch
from raycap.text import CaptionTokenizer
from raycap.train.batches import empty_batch, regroup, training_batches, windows
from raycap.train.config import TrainOptions

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_language_model(tmp_path_factory.mktemp("language_model"))


@pytest.fixture(scope="module")
def pool(language_model: Path) -> CaptionBatch:
    """Eleven images with one to four captions each, so that rows differ in length."""
    captions = [texts[: 1 + index % 4] for index, texts in enumerate(captions_of(11, per_image=4))]
    return make_batch(CaptionTokenizer.load(str(language_model)), captions)


def lengths(batch: CaptionBatch) -> list[int]:
    return (batch["caption_index"] >= 0).sum(dim=1).tolist()


def test_regroup_keeps_every_row_once_and_trims_padding(pool: CaptionBatch) -> None:
    batches = regroup(pool, size=4, order=random.Random(0))
    assert sorted(len(batch["image_key"]) for batch in batches) == [3, 4, 4]
    keys = torch.cat([batch["image_key"] for batch in batches])
    assert sorted(keys.tolist()) == sorted(pool["image_key"].tolist())
    assert all(batch["labels"].shape[1] == max(lengths(batch)) for batch in batches)
    tokens = sum(sum(lengths(batch)) for batch in batches)
    assert tokens == sum(lengths(pool))
    area = sum(batch["labels"].numel() for batch in batches)
    assert area < 0.75 * pool["labels"].numel()


def test_regroup_does_not_change_the_loss(pool: CaptionBatch, language_model: Path) -> None:
    config = Gpt2CrossConfig(language_model=str(language_model))
    model = config.build(tokenizer=config.load_tokenizer(), vision_dim=24).eval()
    with torch.no_grad():
        whole = model(pool)
        parts = [model(batch) for batch in regroup(pool, size=3, order=random.Random(1))]
    assert sum(int(part.count) for part in parts) == int(whole.count)
    assert float(sum(part.loss_sum for part in parts)) == pytest.approx(float(whole.loss_sum), rel=1e-5)


class FakeShard:
    """Hands out one pool, and remembers how it was asked."""

    def __init__(self, pool: CaptionBatch) -> None:
        self.pool = pool
        self.asked: dict[str, object] = {}

    def iter_torch_batches(self, **options: object) -> list[CaptionBatch]:
        self.asked = options
        return [self.pool]


def test_training_batches_order_depends_on_the_epoch_only(pool: CaptionBatch) -> None:
    options = TrainOptions(run="run", batch_size=3, bucket_batches=4, shuffle_images=64, seed=5)
    shard = FakeShard(pool)

    def order(epoch: int) -> list[list[int]]:
        batches = training_batches(shard, print, options, epoch=epoch, rank=0, device=CPU)
        return [batch["image_key"].tolist() for batch in batches]

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert shard.asked["batch_size"] == 12
    assert shard.asked["local_shuffle_seed"] == 6


def test_windows_end_in_empty_ones() -> None:
    batches = [{"number": number} for number in range(5)]
    taken = itertools.islice(windows(iter(batches), size=2), 5)  # type: ignore[arg-type]
    assert [len(window) for window in taken] == [2, 2, 1, 0, 0]


def test_empty_batch_has_no_loss_and_no_gradient(language_model: Path) -> None:
    config = Gpt2CrossConfig(language_model=str(language_model))
    tokenizer = config.load_tokenizer()
    model = config.build(tokenizer=tokenizer, vision_dim=24)
    batch = empty_batch(
        patches=5, vision_dim=24, start_id=tokenizer.start_id, end_id=tokenizer.end_id, device=CPU
    )
    assert batch["labels"].tolist() == [[tokenizer.end_id]]
    assert (batch["labels"] != IGNORE_INDEX).all()  # one token, so that no family divides by zero
    (model(batch).loss_sum * 0.0).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and not p.grad.any() for p in trained)
