"""`raycap score`: every form of file, every kind of wrong file, the report, and the comparison of two."""

import csv
import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_meteor import install_meteor
from prepared import write_prepared

from raycap import cli, metrics
from raycap.config import ConfigError
from raycap.metrics import PreparedReferences, baselines
from raycap.metrics.measure import load_meteor
from raycap.score import ScoreOptions, read_frequency, score_file, write_frequency
from raycap.score.files import ScoreInputError
from raycap.score.parts import measure_part, prepare_part
from raycap.score.reading import pair, read_candidates, read_references
from raycap.score.report import constant_rule
from raycap.score.sources import read_captions

SAID = {7: "a red dog runs", 3: "a man", 12: "a blue bike is here", 5: "a tree"}
WANTED = {
    3: ["Two people sit.", "A man and a woman sit."],
    5: ["A house stands on a hill.", "A small house."],
    7: ["A red dog runs.", "The dog is running."],
    12: ["A bike.", "A blue bike leans on a wall."],
}
RESULTS = [{"image_id": image, "caption": caption} for image, caption in SAID.items()]
ANNOTATIONS = {
    "images": [{"id": image} for image in WANTED],
    "annotations": [
        {"id": 10 * image + number, "image_id": image, "caption": caption}
        for number in (0, 1)
        for image, captions in WANTED.items()
        for caption in captions[number : number + 1]
    ],
}
LISTED = [
    {"image_id": image, "references": WANTED[image], "candidate": caption} for image, caption in SAID.items()
]
EXPECTED = metrics.score([SAID[image] for image in WANTED], list(WANTED.values()))


@pytest.fixture(autouse=True)
def no_meteor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """METEOR has tests of its own; here it is absent unless a test installs the fake."""
    install_meteor(monkeypatch, available=False)
    yield
    load_meteor.cache_clear()


def write(path: Path, content: object) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


def as_csv(rows: list[dict[str, Any]]) -> str:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def scored(tmp_path: Path, said: object, wanted: object = None, **options: Any) -> dict[str, Any]:
    suffix = ".csv" if isinstance(said, str) else ".json"
    path = write(tmp_path / f"said{suffix}", said)
    if wanted is not None:
        suffix = ".csv" if isinstance(wanted, str) else ".json"
        options["references"] = write(tmp_path / f"wanted{suffix}", wanted)
    return score_file(path, ScoreOptions.model_validate({"bootstrap": 20, **options}))


