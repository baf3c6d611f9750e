"""What a run gathers from its shards: counts, the fingerprint, and images that stand in two splits."""

import itertools
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycap.data.outcome import Outcome
from raycap.data.plan import Shard, shard_path
from raycap.data.prepare import BadDataError, PrepareConfig, check_outcome, check_share, rejected_beside
from raycap.data.progress import LoggedProgress
from raycap.data.shards import EMPTY, RESULTS
from raycap.schema import image_key

SHARDS = [Shard("train", "part-00000", 3), Shard("val", "part-00000", 2), Shard("test", "part-00000", 1)]
Row = tuple[str, int]  # image id, hash of the pixels


def results(shard: int, rows: list[Row], *rejected: tuple[str, str]) -> pa.Table:
    written = [
        EMPTY
        | {
            "shard": shard,
            "row": number,
            "key": image_key(name),
            "content": content,
            "captions": 5,
            "digest": image_key(f"{shard} {name}").to_bytes(8, "big", signed=True),
        }
        for number, (name, content) in enumerate(rows)
    ]
    lines = [EMPTY | {"shard": shard, "image_id": "x", "what": what, "reason": why} for what, why in rejected]
    return pa.Table.from_pylist([{"detail": ""} | line for line in written + lines], schema=RESULTS)


def gather(folder: Path, *rows: list[Row]) -> Outcome:
    """An outcome of shards whose files hold the rows' ids."""
    outcome = Outcome(SHARDS)
    for shard, members in enumerate(rows):
        path = Path(shard_path(str(folder), SHARDS[shard]))
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table({"image_id": [name for name, _ in members]}), path)
        outcome.add(results(shard, members))
    return outcome


def test_counts_and_reasons() -> None:
    outcome = Outcome(SHARDS)
    assert (
        outcome.add(results(0, [("a", 1), ("b", 2)], ("caption", "empty"), ("image", "cannot be decoded")))
        == 3
    )
    assert outcome.add(results(1, [("c", 3)], ("caption", "empty"))) == 1
    assert (outcome.images["train"], outcome.images["val"], outcome.captions["train"]) == (2, 1, 10)
    assert outcome.planned == 6
    assert outcome.rejected_counts() == {
        "images": 1,
        "captions": 2,
        "reasons": {"caption: empty": 2, "image: cannot be decoded": 1},
        "example": "x (empty)",
    }
    assert [json.loads(line)["split"] for line in outcome.rejected_lines().splitlines()] == [
        "train",
        "train",
        "val",
    ]


def test_fingerprint_does_not_depend_on_the_order() -> None:
    tables = [results(0, [("a", 1), ("b", 2)]), results(1, [("c", 3)]), results(2, [("d", 4)])]
    prints = set()
    for order in itertools.permutations(tables):
        outcome = Outcome(SHARDS)
        for table in order:
            outcome.add(table)
        prints.add(outcome.fingerprint)
    assert len(prints) == 1
    outcome.remove(results(2, [("d", 4)]))
    assert outcome.images["test"] == 0
    assert outcome.fingerprint not in prints


def test_same_id_is_dropped_where_it_counts_least(tmp_path: Path) -> None:
    outcome = gather(tmp_path, [("a", 1), ("b", 2), ("c", 3)], [("a", 4), ("b", 5)], [("b", 6)])
    assert outcome.duplicates(str(tmp_path)) == {
        0: {
            0: ("same id as an image in val", "image a"),
            1: ("same id as an image in test", "image b"),
        },
        1: {1: ("same id as an image in test", "image b")},
    }


def test_same_picture_is_dropped_where_it_counts_least(tmp_path: Path) -> None:
    outcome = gather(tmp_path, [("a", 1), ("b", 1), ("c", 2)], [("d", 1), ("e", 7)], [("f", 7)])
    assert outcome.duplicates(str(tmp_path)) == {
        0: {
            0: ("same picture as an image in val", "image d"),
            1: ("same picture as an image in val", "image d"),
        },
        1: {1: ("same picture as an image in test", "image f")},
    }


def test_within_a_split_only_ids_must_differ(tmp_path: Path) -> None:
    outcome = gather(tmp_path, [("a", 1), ("b", 1), ("a", 3)])
    assert outcome.duplicates(str(tmp_path)) == {0: {2: ("same id as an image in the same split", "image a")}}


def test_an_image_dropped_by_its_id_drops_no_other(tmp_path: Path) -> None:
    outcome = gather(tmp_path, [("a", 1)], [("b", 1), ("c", 9)], [("b", 2)])
    assert outcome.duplicates(str(tmp_path)) == {1: {0: ("same id as an image in test", "image b")}}


def test_no_rows_at_all(tmp_path: Path) -> None:
    outcome = Outcome(SHARDS)
    outcome.add(results(0, [], ("image", "no such file")))
    assert outcome.duplicates(str(tmp_path)) == {}


def test_share_of_bad_images_or_captions() -> None:
    rejected = {"images": 2, "captions": 4, "reasons": {"image: no such file": 2}, "example": "a (gone)"}
    check_share({"images": 40, "captions": 80}, rejected, limit=0.05, listed="list")
    message = (
        r"2 of 39 images cannot be used, over prepare\.max_bad_share 0\.05: no such file \(2\); "
        r"for example a \(gone\); each is listed in list$"
    )
    with pytest.raises(BadDataError, match=message):
        check_share({"images": 39, "captions": 80}, rejected, limit=0.05, listed="list")
    with pytest.raises(BadDataError, match="4 of 79 captions"):
        check_share({"images": 40, "captions": 79}, rejected, limit=0.05, listed="list")


def test_what_was_rejected_is_listed_though_no_rows_are_kept(tmp_path: Path) -> None:
    """The list was thrown away with the rows, just when it was needed."""
    path = tmp_path / "rows"
    config = PrepareConfig.model_validate(
        {"source": {"kind": "folder", "path": "raw"}, "data": {"path": str(path)}, "prepare": {}}
    )
    outcome = Outcome(SHARDS)
    outcome.add(results(0, [("a", 1)], ("image", "no such file")))
    with pytest.raises(BadDataError, match=r"1 of 2 images .* listed in .*/rows\.rejected\.jsonl$"):
        check_outcome(config, outcome, {"images": 2})
    assert Path(rejected_beside(str(path))).read_text() == outcome.rejected_lines() != ""
    assert not path.exists()
    assert rejected_beside("s3://bucket/rows?region=x") == "s3://bucket/rows.rejected.jsonl?region=x"


def test_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    advance = LoggedProgress("preparing", total=100, clock=lambda: now[0])
    for seconds, count in ((4.0, 10), (12.0, 20), (18.0, 30), (40.0, 40)):
        now[0] = seconds
        advance(count)
    assert capsys.readouterr().err.splitlines() == [
        "preparing: 30 of 100, 0:28 left",
        "preparing: 100 of 100 in 0:40",
    ]
