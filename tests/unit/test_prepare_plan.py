"""The plan: every record once, in its split, and splits that follow from the image id and the seed alone."""

from pathlib import Path

import pytest

from raycap.data.plan import Shard, plan_path, read_plan, seeded_split, with_split, write_plans
from raycap.data.prepare import PrepareOptions
from raycap.datasets import RawRecord

NAMES = [f"image-{number}" for number in range(4000)]


def split_all(*, seed: int) -> list[str]:
    return [seeded_split(name, seed=seed, val_share=0.1, test_share=0.2) for name in NAMES]


def test_shares_and_seed() -> None:
    splits = split_all(seed=0)
    assert splits == split_all(seed=0)
    assert splits.count("val") == pytest.approx(400, abs=60)
    assert splits.count("test") == pytest.approx(800, abs=80)
    other = split_all(seed=1)
    assert sum(a == b for a, b in zip(splits, other, strict=True)) == pytest.approx(0.54 * 4000, abs=120)


def test_larger_shares_move_no_image_back_to_train() -> None:
    more = [seeded_split(name, seed=0, val_share=0.2, test_share=0.2) for name in NAMES]
    assert all(a == b or (a, b) == ("train", "val") for a, b in zip(split_all(seed=0), more, strict=True))


def test_a_split_that_is_given_stays() -> None:
    given = RawRecord("a", "test", "", [])
    assert list(with_split([given], seed=0, val_share=0, test_share=0)) == [given]
    assert next(with_split([given._replace(split="")], seed=0, val_share=0, test_share=0)).split == "train"


def test_shares_must_leave_something() -> None:
    with pytest.raises(ValueError, match="leave nothing to train on"):
        PrepareOptions(val_share=0.5, test_share=0.5)


def test_shards_hold_every_record_once(tmp_path: Path) -> None:
    splits = ["train", "val", "train", "train", "test", "val", "train"]
    records = [
        RawRecord(f"é{number}", split, "x", ["a", None, 3, "\ud83d"], row=number, problems=["p"])
        for number, split in enumerate(splits)
    ]
    shards = write_plans(records, str(tmp_path), rows_per_shard=2, limit=0)
    assert shards == [
        Shard("train", "part-00000", 2),
        Shard("val", "part-00000", 2),
        Shard("train", "part-00001", 2),
        Shard("test", "part-00000", 1),
    ]
    read = [record for shard in shards for record in read_plan(plan_path(str(tmp_path), shard))]
    assert sorted(read, key=lambda record: record.row) == records


def test_limit_of_each_split(tmp_path: Path) -> None:
    records = [RawRecord(str(n), split, "", []) for n in range(9) for split in ("train", "test")]
    shards = write_plans(records, str(tmp_path), rows_per_shard=4, limit=5)
    assert [(shard.split, shard.images) for shard in shards] == [
        ("train", 4),
        ("test", 4),
        ("train", 1),
        ("test", 1),
    ]
