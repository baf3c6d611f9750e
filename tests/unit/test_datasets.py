"""Flickr30k and Flickr8k in every layout people have them in; nothing here reads more than a few small files."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from raycap.config import ConfigError
from raycap.datasets import (
    CocoSource,
    Flickr8kSource,
    Flickr30kSource,
    FolderSource,
    RawRecord,
    ShapesSource,
    Source,
    SourceConfig,
)


def jpeg(colour: str = "red") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(stream, format="JPEG")
    return stream.getvalue()


@pytest.fixture
def flickr30k(tmp_path: Path) -> Path:
    (tmp_path / "flickr30k-images").mkdir()
    for name in ("1.jpg", "2.jpg", "3.jpg"):
        (tmp_path / "flickr30k-images" / name).write_bytes(jpeg())
    return tmp_path


def karpathy(folder: Path, name: str) -> None:
    images = [
        {"filename": f"{n}.jpg", "split": split, "sentences": [{"raw": f"photo {n}"}, {"raw": f"a {n}"}]}
        for n, split in ((1, "train"), (2, "val"), (3, "test"))
    ]
    (folder / name).write_text(json.dumps({"dataset": "x", "images": images}))


def brief(records: Iterator[RawRecord]) -> list[tuple[str, str, list[object]]]:
    return [(record.image_id, record.split, record.captions) for record in records]


def test_kind_selects_the_source() -> None:
    adapter: TypeAdapter[Source] = TypeAdapter(SourceConfig)
    assert isinstance(adapter.validate_python({"kind": "shapes"}), ShapesSource)
    assert isinstance(adapter.validate_python({"kind": "flickr8k", "path": "x"}), Flickr8kSource)
    with pytest.raises(ValidationError, match=r"flickr30k.*coco.*folder.*shapes"):
        adapter.validate_python({"kind": "imagenet"})


def test_settings_of_one_name_are_alike_in_all_sources() -> None:
    """The command line has one flag for them; cyclopts refuses a union whose members disagree."""
    seen: dict[str, object] = {}
    for source in (CocoSource, Flickr30kSource, Flickr8kSource, FolderSource, ShapesSource):
        for name, field in source.model_fields.items():
            if name != "kind":
                kept = seen.setdefault(name, (field.annotation, field.default, field.description))
                assert kept == (field.annotation, field.default, field.description), name


def test_relative_paths_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ray's workers run in another folder."""
    monkeypatch.chdir(tmp_path)
    assert Flickr30kSource(path="raw").path == str(tmp_path / "raw")


def test_flickr30k_karpathy(flickr30k: Path) -> None:
    karpathy(flickr30k, "dataset_flickr30k.json")
    source = Flickr30kSource(path=str(flickr30k))
    records = list(source.records())
    assert brief(iter(records)) == [
        ("1", "train", ["photo 1", "a 1"]),
        ("2", "val", ["photo 2", "a 2"]),
        ("3", "test", ["photo 3", "a 3"]),
    ]
    assert source.read(records[0]) == (jpeg(), ["photo 1", "a 1"])


def test_flickr30k_token(flickr30k: Path) -> None:
    lines = ["1.jpg#0\tA man , a plan .", "1.jpg#1\tA canal .", "2.jpg#0 no tab", "3.jpg#0\tthree"]
    (flickr30k / "results_20130124.token").write_text("\n".join(lines) + "\n")
    records = list(Flickr30kSource(path=str(flickr30k)).records())
    assert brief(iter(records)) == [
        ("1", "", ["A man , a plan .", "A canal ."]),
        ("2", "", []),
        ("3", "", ["three"]),
    ]
    assert records[1].problems == ["line 3 of results_20130124 has no tab before its caption"]


