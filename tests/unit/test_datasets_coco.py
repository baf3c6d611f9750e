"""COCO's official caption files and Karpathy's JSON."""

import json
from pathlib import Path

import pytest

from raycap.config import ConfigError
from raycap.datasets import CocoSource


def official(folder: Path, part: str, ids: list[int]) -> None:
    """An official caption file with its folder of (empty) photos."""
    (folder / part).mkdir(parents=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images = [{"id": number, "file_name": f"{number:012d}.jpg", "height": 1} for number in ids]
    for image in images:
        (folder / part / str(image["file_name"])).touch()
    annotations = [
        {"id": 10 * number + n, "image_id": number, "caption": f"{n} of {number}"}
        for n in (0, 1)
        for number in ids
    ]
    content = {"info": {}, "images": images, "annotations": annotations}
    (folder / "annotations" / f"captions_{part}.json").write_text(json.dumps(content))


def test_official_files_are_found(tmp_path: Path) -> None:
    official(tmp_path, "train2017", [9, 5])
    official(tmp_path, "val2017", [7])
    records = list(CocoSource(path=str(tmp_path)).records())
    assert [(record.image_id, record.split, record.captions) for record in records] == [
        ("9", "train", ["0 of 9", "1 of 9"]),
        ("5", "train", ["0 of 5", "1 of 5"]),
        ("7", "val", ["0 of 7", "1 of 7"]),
    ]
    assert records[2].path == str(tmp_path / "val2017" / "000000000007.jpg")


def test_official_files_by_split(tmp_path: Path) -> None:
    official(tmp_path, "train2014", [1])
    official(tmp_path, "val2014", [2])
    official(tmp_path, "val2017", [3])
    source = CocoSource(
        path=str(tmp_path),
        train_files=("annotations/captions_train2014.json", "annotations/captions_val2014.json"),
        test_files=("annotations/captions_val2017.json",),
    )
    assert [(record.image_id, record.split) for record in source.records()] == [
        ("1", "train"),
        ("2", "train"),
        ("3", "test"),
    ]


def test_files_of_both_years_must_be_chosen_from(tmp_path: Path) -> None:
    official(tmp_path, "val2014", [2])
    official(tmp_path, "val2017", [3])
    with pytest.raises(
        ConfigError, match=r"2014 and 2017, which hold the same photos; .* source\.train_files"
    ):
        list(CocoSource(path=str(tmp_path)).records())


def test_captions_without_image_and_images_without_caption(tmp_path: Path) -> None:
    official(tmp_path, "val2017", [1, 2])
    path = tmp_path / "annotations" / "captions_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"] = [
        {"image_id": 1, "caption": "one"},
        {"image_id": 8, "caption": "eight"},
        {"id": 3},
    ]
    path.write_text(json.dumps(content))
    records = list(CocoSource(path=str(tmp_path)).records())
    assert [(record.image_id, record.captions, record.problems) for record in records] == [
        ("captions_val2017:2", [], ["annotation without image_id and caption"]),
        ("1", ["one"], []),
        ("2", [], []),
        ("8", [], ["captions_val2017 has its captions but not the image"]),
    ]


def test_karpathy_counts_restval_as_train(tmp_path: Path) -> None:
    (tmp_path / "val2014").mkdir()
    images = []
    for number, split in enumerate(("restval", "val", "test", "train")):
        name = f"COCO_val2014_{number}.jpg"
        (tmp_path / "val2014" / name).touch()
        images.append(
            {
                "filepath": "val2014",
                "filename": name,
                "cocoid": number,
                "split": split,
                "sentences": [{"raw": "a"}],
            }
        )
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images}))
    records = list(CocoSource(path=str(tmp_path)).records())
    assert [(record.image_id, record.split) for record in records] == [
        ("0", "train"),
        ("1", "val"),
        ("2", "test"),
        ("3", "train"),
    ]
    assert records[0].path == str(tmp_path / "val2014" / "COCO_val2014_0.jpg")


def test_missing_and_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"for annotations/captions_train2017\.json .* found nothing"):
        list(CocoSource(path=str(tmp_path)).records())
    with pytest.raises(ConfigError, match=r"for captions_mine\.json"):
        list(CocoSource(path=str(tmp_path), val_files=("captions_mine.json",)).records())
    (tmp_path / "captions_val2017.json").write_text('{"images": []}')
    with pytest.raises(ConfigError, match="is no COCO caption file"):
        list(CocoSource(path=str(tmp_path)).records())