REFERENCE_ROWS = [{"image_id": i, "caption": text} for i, texts in WANTED.items() for text in texts]
FORMS: dict[str, tuple[object, object]] = {
    "results and annotations": (RESULTS, ANNOTATIONS),
    "a list with everything": (LISTED, None),
    "csv and annotations": (as_csv(RESULTS), ANNOTATIONS),
    "results and csv": (RESULTS, as_csv(REFERENCE_ROWS)),
    "csv and csv": (as_csv(RESULTS), as_csv(REFERENCE_ROWS)),
    "results and a list of rows": (RESULTS, REFERENCE_ROWS),
    "results and a list of lists": (RESULTS, [{"image_id": i, "references": r} for i, r in WANTED.items()]),
    "a csv with everything": (
        as_csv(
            [
                {
                    "image_id": i,
                    "candidate": said,
                    "reference_1": WANTED[i][0],
                    "reference_2": WANTED[i][1],
                    "reference_3": "",
                }
                for i, said in SAID.items()
            ]
        ),
        None,
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_scores(form: str, tmp_path: Path) -> None:
    report = scored(tmp_path, *FORMS[form])
    assert report["metrics"] == pytest.approx(EXPECTED, abs=1e-15)
    assert report["num_images"] == 4


def test_what_evaluate_writes_can_be_scored(tmp_path: Path) -> None:
    """captions.jsonl, a byte order mark and blank lines included."""
    rows = [
        {"image_id": f"val-{image}", "caption": SAID[image], "score": -0.5, "references": WANTED[image]}
        for image in WANTED
    ]
    lines = [json.dumps(row) for row in rows]
    path = write(tmp_path / "captions.jsonl", "\ufeff" + "\n\n".join(lines) + "\n")
    report = score_file(path, ScoreOptions(bootstrap=0))
    assert report["metrics"] == pytest.approx(EXPECTED, abs=1e-15)
    assert "intervals" not in report


def test_images_are_taken_in_the_annotations_order(tmp_path: Path) -> None:
    """As COCO evaluation does: a caption's last token can depend on the caption below it."""
    candidates = read_candidates(write(tmp_path / "said.json", RESULTS))
    assert list(pair(candidates, read_references(write(tmp_path / "wanted.json", ANNOTATIONS)))) == [
        3,
        5,
        7,
        12,
    ]


def changed(rows: list[dict[str, Any]], index: int, **values: Any) -> list[dict[str, Any]]:
    return [{**row, **values} if place == index else row for place, row in enumerate(rows)]


def without_annotations_of(image: int) -> dict[str, Any]:
    return {
        **ANNOTATIONS,
        "annotations": [row for row in ANNOTATIONS["annotations"] if row["image_id"] != image],
    }


BAD: dict[str, tuple[object, object, str]] = {
    "unknown image": (
        [*RESULTS, {"image_id": 99, "caption": "a"}],
        ANNOTATIONS,
        r"caption of image 99, which is not in .*wanted\.json$",
    ),
    "missing images": (
        RESULTS[:2],
        ANNOTATIONS,
        r"said\.json has no caption of image 5, which .*wanted\.json has \(and 1 more\); every image is scored",
    ),
    "duplicate": ([*RESULTS, RESULTS[0]], ANNOTATIONS, "two captions of image 7"),
    "no reference": (RESULTS, without_annotations_of(5), "no reference caption of image 5"),
    "empty list of references": (changed(LISTED, 1, references=[]), None, "image 3 .*no reference caption"),
    "references of some": (
        [*LISTED[:2], {"image_id": 8, "caption": "a"}],
        None,
        "references of some images and none of image 8",
    ),
    "caption is a number": (
        changed(RESULTS, 2, caption=4),
        ANNOTATIONS,
        "image 12 .*must be a string and is 4",
    ),
    "caption is null": (
        changed(RESULTS, 2, caption=None),
        ANNOTATIONS,
        "image 12 .*must be a string and is None",
    ),
    "reference is a number": (
        changed(LISTED, 0, references=["a", 1]),
        None,
        "a reference of image 7 .* is 1",
    ),
    "references are a string": (
        changed(LISTED, 0, references="a"),
        None,
        "image 7 .*must be a list of captions",
    ),
    "annotation is a number": (
        RESULTS,
        {**ANNOTATIONS, "annotations": [*ANNOTATIONS["annotations"], {"image_id": 3, "caption": 1}]},
        "caption of image 3 .*must be a string and is 1",
    ),
    "annotation of no image": (
        RESULTS,
        {**ANNOTATIONS, "annotations": [*ANNOTATIONS["annotations"], {"image_id": 4, "caption": "a"}]},
        "annotation 8: image 4 is not among the file's images",
    ),
    "image listed twice": (RESULTS, {**ANNOTATIONS, "images": [{"id": 3}, {"id": 3}]}, "lists image 3 twice"),
    "text ids against numbers": (
        [{**row, "image_id": str(row["image_id"])} for row in RESULTS],
        ANNOTATIONS,
        r"ids are text \('7'\) in .*said\.json and numbers \(3\) in .*write them the same way",
    ),
    "mixed ids": (changed(RESULTS, 1, image_id="3"), ANNOTATIONS, r"numbers \(7\) and text \('3'\)"),
    "id is true": (
        changed(RESULTS, 0, image_id=True),
        ANNOTATIONS,
        "entry 0: image_id must be .* and is True",
    ),
    "id is missing": ([{"caption": "a"}], ANNOTATIONS, "entry 0 has no image_id"),
    "caption is missing": (
        [{"image_id": 7}],
        ANNOTATIONS,
        r"entry 0 \(image 7\) has no caption or candidate",
    ),
    "two captions in one": (
        [{"image_id": 7, "caption": "a", "candidate": "b"}],
        ANNOTATIONS,
        "image 7.* has both caption and candidate",
    ),
    "an object": ({"7": "a"}, ANNOTATIONS, "must hold a list of objects"),
    "a list of strings": (["a"], ANNOTATIONS, "entry 0 must be an object"),
    "empty list": ([], ANNOTATIONS, r"said\.json holds no captions"),
    "annotations given as captions": (ANNOTATIONS, ANNOTATIONS, "holds annotations, not captions"),
    "no annotations": (RESULTS, {"images": []}, "is no COCO caption file"),
    "empty annotations": (RESULTS, {"images": [], "annotations": []}, r"wanted\.json holds no captions"),
    "no references anywhere": (RESULTS, None, "--references annotations.json"),
    "ragged csv": ("image_id,caption\n7,a,b\n", ANNOTATIONS, r"line 2 has 3 cells for 2 columns"),
    "csv without image_id": ("id,caption\n7,a\n", ANNOTATIONS, "must name the columns, image_id among them"),
    "csv with semicolons": (
        "image_id;caption\n7;a\n",
        ANNOTATIONS,
        r"image_id among them, each once, with commas between, and is 'image_id;caption'$",
    ),
    "csv without rows": ("image_id,caption\n", ANNOTATIONS, "holds no captions"),
    "broken csv": ('image_id,caption\n7,"a\n', ANNOTATIONS, "is not valid CSV"),
    "csv without reference": (
        "image_id,caption,reference_1\n7,a,\n",
        None,
        "image '7' .*no reference caption",
    ),
    "empty csv": (" \n", ANNOTATIONS, r"said\.csv is empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_file_is_one_sentence(case: str, tmp_path: Path) -> None:
    said, wanted, message = BAD[case]
    with pytest.raises(ValueError, match=message) as caught:
        scored(tmp_path, said, wanted)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("said.json", b'[{"image_id": 7,', "is not valid JSON: .*line 1"),
        ("said.jsonl", b'{"image_id": 7, "caption": "a"}\n{"image', "line 2 is not valid JSON"),
        (
            "said.jsonl",
            b'{"image_id": 7, "caption": "a"}\n\n{"image_id": 8}',
            r"line 3 \(image 8\) has no caption",
        ),
        ("said.jsonl", b'{"image_id": 7, "caption": "a"}\n7', "line 2 must be an object"),
        (
            "said.json",
            b'[{"image_id": ' + b"7" * 5000 + b"}]",
            r"said\.json holds a number of too many digits",
        ),
        (
            "said.jsonl",
            b'{"image_id": ' + b"7" * 5000 + b"}",
            "line 1 holds a number of too many digits .* as text",
        ),
        ("said.json", b"", "is empty"),
        ("said.json", b"\xff\xfe", "is not UTF-8"),
        ("said.json", b"[" * 100_000, "nested too deeply"),
        ("said.txt", b"a dog", r"read from \.json, \.jsonl, \.csv files"),
    ],
)
def test_an_unreadable_file_is_one_sentence(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        score_file(str(path), ScoreOptions())


def test_absent_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ScoreInputError, match=r"no such file: .*absent\.json"):
        score_file(str(tmp_path / "absent.json"), ScoreOptions())
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(ScoreInputError, match="is a folder"):
        score_file(str(tmp_path / "folder.json"), ScoreOptions())


def test_the_command_exits_non_zero_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "said.json", [*LISTED, LISTED[0]])
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["score", path])
    assert exit_info.value.code == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"raycap: {path} has two captions of image 7; one is scored\n"


