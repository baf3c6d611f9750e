"""One shard's work without Ray: what is kept as it is, what is encoded anew, what is left out and why."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raycap.data import shards
from raycap.data.plan import write_plan
from raycap.data.shards import (
    Rejection,
    check_captions,
    content_hash,
    encode_image,
    make_row,
    make_shard,
    row_digest,
    write_without,
)
from raycap.datasets import FolderSource, RawRecord
from raycap.schema import IMAGE_SCHEMA, ImageRow, image_key
from raycap.vision import decode_image

ORIENTATION = 0x0112


def encoded(pixels: np.ndarray[Any, Any], format: str, *, mode: str = "RGB", orientation: int = 0) -> bytes:
    image = Image.fromarray(pixels).convert(mode)
    stream = io.BytesIO()
    exif = Image.Exif()
    if orientation:
        exif[ORIENTATION] = orientation
    image.save(stream, format=format, exif=exif)
    return stream.getvalue()


@pytest.fixture
def pixels() -> np.ndarray[Any, Any]:
    """Smooth, so that JPEG keeps it nearly: uint8 (40, 60, 3)."""
    ramp = np.linspace(0, 255, 60)[None, :, None] * np.ones((40, 1, 3))
    ramp[:, :, 1] = np.linspace(0, 255, 40)[:, None]
    return ramp.astype(np.uint8)


def kept(data: bytes, *, short_side: int = 0) -> bytes:
    return encode_image(data, decode_image(data), short_side=short_side)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_upright_rgb_bytes_are_kept(pixels: np.ndarray[Any, Any], format: str) -> None:
    for orientation in (0, 1):
        data = encoded(pixels, format, orientation=orientation)
        assert kept(data) is data
        assert kept(data, short_side=40) is data
        assert kept(data, short_side=100) is data  # never enlarged


@pytest.mark.parametrize(
    ("format", "mode", "orientation", "becomes"),
    [
        ("JPEG", "RGB", 6, "JPEG"),
        ("JPEG", "L", 0, "JPEG"),
        ("JPEG", "CMYK", 0, "JPEG"),
        ("WEBP", "RGB", 0, "JPEG"),
        ("PNG", "RGBA", 0, "PNG"),
        ("PNG", "P", 0, "PNG"),
        ("BMP", "RGB", 0, "PNG"),
        ("GIF", "P", 0, "PNG"),
        ("TIFF", "RGB", 0, "PNG"),
    ],
)
def test_other_bytes_become_upright_rgb(
    pixels: np.ndarray[Any, Any], format: str, mode: str, orientation: int, becomes: str
) -> None:
    data = encoded(pixels, format, mode=mode, orientation=orientation)
    out = kept(data)
    image = Image.open(io.BytesIO(out))
    assert (image.format, image.mode) == (becomes, "RGB")
    assert image.getexif().get(ORIENTATION, 1) == 1
    assert image.size == ((40, 60) if orientation == 6 else (60, 40))
    difference = np.abs(decode_image(out).astype(int) - decode_image(data).astype(int))
    assert difference.max() <= (0 if becomes == "PNG" else 12)


def test_short_side_is_reduced(pixels: np.ndarray[Any, Any]) -> None:
    assert Image.open(io.BytesIO(kept(encoded(pixels, "JPEG"), short_side=20))).size == (30, 20)
    turned = encoded(pixels, "JPEG", orientation=8)
    assert Image.open(io.BytesIO(kept(turned, short_side=20))).size == (20, 30)


def test_content_hash_sees_pixels_only(pixels: np.ndarray[Any, Any]) -> None:
    as_png, as_bmp = encoded(pixels, "PNG"), encoded(pixels, "BMP")
    assert content_hash(decode_image(as_png)) == content_hash(decode_image(as_bmp)) == content_hash(pixels)
    assert content_hash(pixels.reshape(60, 40, 3)) != content_hash(pixels)
    other = pixels.copy()
    other[3, 3, 0] ^= 1
    assert content_hash(other) != content_hash(pixels)


def test_captions_are_checked_one_by_one() -> None:
    found = ["  A\tdog \n runs ", "", "   ", None, 3, "x" * 21, "caf\ufffd", "half \ud83d", "ok"]
    good, rejections = check_captions(found, max_characters=20)
    assert good == ["A dog runs", "ok"]
    assert [rejection.reason for rejection in rejections] == [
        "empty",
        "empty",
        "not text",
        "not text",
        "longer than 20 characters",
        "not valid UTF-8",
        "not valid UTF-8",
    ]
    assert {rejection.what for rejection in rejections} == {"caption"}


@pytest.fixture
def source(tmp_path: Path, pixels: np.ndarray[Any, Any]) -> FolderSource:
    (tmp_path / "good.jpg").write_bytes(encoded(pixels, "JPEG"))
    (tmp_path / "cut.jpg").write_bytes(encoded(pixels, "JPEG")[:200])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_bytes(b"no image at all")
    (tmp_path / "folder.jpg").mkdir()
    return FolderSource(path=str(tmp_path))


def record(source: FolderSource, name: str, captions: list[Any], **more: Any) -> RawRecord:
    return RawRecord(name, "train", f"{source.path}/{name}", captions, **more)


def made(source: FolderSource, item: RawRecord) -> tuple[ImageRow | None, list[Rejection]]:
    row, rejections = make_row(item, source=source, short_side=0, max_characters=1000)
    return (row.row if row else None), rejections


def test_good_row(source: FolderSource) -> None:
    row, rejections = made(source, record(source, "good.jpg", [" a ", "b"]))
    data = (Path(source.path) / "good.jpg").read_bytes()
    assert row == {"image_id": "good.jpg", "split": "train", "image": data, "captions": ["a", "b"]}
    assert rejections == []


def test_bad_caption_costs_itself_only(source: FolderSource) -> None:
    row, rejections = made(source, record(source, "good.jpg", ["a", ""], problems=["line 3 is odd"]))
    assert row is not None
    assert row["captions"] == ["a"]
    assert rejections == [
        Rejection("caption", "empty"),
        Rejection("caption", "unusable line", "line 3 is odd"),
    ]


@pytest.mark.parametrize(
    ("name", "captions", "reason"),
    [
        ("cut.jpg", ["a"], "cannot be decoded"),
        ("empty.jpg", ["a"], "cannot be decoded"),
        ("text.jpg", ["a"], "cannot be decoded"),
        ("absent.jpg", ["a"], "no such file"),
        ("folder.jpg", ["a"], "cannot be read"),
        ("nul\0.jpg", ["a"], "cannot be read"),
        ("good.jpg", ["", None], "no usable caption"),
        ("good.jpg", [], "no usable caption"),
    ],
)
def test_bad_image_is_told_with_its_reason(
    source: FolderSource, name: str, captions: list[Any], reason: str
) -> None:
    row, rejections = made(source, record(source, name, captions))
    assert row is None
    assert [(rejection.what, rejection.reason) for rejection in rejections] == [("image", reason)]


def test_names_that_are_no_text(source: FolderSource, tmp_path: Path) -> None:
    """JSON can hold half a surrogate pair, which neither Arrow nor a file name can."""
    items = [record(source, "half \ud83d.jpg", ["a"]), record(source, "good.jpg", ["a", "half \ud83d"])]
    _, results = shard_of(source, tmp_path, items)
    assert [(line["image_id"], line["reason"]) for line in results.to_pylist()] == [
        ("half \\ud83d.jpg", "image id is not valid UTF-8"),
        ("good.jpg", "not valid UTF-8"),
        ("", ""),
    ]


def test_line_that_names_no_image(source: FolderSource) -> None:
    item = RawRecord("metadata.jsonl:4", "train", "", [], problems=["not JSON"])
    assert made(source, item) == (None, [Rejection("image", "unusable line", "not JSON")])


def test_reading_is_tried_again(source: FolderSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that fails for a moment is no bad image."""
    tries: list[str] = []
    read = FolderSource.read

    def flaky(self: FolderSource, item: RawRecord) -> tuple[bytes, list[Any]]:
        tries.append(item.path)
        if len(tries) < 3:
            raise OSError("connection reset")
        return read(self, item)

    monkeypatch.setattr(FolderSource, "read", flaky)
    monkeypatch.setattr(shards.time, "sleep", lambda seconds: None)
    row, _ = made(source, record(source, "good.jpg", ["a"]))
    assert row is not None
    assert len(tries) == 3


