"""Captioning of files: one line each, in order, and a bad photo costs that photo only."""

import json
from pathlib import Path

import pytest
from test_engine import encoded, picture, train_toy

from raycap.caption import CaptionFilesConfig, caption_files, find_photos, print_captions
from raycap.config import ConfigError
from raycap.engine import CaptionEngine


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> CaptionEngine:
    trained = train_toy(tmp_path_factory.mktemp("caption"))
    return CaptionEngine.load(trained.path, device="cpu")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photos in two folders, a damaged one, and files that are none."""
    (tmp_path / "more").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("b.png", "a.JPG", "more/c.webp", ".hidden/d.jpg"):
        kind = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[name.rpartition(".")[2].lower()]
        (tmp_path / name).write_bytes(encoded(picture(len(name)), kind))
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xffnothing")
    (tmp_path / "notes.txt").write_text("no photo")
    return tmp_path


def config_for(engine: CaptionEngine, **settings: object) -> CaptionFilesConfig:
    return CaptionFilesConfig.model_validate({"checkpoint": engine.path, "batch_size": 2, **settings})


def test_a_folder_is_searched_in_order(photos: Path) -> None:
    found, problems = find_photos([str(photos)])
    assert [Path(path).relative_to(photos).as_posix() for path in found] == [
        "a.JPG",
        "b.png",
        "broken.jpg",
        "more/c.webp",
    ]
    assert problems == []


def test_good_photos_are_captioned_and_bad_ones_named(
    engine: CaptionEngine, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [str(photos / "b.png"), str(photos), str(photos / "absent.jpg"), str(photos / ".hidden/x")]
    (photos / ".hidden/x").mkdir()
    assert print_captions(engine, named, config_for(engine)) == 1
    out, err = capsys.readouterr()
    lines = [line.split("\t") for line in out.splitlines()]
    assert [Path(path).name for path, _ in lines] == ["b.png", "a.JPG", "b.png", "c.webp"]
    assert dict(lines) == {path: engine.caption(path).text for path, _ in lines}
    assert "broken.jpg: not an image" in err
    assert f"no such file: {photos}/absent.jpg" in err
    assert f"{photos}/.hidden/x: no image in this folder" in err


def test_all_good_is_exit_code_0(
    engine: CaptionEngine, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_for(engine, decoding={"beams": 2, "n": 2}, json_lines=True)
    assert print_captions(engine, [str(photos / "a.JPG")], config) == 0
    answer = json.loads(capsys.readouterr().out)
    expected = engine.caption(photos / "a.JPG", n=2, beams=2)
    assert answer == {
        "image": str(photos / "a.JPG"),
        "captions": [{"caption": c.text, "score": round(c.score, 6)} for c in expected],
    }


def test_nothing_to_caption_is_refused(engine: CaptionEngine) -> None:
    with pytest.raises(ConfigError, match="at least one photo"):
        caption_files([], config_for(engine))
