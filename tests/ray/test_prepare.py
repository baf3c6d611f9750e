"""`raycap prepare` on a cluster: every row written once, every fault counted, and folders whole or absent."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin

from raycap.config import ConfigError
from raycap.data.prepare import BadDataError, PrepareConfig, prepare
from raycap.datasets.shapes import is_true
from raycap.schema import IMAGE_SCHEMA, SPLITS
from raycap.vision import decode_image

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

Rows = dict[str, list[dict[str, Any]]]


def config(path: Path, source: dict[str, Any], *, limit: int = 0, **options: Any) -> PrepareConfig:
    document = {"source": source, "data": {"path": str(path), "limit": limit}, "prepare": options}
    return PrepareConfig.model_validate(document)


def rows_of(path: Path) -> Rows:
    """Rows by split; the split column is as the folder says, and no id comes twice."""
    rows: Rows = {}
    for split in SPLITS:
        files = sorted((path / split).glob("part-*.parquet"))
        tables = [pq.read_table(file, schema=IMAGE_SCHEMA) for file in files]
        rows[split] = [row for table in tables for row in table.to_pylist()]
        assert {row["split"] for row in rows[split]} <= {split}
    ids = [row["image_id"] for members in rows.values() for row in members]
    assert len(set(ids)) == len(ids)
    return rows


def manifest_of(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((path / "manifest.json").read_text())
    return content


def rejected_of(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (path / "rejected.jsonl").read_text().splitlines()]


SHAPES = {"kind": "shapes", "train": 30, "val": 6, "test": 5, "size": 32}


def test_drawings_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows"
    assert prepare(config(path, SHAPES, rows_per_shard=8)) == str(path)
    rows = rows_of(path)
    assert [len(rows[split]) for split in SPLITS] == [30, 6, 5]
    assert len(list((path / "train").iterdir())) == 4
    for row in rows["test"]:
        assert len(row["captions"]) == 5
        assert all(is_true(caption, row["image_id"]) for caption in row["captions"])
        assert decode_image(row["image"]).shape == (32, 32, 3)
    manifest = manifest_of(path)
    assert manifest["counts"] == {"train": 30, "val": 6, "test": 5}
    assert manifest["captions"] == {"train": 150, "val": 30, "test": 25}
    assert manifest["rejected"]["reasons"] == {}
    assert manifest["files"] == {
        file.relative_to(path).as_posix(): file.stat().st_size for file in path.rglob("*.parquet")
    }
    assert sorted(entry.name for entry in path.iterdir()) == [
        "manifest.json",
        "rejected.jsonl",
        *sorted(SPLITS),
    ]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "prepared 41 images with 205 captions (train 30, val 6, test 5)" in captured.err

    fingerprint = manifest["fingerprint"]
    prepare(config(tmp_path / "one", SHAPES, rows_per_shard=1000))
    assert manifest_of(tmp_path / "one")["fingerprint"] == fingerprint  # the shards' sizes are not content
    prepare(config(tmp_path / "seeded", {**SHAPES, "seed": 1}))
    assert manifest_of(tmp_path / "seeded")["fingerprint"] != fingerprint


def test_a_finished_folder_answers_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows"
    prepare(config(path, SHAPES))
    made = (path / "manifest.json").stat().st_mtime_ns
    start = time.monotonic()
    prepare(config(path, SHAPES))
    assert time.monotonic() - start < 1
    assert (path / "manifest.json").stat().st_mtime_ns == made
    assert "already prepared" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"source\.train was 30, is 31"):
        prepare(config(path, {**SHAPES, "train": 31}))
    prepare(config(path, {**SHAPES, "train": 31}, overwrite=True))
    assert manifest_of(path)["counts"]["train"] == 31


def test_limit_is_of_each_split(tmp_path: Path) -> None:
    prepare(config(tmp_path / "rows", SHAPES, limit=4))
    rows = rows_of(tmp_path / "rows")
    assert [len(rows[split]) for split in SPLITS] == [4, 4, 4]


@pytest.fixture
def photos(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Makes a folder source of small photos, some of them damaged."""

    def make(
        count: int, *, damaged: tuple[int, ...] = (), captions: dict[int, Any] | None = None
    ) -> dict[str, Any]:
        folder = tmp_path / "raw"
        folder.mkdir()
        lines = []
        for number in range(count):
            noise = np.random.default_rng(number).integers(0, 255, (4, 5, 3), dtype=np.uint8)
            image = Image.fromarray(noise).resize((50, 40))
            image.save(folder / f"{number}.jpg")
            if number in damaged:
                data = (folder / f"{number}.jpg").read_bytes()
                (folder / f"{number}.jpg").write_bytes(data[: len(data) // 2])
            text = (captions or {}).get(number, [f"photo {number}", f"number {number}"])
            lines.append(json.dumps({"file_name": f"{number}.jpg", "text": text}))
        (folder / "metadata.jsonl").write_text("\n".join(lines))
        return {"kind": "folder", "path": str(folder)}

    return make


def test_one_percent_damaged(
    tmp_path: Path, photos: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Damaged images cost themselves only: nothing else is lost, nothing is counted twice."""
    source = photos(200, damaged=(17, 170), captions={3: ["good", ""], 5: []})
    (tmp_path / "raw" / "42.jpg").unlink()
    path = tmp_path / "rows"
    prepare(config(path, source, rows_per_shard=16))
    rows = rows_of(path)
    kept = {row["image_id"]: row for members in rows.values() for row in members}
    assert kept.keys() == {f"{n}.jpg" for n in range(200)} - {"17.jpg", "170.jpg", "42.jpg", "5.jpg"}
    assert all(row["image"] == (tmp_path / "raw" / name).read_bytes() for name, row in kept.items())
    assert kept["3.jpg"]["captions"] == ["good"]
    told = {(line["image_id"], line["what"], line["reason"]) for line in rejected_of(path)}
    assert told == {
        ("17.jpg", "image", "cannot be decoded"),
        ("170.jpg", "image", "cannot be decoded"),
        ("42.jpg", "image", "no such file"),
        ("5.jpg", "image", "no usable caption"),
        ("3.jpg", "caption", "empty"),
    }
    manifest = manifest_of(path)
    assert sum(manifest["counts"].values()) == 196
    assert (manifest["rejected"]["images"], manifest["rejected"]["captions"]) == (4, 1)
    assert manifest["read"] == {"images": 200, "captions": 196 * 2}
    error = capsys.readouterr().err
    assert "left out 4 images and 1 caption, listed in" in error
    assert "2  image: cannot be decoded" in error


def test_too_many_bad_images_leave_nothing(tmp_path: Path, photos: Callable[..., dict[str, Any]]) -> None:
    """Nor do tasks that were under way when it was given up."""
    source = photos(40, damaged=(1, 2, 3))
    with pytest.raises(BadDataError, match=r"3 of 40 images cannot be used.*: cannot be decoded \(3\)"):
        prepare(config(tmp_path / "rows", source, rows_per_shard=2))
    time.sleep(1)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["raw", "rows.rejected.jsonl"]
    assert '"cannot be decoded"' in (tmp_path / "rows.rejected.jsonl").read_text()
    prepare(config(tmp_path / "rows", source, max_bad_share=0.1))
    assert not (tmp_path / "rows.rejected.jsonl").exists()
    assert sum(manifest_of(tmp_path / "rows")["counts"].values()) == 37
    with pytest.raises(BadDataError, match="3 of 40"):  # also of a finished folder
        prepare(config(tmp_path / "rows", source))


def test_an_image_in_two_splits_is_dropped_from_training(tmp_path: Path) -> None:
    """By its pixels: another file name, another format and other metadata do not hide it."""
    drawn = [Image.fromarray(np.full((20, 20, 3), 10 * n, dtype=np.uint8)) for n in range(8)]
    comment = PngImagePlugin.PngInfo()
    comment.add_text("comment", "not the same bytes")
    for split, numbers in (("train", (0, 1, 2, 3, 4)), ("validation", (1, 5)), ("test", (2, 5, 6))):
        folder = tmp_path / "raw" / split
        folder.mkdir(parents=True)
        for n in numbers:
            drawn[n].save(folder / f"{split}{n}.{'bmp' if split == 'test' else 'png'}", pnginfo=comment)
        names = [entry.name for entry in sorted(folder.iterdir())]
        lines = [json.dumps({"file_name": name, "text": f"caption of {name}"}) for name in names]
        (folder / "metadata.jsonl").write_text("\n".join(lines))
    path = tmp_path / "rows"
    prepare(
        config(path, {"kind": "folder", "path": str(tmp_path / "raw")}, rows_per_shard=2, max_bad_share=1)
    )
    ids = {split: [row["image_id"] for row in members] for split, members in rows_of(path).items()}
    assert ids == {
        "train": ["train/train0.png", "train/train3.png", "train/train4.png"],
        "val": ["validation/validation1.png"],
        "test": ["test/test2.bmp", "test/test5.bmp", "test/test6.bmp"],
    }
    told = {line["image_id"]: (line["split"], line["reason"], line["detail"]) for line in rejected_of(path)}
    assert told == {
        "validation/validation5.png": ("val", "same picture as an image in test", "image test/test5.bmp"),
        "train/train1.png": ("train", "same picture as an image in val", "image validation/validation1.png"),
        "train/train2.png": ("train", "same picture as an image in test", "image test/test2.bmp"),
    }
    manifest = manifest_of(path)
    assert manifest["counts"] == {"train": 3, "val": 1, "test": 3}
    assert manifest["files"].keys() == {file.relative_to(path).as_posix() for file in path.rglob("*.parquet")}


def test_an_id_in_two_splits_is_dropped_from_training(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    images = []
    for n, (name, split) in enumerate(
        [("a", "train"), ("b", "train"), ("a", "test"), ("c", "val"), ("c", "val")]
    ):
        folder = f"part{n}"
        (tmp_path / "raw" / folder).mkdir()
        Image.fromarray(np.full((9, 9, 3), n, dtype=np.uint8)).save(tmp_path / "raw" / folder / f"{name}.png")
        entry = {
            "filename": f"{name}.png",
            "filepath": folder,
            "split": split,
            "sentences": [{"raw": f"{n}"}],
        }
        images.append(entry)
    (tmp_path / "raw" / "dataset_coco.json").write_text(json.dumps({"images": images}))
    path = tmp_path / "rows"
    prepare(config(path, {"kind": "coco", "path": str(tmp_path / "raw")}, max_bad_share=0.5))
    kept = {split: [row["captions"] for row in members] for split, members in rows_of(path).items()}
    assert kept == {"train": [["1"]], "val": [["3"]], "test": [["2"]]}
    assert {(line["image_id"], line["reason"]) for line in rejected_of(path)} == {
        ("a", "same id as an image in test"),
        ("c", "same id as an image in the same split"),
    }


def test_missing_source_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        prepare(config(tmp_path / "rows", {"kind": "flickr8k", "path": str(tmp_path / "absent")}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real
def test_flickr30k_in_three_layouts(tmp_path: Path, shared: Path) -> None:
    folder = str(shared / "flickr30k-subset")
    prints = {}
    for layout in ("karpathy", "token", "csv"):
        source = {"kind": "flickr30k", "path": folder, "layout": layout}
        path = tmp_path / layout
        prepare(config(path, source, limit=60, val_share=0.3, test_share=0.3))
        assert manifest_of(path)["rejected"]["images"] == 0
        prints[layout] = manifest_of(path)["fingerprint"]
        rows = rows_of(path)
        assert [len(rows[split]) for split in SPLITS] == [60, 60, 0 if layout == "karpathy" else 60]
        assert {len(row["captions"]) for members in rows.values() for row in members} == {5}
        first = rows["train"][0]
        name = shared / "flickr30k-subset" / "flickr30k-images" / f"{first['image_id']}.jpg"
        assert first["image"] == name.read_bytes()
    assert prints["token"] == prints["csv"] != prints["karpathy"]


@pytest.mark.real
def test_flickr8k_reduced(tmp_path: Path, shared: Path) -> None:
    source = {"kind": "flickr8k", "path": str(shared / "flickr8k-sample")}
    prepare(config(tmp_path / "rows", source, short_side=128))
    rows = [row for members in rows_of(tmp_path / "rows").values() for row in members]
    assert len(rows) == 100
    assert {min(decode_image(row["image"]).shape[:2]) for row in rows} == {128}


KILLED = """
import sys
from raycap.data import start_ray
from raycap.data.prepare import PrepareConfig, prepare
start_ray()
prepare(PrepareConfig.model_validate_json(sys.argv[1]))
"""


@pytest.mark.slow
def test_killed_in_the_middle_and_run_again(tmp_path: Path) -> None:
    """SIGKILL of the whole process group, as when the power fails; then the same command finishes the work."""
    path = tmp_path / "rows"
    settings = config(path, {"kind": "shapes", "train": 4000, "val": 50, "test": 50}, rows_per_shard=50)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, settings.model_dump_json()],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 240
        while len(list(tmp_path.glob(".rows.*.preparing/*/*.parquet"))) < 5:
            assert process.poll() is None, "it finished, or failed, before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not path.exists()
    assert len(list(tmp_path.iterdir())) == 1  # what it left is hidden, and cleared by the next run
    prepare(settings)
    rows = rows_of(path)
    assert [len(rows[split]) for split in SPLITS] == [4000, 50, 50]
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows"]
    prepare(
        settings.model_copy(
            update={"data": settings.data.model_copy(update={"path": str(tmp_path / "once")})}
        )
    )
    assert manifest_of(tmp_path / "once")["fingerprint"] == manifest_of(path)["fingerprint"]