def test_the_report_says_what_its_numbers_are(tmp_path: Path) -> None:
    report = scored(tmp_path, RESULTS, ANNOTATIONS)
    assert report["tokenizer"].startswith("PTB")
    assert report["document_frequency"] == {"source": "the 4 evaluated images' references", "num_images": 4}
    assert set(report["metric_versions"]) == set(report["metrics"]) == set(metrics.NAMES)
    assert set(report["intervals"]) == set(metrics.NAMES)
    assert report["bootstrap"] == {"samples": 20, "seed": 0, "level": 0.95, "method": "percentile"}
    assert report["diversity"]["most_repeated"]["count"] == 1
    assert "unseen" not in report["diversity"]
    assert report["omitted"] == {"meteor": "the word lists are not here"}
    prepared = PreparedReferences(list(WANTED.values()))
    constants = baselines.constants_left_out(list(WANTED.values()), seed=0)
    assert report["baselines"]["constant"]["metrics"] == metrics.score(constants, prepared)
    assert "baselines" not in scored(tmp_path, RESULTS, ANNOTATIONS, baselines=False)
    assert report == scored(tmp_path, RESULTS, ANNOTATIONS)  # by seed


def test_json_goes_to_stdout_alone_and_tables_to_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "said.json", LISTED)
    each = tmp_path / "each.csv"
    cli.main(["score", path, "--json", "--bootstrap", "5", "--per-image", str(each)])
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    assert report["metrics"] == pytest.approx(
        metrics.score([row["candidate"] for row in LISTED], [row["references"] for row in LISTED])  # type: ignore[arg-type, misc]
    )
    assert f"{report['metrics']['cider_d']:.4f}" in shown.err
    assert "no METEOR: the word lists are not here" in shown.err
    cli.main(["score", path, "--bootstrap", "0", "--per-image", str(each)])
    assert capsys.readouterr().out == f"{each}\n"
    with each.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["image_id"]) for row in rows] == list(SAID)
    expected = metrics.score_each(list(SAID.values()), [WANTED[image] for image in SAID])
    for name in metrics.NAMES:
        assert [float(row[name]) for row in rows] == expected[name].tolist()