def test_flickr30k_kaggle_with_its_known_broken_line(flickr30k: Path) -> None:
    """Line 19,999 of the published file lacks a separator; it must cost one caption, not the file."""
    lines = [
        "image_name| comment_number| comment",
        "1.jpg| 0| One | of two .",
        "1.jpg| 1   A dog .",
        "2.jpg| 0| Two",
    ]
    (flickr30k / "results.csv").write_text("\n".join(lines))
    records = list(Flickr30kSource(path=str(flickr30k)).records())
    assert brief(iter(records)) == [("1", "", ["One | of two ."]), ("2", "", ["Two"])]
    assert records[0].problems == ["line 3 of results.csv has 2 of 3 fields"]


def test_flickr30k_prefers_the_file_with_splits(flickr30k: Path) -> None:
    karpathy(flickr30k, "dataset_flickr30k.json")
    (flickr30k / "results_20130124.token").write_text("1.jpg#0\ttoken\n")
    assert next(Flickr30kSource(path=str(flickr30k)).records()).split == "train"
    assert next(Flickr30kSource(path=str(flickr30k), layout="token").records()).captions == ["token"]


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    rows = [
        {
            "image": {"bytes": jpeg(colour) if colour else None, "path": None},
            "caption": [f"{colour} one", f"{colour} two"],
            "split": split,
            "filename": f"{number}.jpg",
        }
        for number, (colour, split) in enumerate(
            [("red", "train"), ("green", "val"), ("blue", "test"), ("", "train"), ("white", "train")]
        )
    ]
    for part, chunk in enumerate((rows[:3], rows[3:])):
        path = tmp_path / "data" / f"test-0000{part}.parquet"
        pq.write_table(pa.Table.from_pylist(chunk), path, row_group_size=2)
    return tmp_path


def test_flickr30k_hub_parquet(hub: Path) -> None:
    source = Flickr30kSource(path=str(hub))
    records = list(source.records())
    assert [(record.image_id, record.split, record.row) for record in records] == [
        ("0", "train", 0),
        ("1", "val", 1),
        ("2", "test", 2),
        ("3", "train", 0),
        ("4", "train", 1),
    ]
    assert source.read(records[2]) == (jpeg("blue"), ["blue one", "blue two"])
    assert source.read(records[4]) == (jpeg("white"), ["white one", "white two"])
    with pytest.raises(ValueError, match="no image bytes"):
        source.read(records[3])


def test_hub_parquet_of_other_columns_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"jpg": [b""], "caption": [["a"]]}), tmp_path / "0.parquet")
    with pytest.raises(ConfigError, match="columns jpg, caption; it needs 'image' and 'caption'"):
        list(Flickr30kSource(path=str(tmp_path)).records())


def test_missing_files_are_named_with_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("x")
    with pytest.raises(
        ConfigError, match=r"for dataset_flickr30k\.json or results_20130124\.token or .* found readme\.txt$"
    ):
        list(Flickr30kSource(path=str(tmp_path)).records())
    with pytest.raises(ConfigError, match="no such folder"):
        list(Flickr30kSource(path=str(tmp_path / "absent")).records())
    karpathy(tmp_path, "dataset_flickr30k.json")
    with pytest.raises(ConfigError, match=r"for the images \(1\.jpg, \.\.\.\) in flickr30k-images, "):
        list(Flickr30kSource(path=str(tmp_path)).records())


def test_one_missing_image_does_not_hide_the_folder(flickr30k: Path) -> None:
    karpathy(flickr30k, "dataset_flickr30k.json")
    (flickr30k / "flickr30k-images" / "1.jpg").unlink()
    assert len(list(Flickr30kSource(path=str(flickr30k)).records())) == 3


def test_karpathy_entry_that_is_malformed_costs_itself_only(flickr30k: Path) -> None:
    good = {"filename": "1.jpg", "split": "train", "sentences": [{"raw": "one"}, {}]}
    odd = [{"filename": "2.jpg", "split": "nowhere", "sentences": []}, "text", {"split": "val"}]
    (flickr30k / "dataset_flickr30k.json").write_text(json.dumps({"images": [good, *odd]}))
    records = list(Flickr30kSource(path=str(flickr30k)).records())
    assert brief(iter(records[:1])) == [("1", "train", ["one", None])]
    assert [record.image_id for record in records[1:]] == [f"dataset_flickr30k:{n}" for n in (1, 2, 3)]
    assert all(record.problems and not record.path for record in records[1:])


