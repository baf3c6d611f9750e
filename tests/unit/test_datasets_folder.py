"""A folder of the user's own images, in the Hugging Face imagefolder convention."""

from pathlib import Path

import pytest

from raycap.config import ConfigError
from raycap.datasets import FolderSource, RawRecord


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def records(folder: Path, **settings: str) -> list[RawRecord]:
    return list(FolderSource(path=str(folder), **settings).records())  # type: ignore[arg-type]


def test_jsonl_with_one_or_many_captions(tmp_path: Path) -> None:
    write(
        tmp_path / "metadata.jsonl",
        '{"file_name": "a.jpg", "text": "one"}',
        '{"file_name": "b.jpg", "text": ["two", "three"]}',
        '{"file_name": "a.jpg", "text": "four"}',
    )
    assert [(record.image_id, record.split, record.captions) for record in records(tmp_path)] == [
        ("a.jpg", "", ["one", "four"]),
        ("b.jpg", "", ["two", "three"]),
    ]
    assert records(tmp_path)[0].path == str(tmp_path / "a.jpg")


def test_csv_with_quotes_and_another_column(tmp_path: Path) -> None:
    write(tmp_path / "metadata.csv", "file_name,alt", 'a.jpg,"one, two"', 'b.jpg,"over', 'two lines"')
    assert [record.captions for record in records(tmp_path, caption_column="alt")] == [
        ["one, two"],
        ["over\ntwo lines"],
    ]
    with pytest.raises(ConfigError, match=r"columns file_name, alt, none of which .* source\.caption_column"):
        records(tmp_path)


def test_sub_folders_are_splits_and_names_may_repeat(tmp_path: Path) -> None:
    """0001.jpg of train and 0001.jpg of test are two images: ids are paths below the folder."""
    for folder in ("train", "validation", "test"):
        write(tmp_path / folder / "metadata.jsonl", '{"file_name": "0001.jpg", "caption": "a"}')
    assert [(record.image_id, record.split) for record in records(tmp_path)] == [
        ("test/0001.jpg", "test"),
        ("train/0001.jpg", "train"),
        ("validation/0001.jpg", "val"),
    ]


def test_one_metadata_file_above_the_splits(tmp_path: Path) -> None:
    write(
        tmp_path / "metadata.csv",
        "file_name,text,split",
        "train/a.jpg,one,",
        "cats/b.jpg,two,",
        "c.jpg,three,dev",
        "d.jpg,four,holdout",
    )
    found = records(tmp_path)
    assert [(record.image_id, record.split, record.captions) for record in found] == [
        ("train/a.jpg", "train", ["one"]),
        ("cats/b.jpg", "", ["two"]),
        ("c.jpg", "val", ["three"]),
        ("d.jpg", "", []),
    ]
    assert found[3].problems == ["unknown split 'holdout'"]


def test_bad_lines_cost_themselves_only(tmp_path: Path) -> None:
    write(
        tmp_path / "metadata.jsonl",
        "{not json",
        '{"file_name": "a.jpg", "text": "one"}',
        '["a.jpg"]',
        '{"text": "of nothing"}',
        '{"file_name": "b.jpg"}',
        '{"file_name": "../secret.jpg", "text": "out"}',
        '{"file_name": "c.jpg", "text": []}',
    )
    found = {record.image_id: record for record in records(tmp_path)}
    assert found["a.jpg"].captions == ["one"]
    assert found["metadata.jsonl:1"].problems[0].startswith("not JSON")
    assert found["metadata.jsonl:3"].problems == ["a JSON list, not an object"]
    assert found["metadata.jsonl:4"].problems == ["no file_name"]
    assert found["b.jpg"].problems == ["line 5 of metadata.jsonl has no 'text'"]
    assert found["../secret.jpg"].problems == ["file_name leads out of the folder"]
    assert found["../secret.jpg"].path == ""
    assert found["c.jpg"].captions == []


def test_bytes_that_are_not_utf8_do_not_stop_the_file(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_bytes(b"file_name,text\na.jpg,caf\xe9\nb.jpg,tea\n")
    assert [record.captions for record in records(tmp_path)] == [["caf\ufffd"], ["tea"]]


def test_images_without_a_line_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "metadata.jsonl", '{"file_name": "a.jpg", "text": "one"}')
    for name in ("a.jpg", "b.jpg", "notes.txt"):
        (tmp_path / name).touch()
    assert len(records(tmp_path)) == 1
    assert "1 images in" in caplog.text
    assert "e.g. b.jpg" in caplog.text


def test_no_metadata(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ConfigError, match=r"for metadata\.jsonl or metadata\.csv, .* found a\.jpg$"):
        records(tmp_path)
