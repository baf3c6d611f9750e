"""`raycap models compare`: two checkpoints' evaluations paired and resampled, and the page of photos."""

import base64
import html
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from fake_meteor import install_meteor
from PIL import Image
from small_run import make_run
from test_runs import failure, fill, output
from toy_family import ToyConfig, make_base

from raycap import checkpoint, metrics
from raycap.checkpoint import CheckpointError
from raycap.checkpoint.manifest import digest_of
from raycap.config import ConfigError
from raycap.metrics.measure import load_meteor
from raycap.runs.comparing import CompareOptions, compare, conditions, read_side, sentences
from raycap.runs.photos import find_photos, match, write_page
from raycap.vision import BadImageError

REFERENCES = {
    f"photo {number}": [f"a {colour} dog runs on the {place}", f"the {colour} dog is at the {place}"]
    for number, (colour, place) in enumerate(
        (colour, place)
        for colour in ("red", "blue", "brown", "black", "white")
        for place in ("beach", "lawn", "road", "hill")
    )
}
GOOD = {image_id: wanted[0].replace(" on", " along") for image_id, wanted in REFERENCES.items()}
POOR = dict.fromkeys(REFERENCES, "a man <b>sits</b> & reads")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ToyConfig:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(autouse=True)
def no_meteor(monkeypatch: pytest.MonkeyPatch) -> Any:
    install_meteor(monkeypatch, available=False)
    yield
    load_meteor.cache_clear()


def make(run: Path, base: ToyConfig, *, cider_d: float) -> str:
    return fill(str(run), base, [{"val_loss": 2.0, "cider_d": cider_d}])[0]


def evaluated(run: Path, captions: dict[str, str], *, name: str = "val-1", **given: Any) -> Path:
    """An evaluation of a run's best checkpoint, as `raycap evaluate` leaves it."""
    folder = run / "evaluate" / name
    folder.mkdir(parents=True)
    manifest = checkpoint.read_manifest(checkpoint.resolve(str(run)))
    report = {
        "checkpoint": {"digest": manifest.digest},
        "data": {"path": "data", "fingerprint": "f", "limit": 0},
        "split": "val",
        "decoding": {"beams": 3},
        "precision": "float32",
        "vocabulary": "all",
        "device": "cpu",
        "created": "2026-01-01",
        "num_images": len(captions),
        "captioning_s": 4.0,
        **given,
    }
    (folder / "report.json").write_text(json.dumps(report))
    rows = [
        {"image_id": image_id, "caption": caption, "score": -1.0, "references": REFERENCES[image_id]}
        for image_id, caption in captions.items()
    ]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def both(tmp_path: Path, base: ToyConfig) -> tuple[Path, Path]:
    """A good run and a poor one, both evaluated."""
    good, poor = tmp_path / "good", tmp_path / "poor"
    make(good, base, cider_d=0.5)
    make(poor, base, cider_d=0.1)
    evaluated(good, GOOD)
    evaluated(poor, POOR)
    return good, poor


def photos(folder: Path, names: list[str]) -> Path:
    folder.mkdir(parents=True)
    for place, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), (40 * place % 255, 90, 120)).save(folder / name)
    return folder