def test_each_image_as_json_lines(tmp_path: Path) -> None:
    each = tmp_path / "each.jsonl"
    scored(tmp_path, RESULTS, ANNOTATIONS, per_image=str(each))
    rows = [json.loads(line) for line in each.read_text().splitlines()]
    assert [row["image_id"] for row in rows] == list(WANTED)
    assert rows[2]["caption"] == SAID[7]
    assert np.mean([row["cider_d"] for row in rows]) == pytest.approx(EXPECTED["cider_d"])


def test_a_place_that_cannot_be_written_is_refused_before_scoring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything was scored, and then lost to an error of the file system."""
    monkeypatch.setattr("raycap.score.read_pair", lambda *_: pytest.fail("it was scored"))
    (tmp_path / "file").touch()
    for place, message in (
        (tmp_path, "is a folder; name a file to write$"),
        (tmp_path / "file" / "each.csv", "cannot be written: .*file is no folder$"),
    ):
        with pytest.raises(ConfigError, match=message):
            scored(tmp_path, LISTED, per_image=str(place))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    for place in (tmp_path / "each.csv", tmp_path / "file", tmp_path / "new" / "each.csv"):
        with pytest.raises(ConfigError, match="cannot be written: no permission to write into"):
            scored(tmp_path, LISTED, per_image=str(place))


def test_each_image_is_written_into_a_new_folder_or_over_a_file(tmp_path: Path) -> None:
    for _ in range(2):
        scored(tmp_path, LISTED, per_image=str(tmp_path / "new" / "each.csv"))
    assert len((tmp_path / "new" / "each.csv").read_text().splitlines()) == 5


def test_half_a_surrogate_pair_is_scored_and_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON can hold what UTF-8 cannot."""
    path = tmp_path / "said.json"
    path.write_text('[{"image_id": 1, "candidate": "a \\ud800 dog", "references": ["a dog"]}]')
    each = tmp_path / "each.jsonl"
    cli.main(["score", str(path), "--json", "--per-image", str(each)])
    assert json.loads(capsys.readouterr().out)["metrics"]["bleu_1"] == pytest.approx(1, abs=1e-6)
    assert json.loads(each.read_text())["rouge_l"] == 1.0


def test_upper_case_names_and_long_ids(tmp_path: Path) -> None:
    said = write(tmp_path / "SAID.CSV", as_csv(RESULTS))
    options = ScoreOptions(references=write(tmp_path / "WANTED.JSON", ANNOTATIONS), bootstrap=0)
    assert score_file(said, options)["metrics"] == pytest.approx(EXPECTED, abs=1e-15)
    said = write(tmp_path / "said.csv", "image_id,caption\n" + "7" * 5000 + ",a\n")
    with pytest.raises(ScoreInputError, match="write them the same way"):
        score_file(said, options)