def shard_of(source: FolderSource, folder: Path, records: list[RawRecord]) -> tuple[Path, Any]:
    plan, output = folder / "plan.jsonl", folder / "part.parquet"
    write_plan(str(plan), records)
    results = make_shard(str(plan), str(output), shard=7, source=source, short_side=0, max_characters=1000)
    return output, results


def test_shard_holds_the_good_rows(
    source: FolderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "ROW_GROUP_BYTES", 1)
    names = ("good.jpg", "cut.jpg", "good.jpg")
    items = [record(source, name, ["a", ""])._replace(image_id=f"{n}") for n, name in enumerate(names)]
    output, results = shard_of(source, tmp_path, items)
    table = pq.read_table(output)
    assert table.schema.equals(IMAGE_SCHEMA)
    assert table["image_id"].to_pylist() == ["0", "2"]
    assert table["captions"].to_pylist() == [["a"], ["a"]]
    assert pq.ParquetFile(output).num_row_groups == 2
    told = results.to_pylist()
    assert [(line["what"], line["reason"], line["row"]) for line in told] == [
        ("caption", "empty", -1),
        ("", "", 0),
        ("image", "cannot be decoded", -1),
        ("caption", "empty", -1),
        ("", "", 1),
    ]
    assert told[1]["key"] == image_key("0")
    assert told[1]["content"] == told[4]["content"]
    assert told[4]["digest"] == row_digest(table.to_pylist()[1])
    assert {line["shard"] for line in told} == {7}