@pytest.fixture
def flickr8k(tmp_path: Path) -> Path:
    (tmp_path / "Images").mkdir()
    for name in ("a_1.jpg", "b_2.jpg"):
        (tmp_path / "Images" / name).write_bytes(jpeg())
    return tmp_path


def test_flickr8k_kaggle(flickr8k: Path) -> None:
    lines = ["image,caption", 'a_1.jpg,"A dog , a ball ."', "a_1.jpg,A dog , no quotes", 'b_2.jpg,"stray']
    (flickr8k / "captions.txt").write_text("\n".join([*lines, "b_2.jpg,last", "b_2.jpg"]))
    records = list(Flickr8kSource(path=str(flickr8k)).records())
    assert brief(iter(records)) == [
        ("a_1", "", ["A dog , a ball .", "A dog , no quotes"]),
        ("b_2", "", ["stray", "last"]),
    ]
    assert records[1].problems == ["line 6 of captions.txt has no comma"]


def original_flickr8k(folder: Path) -> None:
    text = folder / "Flickr8k_text"
    text.mkdir()
    (folder / "Images").rename(folder / "Flicker8k_Dataset")
    lines = [
        f"{name}#{n}\tcaption {n} of {name}" for name in ("a_1.jpg", "b_2.jpg", "c.jpg.1") for n in (0, 1)
    ]
    (text / "Flickr8k.token.txt").write_text("\n".join(lines))
    (text / "Flickr_8k.trainImages.txt").write_text("b_2.jpg\n")
    (text / "Flickr_8k.devImages.txt").write_text("a_1.jpg\n")
    (text / "Flickr_8k.testImages.txt").write_text("unknown.jpg\n")


def test_flickr8k_original(flickr8k: Path, caplog: pytest.LogCaptureFixture) -> None:
    original_flickr8k(flickr8k)
    records = list(Flickr8kSource(path=str(flickr8k)).records())
    assert brief(iter(records)) == [
        ("b_2", "train", ["caption 0 of b_2.jpg", "caption 1 of b_2.jpg"]),
        ("a_1", "val", ["caption 0 of a_1.jpg", "caption 1 of a_1.jpg"]),
        ("unknown", "test", []),
    ]
    assert "1 images of Flickr8k.token.txt stand in no split list" in caplog.text


def test_flickr8k_without_one_of_its_lists(flickr8k: Path) -> None:
    original_flickr8k(flickr8k)
    (flickr8k / "Flickr8k_text" / "Flickr_8k.devImages.txt").unlink()
    with pytest.raises(ConfigError, match=r"but not Flickr_8k\.devImages\.txt"):
        list(Flickr8kSource(path=str(flickr8k)).records())


def test_flickr8k_without_any_list_has_no_split(flickr8k: Path) -> None:
    original_flickr8k(flickr8k)
    for path in (flickr8k / "Flickr8k_text").glob("*Images.txt"):
        path.unlink()
    assert [record.split for record in Flickr8kSource(path=str(flickr8k)).records()] == ["", "", ""]


def test_flickr8k_hub_parquet(tmp_path: Path) -> None:
    """Five caption columns, and splits in the files' names."""
    for name in ("train-00000-of-00001-ab.parquet", "validation-00000-of-00001-cd.parquet"):
        row = {"image": {"bytes": jpeg(), "path": None}, "caption_0": "one", "caption_1": "two"}
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / name)
    source = Flickr8kSource(path=str(tmp_path))
    records = list(source.records())
    told = [(record.split, record.captions) for record in records]
    assert told == [("train", ["one", "two"]), ("val", ["one", "two"])]
    assert len({record.image_id for record in records}) == 2
    assert source.read(records[1])[0] == jpeg()