def make_many(size: int, *, worse: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Captions of which the other set has lost their first word in `worse` images."""
    texts = [f"a red dog number{i} runs over the green grass" for i in range(size)]
    rows = [
        {"image_id": i, "references": [text, f"the dog number{i} runs"], "candidate": text[:-6]}
        for i, text in enumerate(texts)
    ]
    others = [
        {"image_id": row["image_id"], "caption": row["candidate"][6:] if i < worse else row["candidate"]}
        for i, row in enumerate(rows)
    ]
    return rows, others


def test_a_better_file_is_called_better_and_noise_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, others = make_many(40, worse=30)
    other = write(tmp_path / "other.json", others)
    compared = scored(tmp_path, rows, compare=other, bootstrap=200)["comparison"]
    cider = compared["metrics"]["cider_d"]
    assert cider["difference"] > 0
    assert cider["interval"][0] > 0
    assert cider["p_value"] == pytest.approx(2 / 201)
    assert cider["sentence"].startswith("CIDEr-D: said.json is better than other.json by ")
    assert cider["sentence"] in " ".join(capsys.readouterr().err.split())
    theirs = metrics.score([row["caption"] for row in others], [row["references"] for row in rows])
    assert cider["other"] == theirs["cider_d"]

    few, others = make_many(40, worse=1)
    other = write(tmp_path / "other.json", others)
    compared = scored(tmp_path, few, compare=other, bootstrap=200)["comparison"]
    assert compared["metrics"]["cider_d"]["sentence"].startswith(
        "CIDEr-D: 40 images do not show which is better"
    )

    same = scored(tmp_path, rows, compare=write(tmp_path / "other.json", rows), bootstrap=100)
    same = same["comparison"]
    assert same["metrics"]["bleu_4"]["sentence"] == "BLEU-4: no difference at all."

    turned = write(tmp_path / "turned.json", make_many(40, worse=30)[1])
    wanted = [{"image_id": row["image_id"], "references": row["references"]} for row in rows]
    first = write(
        tmp_path / "first.json", [{"image_id": r["image_id"], "caption": r["candidate"]} for r in rows]
    )
    options = ScoreOptions(references=write(tmp_path / "refs.json", wanted), compare=first, bootstrap=200)
    found = score_file(turned, options)["comparison"]["metrics"]["cider_d"]
    assert found["sentence"].startswith("CIDEr-D: first.json is better than turned.json by ")
    assert found["interval"] == pytest.approx((-cider["interval"][1], -cider["interval"][0]))


def test_a_comparison_needs_the_same_images(tmp_path: Path) -> None:
    other = write(tmp_path / "other.json", RESULTS[:3])
    with pytest.raises(ScoreInputError, match=r"other\.json has no caption of image 5"):
        scored(tmp_path, LISTED, compare=other, bootstrap=100)


@pytest.mark.parametrize("bootstrap", [0, 1, 99])
def test_a_comparison_of_few_resamplings_is_refused(bootstrap: int, tmp_path: Path) -> None:
    """One resampling was enough to call a file better, with p = 1.000 beside it."""
    other = write(tmp_path / "other.json", RESULTS)
    with pytest.raises(ConfigError, match=f"--bootstrap is {bootstrap}; give at least 100$"):
        scored(tmp_path, LISTED, compare=other, bootstrap=bootstrap)


def test_the_rule_of_the_constant_caption_says_what_was_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """It said "of 300 evaluated references" where there were eight."""
    wanted = list(WANTED.values())
    rule = "of {} evaluated references the one of the best CIDEr-D on the others of {} images"
    assert constant_rule(wanted, training=[]) == rule.format(8, 4)
    assert constant_rule([["a"]] * 5000, training=[]) == rule.format(300, "2,000")
    assert constant_rule(wanted[:1], training=[]).startswith("none, for it is chosen by the other images")
    assert constant_rule(wanted, training=[["a"]] * 5000) == (
        "of 300 training captions the one of the best CIDEr-D on 2,000 training images"
    )
    for captions in (wanted, [["a dog", f"dog {i}"] for i in range(170)], [["a"]] * 2100):
        judged: list[int] = []
        monkeypatch.setattr(
            baselines,
            "one_for_all",
            lambda prepared, _, judged=judged: judged.append(len(prepared)) or np.zeros(len(prepared)),
        )
        baselines.constants_left_out(captions, seed=0)
        assert (len(judged), judged[0]) == baselines.num_drawn(captions)


def test_training_captions_tell_what_is_unseen_and_choose_the_constant(tmp_path: Path) -> None:
    training = [{"image_id": i, "captions": [f"a red dog number{i}", "A man!"]} for i in range(5)]
    path = write(tmp_path / "training.json", training)
    report = scored(tmp_path, RESULTS, ANNOTATIONS, training=path)
    assert report["diversity"]["unseen"] == 0.75
    constant = report["baselines"]["constant"]
    assert constant["rule"] == "of 10 training captions the one of the best CIDEr-D on 5 training images"
    assert constant["caption"] in {text for row in training for text in row["captions"]}  # type: ignore[union-attr]
    assert constant["metrics"] == metrics.score([constant["caption"]] * 4, list(WANTED.values()))


def test_prepared_rows_are_a_training_set(tmp_path: Path) -> None:
    folder = str(write_prepared(tmp_path / "rows", train=6, val=2))
    found = read_captions(folder)
    assert list(found) == [f"train-{number:03}" for number in range(6)]
    assert all(len(captions) == 3 for captions in found.values())
    assert len(read_captions(folder, split="val")) == 2
    with pytest.raises(ValueError, match="no images of split 'test'"):
        read_captions(folder, split="test")
    with pytest.raises(ValueError, match="no prepared rows at"):
        read_captions(str(tmp_path / "nowhere"))


def test_given_document_frequencies_are_read_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = [{"image_id": i, "captions": ["A dog runs.", f"a dog number{i % 3} sits"]} for i in range(9)]
    source = write(tmp_path / "training.json", training)
    output = str(tmp_path / "frequency.json")
    cli.main(["document-frequency", source, "--output", output])
    assert capsys.readouterr().out == f"{output}\n"
    kept = json.loads(Path(output).read_text())
    assert kept["counts"]["a dog"] == 9
    assert kept["counts"]["number1"] == 3
    assert min(kept["counts"].values()) > 1
    report = scored(tmp_path, RESULTS, ANNOTATIONS, document_frequency=output)
    assert report["document_frequency"] == {"source": source, "num_images": 9}
    whole = metrics.frequency.count([row["captions"] for row in training], source=source)  # type: ignore[misc]
    prepared = PreparedReferences(list(WANTED.values()), document_frequency=whole)
    expected = prepared.statistics([SAID[image] for image in WANTED]).scores()
    assert report["metrics"] == pytest.approx(expected, abs=1e-15)  # what occurs once need not be kept
    assert expected["cider_d"] != pytest.approx(EXPECTED["cider_d"], abs=1e-3)


def test_frequencies_of_prepared_rows_name_their_split(tmp_path: Path) -> None:
    folder = str(write_prepared(tmp_path / "rows", train=6, val=2))
    found = read_frequency(write_frequency(folder, output=str(tmp_path / "f.json")))
    assert (found.num_images, found.source) == (6, f"{folder} (train)")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "another"}, "no document frequencies as `raycap document-frequency` writes them"),
        ({"num_images": "9"}, "no document frequencies"),
        ({"tokenizer": "another"}, "counted with the tokenizer 'another'"),
        ({"counts": {"a dog": 10}}, "count of 'a dog' is not a number of its 9 images"),
        ({"counts": {"a dog": "2"}}, "count of 'a dog'"),
        ({"counts": {"a b c d e": 2}}, "1 to 4 words"),
    ],
)
def test_wrong_frequencies_are_one_sentence(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    good = metrics.frequency.to_plain(metrics.frequency.count([["a dog"]] * 9, source="here"))
    with pytest.raises(ScoreInputError, match=message):
        read_frequency(write(tmp_path / "f.json", {**good, **changes}))


def test_other_files_are_no_frequencies(tmp_path: Path) -> None:
    with pytest.raises(ScoreInputError, match="no document frequencies as"):
        read_frequency(write(tmp_path / "f.json", RESULTS))
    with pytest.raises(ScoreInputError, match=r"kept in \.json files"):
        read_frequency("f.npz")


def test_meteor_stands_with_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install_meteor(monkeypatch, available=True)
    rows, others = make_many(12, worse=9)
    each = tmp_path / "each.jsonl"
    other = write(tmp_path / "other.json", others)
    report = scored(tmp_path, rows, compare=other, per_image=str(each), bootstrap=100)
    lengths = [len(row["candidate"].split()) for row in rows]
    assert report["metrics"]["meteor"] == pytest.approx(np.mean(lengths) / 10)
    assert report["metric_versions"]["meteor"] == "fake METEOR"
    assert set(report["intervals"]) == set(report["metrics"])
    assert report["omitted"] == {}
    assert report["comparison"]["metrics"]["meteor"]["difference"] > 0
    assert [json.loads(line)["meteor"] for line in each.read_text().splitlines()] == pytest.approx(
        [length / 10 for length in lengths]
    )
    java = scored(tmp_path, rows, meteor="java")
    assert java["metric_versions"]["meteor"] == "fake Java METEOR"
    off = scored(tmp_path, rows, meteor="off")
    assert "meteor" not in off["metrics"] | off["omitted"]


def test_meteor_that_is_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the word lists are not here"):
        scored(tmp_path, LISTED, meteor="python")
    assert load_meteor("auto").reason == "the word lists are not here"


def test_a_folder_for_a_meteor_that_is_off_is_refused(tmp_path: Path) -> None:
    """It was ignored without a word."""
    with pytest.raises(ConfigError, match="METEOR is off, and its folder here is given"):
        scored(tmp_path, LISTED, meteor="off", meteor_folder="here")


def test_spice_that_cannot_run_is_left_out_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pycocoevalcap.spice.spice", None)
    report = scored(tmp_path, LISTED, spice=True)
    assert "spice" not in report["metrics"]
    assert report["omitted"]["spice"].startswith("SPICE needs pycocoevalcap")


def test_evaluates_meteor_face(monkeypatch: pytest.MonkeyPatch) -> None:
    install_meteor(monkeypatch, available=True)
    import evaluate

    both = evaluate.combine([metrics.load("meteor"), metrics.load("cider_d")])
    said, wanted = [SAID[image] for image in WANTED], list(WANTED.values())
    found = both.compute(predictions=said, references=wanted)
    lengths = [len(text.split()) / 10 for text in said]
    assert found == {"meteor": pytest.approx(np.mean(lengths)), "cider_d": EXPECTED["cider_d"]}
    install_meteor(monkeypatch, available=False)
    with pytest.raises(ValueError, match="word lists"):
        metrics.load("meteor")


def test_a_part_is_told_what_stands_below_it() -> None:
    """A stop behind a letter stays or goes by the caption below, here the next part's first."""
    captions, ids = ["letter B.", "The dog."], list[object](range(2))
    whole = PreparedReferences([[text] for text in captions])
    assert whole.tokens[0] != PreparedReferences([["letter B."]]).tokens[0]
    for part, below in ((0, captions[1:]), (1, [])):
        prepared, _ = prepare_part([[captions[part]]], ids[part : part + 1], below)
        assert prepared.tokens == whole.tokens[part : part + 1]
        measured = measure_part(prepared, [captions[part]], below, ("off", ""))
        assert measured.tokens == whole.tokens[part : part + 1]
    assert prepare_part([], [], captions)[0].tokens == []


def test_a_worker_that_scores_a_part_loads_neither_ray_nor_torch() -> None:
    """Its functions lay beside the engines', and every worker waited for torch."""
    script = (
        "import sys, raycap.score.parts; sys.exit(bool({'torch', 'ray', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_scoring_loads_neither_ray_nor_torch(tmp_path: Path) -> None:
    path = write(tmp_path / "said.json", LISTED)
    script = (
        "import sys; from raycap.cli import main\n"
        f"main(['score', {path!r}, '--bootstrap', '10'])\n"
        "sys.exit(bool({'torch', 'ray', 'transformers', 'pyarrow', 'evaluate'} & set(sys.modules)))"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start < 60  # a hang, not a speed claim