def test_which_is_better_is_said(both: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    out = output(capsys, "compare", str(both[0]), str(both[1]), "--bootstrap", "200")
    assert "CIDEr-D: good step 10 is better than poor step 10 by " in out
    wanted = list(REFERENCES.values())
    for captions in (GOOD, POOR):
        assert f"{metrics.score(list(captions.values()), wanted)['cider_d']:.4f}" in out
    for text in ("toy", "trained weights", "5.0 images/s (cpu, float32, beams 3)", "0.5000", "to serve"):
        assert text in out
    report = json.loads(output(capsys, "compare", *map(str, both), "--json", "--bootstrap", "100"))
    assert report["comparison"]["metrics"]["cider_d"]["p_value"] < 0.05
    assert [one["trained_weights"] for one in report["checkpoints"]] == [4 + 4 * 24] * 2
    assert [one["images_per_s"] for one in report["checkpoints"]] == [5.0] * 2
    assert report["scores"][0]["cider_d"] > report["scores"][1]["cider_d"]


def test_a_run_against_itself_differs_in_nothing(both: tuple[Path, Path]) -> None:
    said = sentences(compare(str(both[0]), str(both[0]), options=CompareOptions(bootstrap=100)))
    assert said
    assert all(sentence.endswith("no difference at all.") for sentence in said)


def test_without_evaluations_the_command_is_named(
    tmp_path: Path, base: ToyConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = make(tmp_path / "one", base, cider_d=0.5), make(tmp_path / "other", base, cider_d=0.4)
    out = output(capsys, "compare", one, other)
    assert f"No evaluation of {one} and {other}" in out
    assert "0.4000" in out
    evaluated(tmp_path / "one", GOOD)
    evaluated(tmp_path / "other", POOR, split="test")
    assert "were evaluated on other images" in output(capsys, "compare", one, other)
    plain = json.loads(output(capsys, "compare", one, other, "--json"))
    assert "were evaluated on other images" in plain["not_compared"]


def test_evaluations_of_another_checkpoint_do_not_count(tmp_path: Path, base: ToyConfig) -> None:
    run = tmp_path / "run"
    make(run, base, cider_d=0.5)
    evaluated(run, GOOD)
    evaluated(run, GOOD, name="val-2", checkpoint={"digest": "another"})
    (run / "evaluate/unfinished").mkdir()
    (run / "evaluate/notes.txt").touch()
    side = read_side(str(run))
    assert [Path(one.path).name for one in side.evaluations] == ["val-1"]


def test_a_checkpoint_outside_a_run_has_its_evaluations_beside_it(tmp_path: Path, base: ToyConfig) -> None:
    """A sweep's `best` was evaluated to SWEEP/evaluate, and compared as if it never had been."""
    run = tmp_path / "run"
    make(run, base, cider_d=0.5)
    best = shutil.copytree(checkpoint.resolve(str(run)), tmp_path / "sweep" / "best")
    shutil.move(evaluated(run, GOOD), tmp_path / "sweep" / "evaluate" / "val-1")
    side = read_side(str(best))
    assert [Path(one.path) for one in side.evaluations] == [tmp_path / "sweep/evaluate/val-1"]


def test_evaluations_decoded_alike_are_paired_and_else_it_is_said(both: tuple[Path, Path]) -> None:
    good, poor = both
    evaluated(good, GOOD, name="val-5", decoding={"beams": 5}, created="2026-01-02")
    found = compare(str(good), str(poor), options=CompareOptions(bootstrap=100)).pair
    assert found is not None
    assert [Path(one.path).name for one in found.evaluations] == ["val-1", "val-1"]  # not the newest
    (good / "evaluate/val-1/report.json").unlink()
    compared = compare(str(good), str(poor), options=CompareOptions(bootstrap=100))
    assert compared.pair is not None
    assert compared.pair.evaluations[0].report["decoding"] == {"beams": 5}


def test_damaged_captions_are_named(both: tuple[Path, Path]) -> None:
    (both[1] / "evaluate/val-1/captions.jsonl").write_text("{")
    with pytest.raises(CheckpointError, match=r"poor/evaluate/val-1/captions.jsonl is missing or damaged"):
        compare(str(both[0]), str(both[1]), options=CompareOptions(bootstrap=100))


def test_other_references_are_refused(both: tuple[Path, Path]) -> None:
    path = both[1] / "evaluate/val-1/captions.jsonl"
    path.write_text(path.read_text().replace("red", "green"))
    with pytest.raises(ConfigError, match="hold other references"):
        compare(str(both[0]), str(both[1]), options=CompareOptions(bootstrap=100))


def test_a_page_of_evaluated_photos(
    both: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photos(tmp_path / "photos", ["photo 3.jpg", "sub/photo 7.png", "other.jpg"])
    page = tmp_path / "out/page.html"
    given = ("--images", str(folder), "--output", str(page), "--bootstrap", "100")
    out = output(capsys, "compare", str(both[0]), str(both[1]), *given)
    assert out.splitlines()[-1] == str(page)
    text = page.read_text()
    assert text.count("<article>") == 2
    for image_id in ("photo 3", "photo 7"):
        assert GOOD[image_id] in text
        assert all(reference in text for reference in REFERENCES[image_id])
    assert html.escape("a man <b>sits</b> & reads") in text
    assert "<b>sits" not in text
    assert "2 of the 2 photos that both evaluations captioned" in text
    assert "paired bootstrap of 100 resamplings" in text
    assert not re.findall(r"""(?:src|href)="(?!data:)|(?:src|href)=[^"]|@import|url\(|<script""", text)
    sources = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    assert [Image.open(io.BytesIO(base64.b64decode(source))).size for source in sources] == [(64, 48)] * 2


def test_where_captions_differ_most_comes_first(both: tuple[Path, Path], tmp_path: Path) -> None:
    good, _ = both
    mixed = tmp_path / "mixed"
    fill(str(mixed), make_base(tmp_path / "base"), [{"val_loss": 2.0, "cider_d": 0.1}])
    evaluated(mixed, {**GOOD, "photo 7": POOR["photo 7"]})
    folder = photos(tmp_path / "photos", [f"{image_id}.jpg" for image_id in GOOD])
    options = CompareOptions(
        images=str(folder), output=str(tmp_path / "page.html"), num_images=3, bootstrap=100
    )
    text = Path(write_page(compare(str(good), str(mixed), options=options), options)).read_text()
    assert re.findall(r"<p class=id>(.*?)</p>", text) == ["photo 7", "photo 0", "photo 1"]


def test_photos_that_nobody_evaluated_are_captioned(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    folder = photos(tmp_path / "photos", ["b.jpg", "a.png", "notes.txt.jpg"])
    options = CompareOptions(
        images=str(folder), output=str(tmp_path / "page.html"), device="cpu", num_images=2
    )
    compared = compare(str(run), str(run), options=options)
    text = Path(write_page(compared, options)).read_text()
    assert re.findall(r"<p class=id>(.*?)</p>", text) == ["a.png", "b.jpg"]
    assert "2 of 3 photos of" in text
    said = re.findall(r"<p class=(?:one|other)>(.*?)</p>", text)
    import raycap

    engine = raycap.load(str(run), device="cpu")
    expected = [html.escape(engine.caption(str(folder / name)).text) for name in ("a.png", "b.jpg")]
    assert said == [expected[0], expected[0], expected[1], expected[1]]


def test_photos_are_found_by_image_id(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", ["12.jpg", "val/13.JPG", "a.b.png", "val/12.jpg"])
    found = find_photos(str(folder))
    assert list(found) == ["12.jpg", "a.b.png", "val/12.jpg", "val/13.JPG"]
    assert match(found, dict.fromkeys(["12", "13.JPG", "val/12.jpg", "a.b", "14"])) == {
        "12": str(folder / "12.jpg"),
        "13.JPG": str(folder / "val/13.JPG"),
        "val/12.jpg": str(folder / "val/12.jpg"),
        "a.b": str(folder / "a.b.png"),
    }
    with pytest.raises(ConfigError, match="no photo below"):
        find_photos(str(tmp_path / "nowhere"))


def test_too_few_resamplings_are_refused(both: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    message = failure(capsys, "compare", *map(str, both), "--bootstrap", "20", code=2)
    assert "greater than or equal to 100" in message


def test_the_weights_are_counted_by_the_head_of_their_file(tmp_path: Path, base: ToyConfig) -> None:
    saved = Path(make(tmp_path / "run", base, cider_d=0.5))
    assert checkpoint.count_weights(str(saved)) == 4 + 4 * 24
    weights = saved / "model.safetensors"
    for content in (b"", b"12", b"\xff" * 40, (40).to_bytes(8, "little") + b"{}"):
        weights.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"model.safetensors is missing or no safetensors file"):
            checkpoint.count_weights(str(saved))
    weights.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        checkpoint.count_weights(str(saved))


def test_a_report_that_is_none_does_not_count(both: tuple[Path, Path]) -> None:
    """A report without its checkpoint's digest was a KeyError."""
    report = both[0] / "evaluate/val-1/report.json"
    whole = json.loads(report.read_text())
    for key in ("checkpoint", "data", "decoding"):
        report.write_text(json.dumps({**whole, key: {}}))
        assert read_side(str(both[0])).evaluations == []
    report.write_text(json.dumps(whole))
    assert len(read_side(str(both[0])).evaluations) == 1


def test_a_photo_that_is_none_is_named(both: tuple[Path, Path], tmp_path: Path) -> None:
    """The message was "image 0: damaged image", whichever of the folder it was."""
    for names in (["photo 3.jpg", "photo 4.jpg"], ["a.jpg", "b.jpg"]):
        folder = photos(tmp_path / names[0], names)
        (folder / names[1]).write_bytes(b"no photo")
        options = CompareOptions(images=str(folder), output=str(tmp_path / "page.html"), bootstrap=100)
        with pytest.raises(BadImageError, match=f"{names[1]}: not an image of a known format.*take it out"):
            write_page(compare(*map(str, both), options=options), options)
    assert not (tmp_path / "page.html").exists()


def test_document_frequencies_that_are_gone_are_said(both: tuple[Path, Path], tmp_path: Path) -> None:
    for run in both:
        report = run / "evaluate/val-1/report.json"
        whole = json.loads(report.read_text())
        report.write_text(json.dumps({**whole, "document_frequency_file": str(tmp_path / "gone.json")}))
    with pytest.raises(ConfigError, match=r"gone\.json.*put them back, or evaluate both again"):
        compare(*map(str, both), options=CompareOptions(bootstrap=100))
    report.write_text(json.dumps({**whole, "document_frequency_file": ""}))
    found = compare(*map(str, both), options=CompareOptions(bootstrap=100)).pair
    assert found is not None
    assert conditions(found).endswith("they differ in document frequency file")


def test_what_tells_the_two_apart_is_shown(
    both: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Encoder and model settings, the first things one asks, were nowhere in the comparison."""
    path = Path(checkpoint.resolve(str(both[1]))) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["model"]["lora"] = {"rank": 7}
    manifest["encoder"]["config"]["name"] = "models/other-encoder"
    del manifest["digest"]
    path.write_text(json.dumps({**manifest, "digest": digest_of(manifest)}))
    out = output(capsys, "compare", *map(str, both))
    assert re.search(r"encoder .*, \d+ x \d+ .*other-encoder, \d+ x \d+", out)
    assert re.search(r"model\.lora\.rank .* 7 ", out)
    assert "model.family" not in out