def test_shard_without_a_good_row_writes_no_file(source: FolderSource, tmp_path: Path) -> None:
    output, results = shard_of(source, tmp_path, [record(source, "cut.jpg", ["a"])])
    assert not output.exists()
    assert results["reason"].to_pylist() == ["cannot be decoded"]


def test_write_without(source: FolderSource, tmp_path: Path) -> None:
    items = [record(source, "good.jpg", ["a", "b"])._replace(image_id=str(n)) for n in range(4)]
    output, results = shard_of(source, tmp_path, items)
    unique = tmp_path / "unique.parquet"
    dropped = {1: ("same id as", "x"), 3: ("same picture as", "y")}
    told = write_without(str(output), str(unique), dropped=dropped, shard=7).to_pylist()
    assert pq.read_table(unique)["image_id"].to_pylist() == ["0", "2"]
    assert [(line["image_id"], line["reason"], line["detail"], line["captions"]) for line in told] == [
        ("1", "same id as", "x", 2),
        ("3", "same picture as", "y", 2),
    ]
    assert [line["digest"] for line in told] == [results["digest"].to_pylist()[row] for row in (1, 3)]
    everything = dict.fromkeys(range(4), ("gone", ""))
    write_without(str(output), str(tmp_path / "none.parquet"), dropped=everything, shard=7)
    assert not (tmp_path / "none.parquet").exists()


def test_digest_tells_fields_apart() -> None:
    row = ImageRow(image_id="a", split="train", image=b"x", captions=["b", "c"])
    others = [
        {"image_id": "ab"},
        {"split": "val"},
        {"image": b"y"},
        {"captions": ["bc"]},
        {"captions": ["c", "b"]},
    ]
    digests = {row_digest({**row, **other}) for other in others}  # type: ignore[typeddict-item]
    assert len(digests | {row_digest(row)}) == 6
