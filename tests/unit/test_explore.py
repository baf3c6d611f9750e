"""`raycap explore`: what is counted of prepared rows, what is found alike or odd in them, and the page."""

from __future__ import annotations

import io
import itertools
import json
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import CAPTIONS, make_tokenizer
from PIL import Image, ImageDraw
from prepared import make_picture, write_prepared

from raycap import cli, pages
from raycap.config import ConfigError, DataConfig
from raycap.data.splits import split_chunks
from raycap.explore import ExploreConfig, ExploreOptions, explore, oddities, similar, survey, words
from raycap.schema import IMAGE_SCHEMA


def write_rows(folder: Path, rows: list[tuple[str, str, bytes, list[str]]]) -> Path:
    """Prepared rows of (image id, split, encoded image, captions)."""
    counts = {split: sum(row[1] == split for row in rows) for split in ("train", "val", "test")}
    for split in filter(counts.get, counts):
        (folder / split).mkdir(parents=True)
        columns = [dict(zip(IMAGE_SCHEMA.names, row, strict=True)) for row in rows if row[1] == split]
        table = pa.Table.from_pylist(columns, schema=IMAGE_SCHEMA)
        pq.write_table(table, folder / split / "part-00000.parquet", row_group_size=3)
    (folder / "manifest.json").write_text(json.dumps({"fingerprint": "f", "counts": counts}))
    return folder


def read(folder: Path, split: str = "train") -> survey.Survey:
    return survey.survey_rows(split_chunks(str(folder), split, limit=0, max_rows=4))


def survey_of(captions: list[list[str]]) -> survey.Survey:
    """Captions by image, without photos."""
    names = [f"image-{number}" for number in range(len(captions))]
    owner = np.repeat(np.arange(len(captions)), [len(own) for own in captions])
    return survey.Survey(names, ["train"] * len(names), [], [text for own in captions for text in own], owner)


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def scene(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A smooth picture, as photos are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def test_rows_are_read_once_in_order(tmp_path: Path) -> None:
    own = read(write_prepared(tmp_path, train=10, per_image=3))
    assert own.image_ids == [f"train-{number:03}" for number in range(10)]
    assert len(own.captions) == 30
    assert own.captions_of(4) == own.captions[12:15]
    assert {(look.width, look.height, look.problem) for look in own.looks} == {(60, 50, "")}
    assert own.looks[7].num_bytes == len(make_picture(7))


def test_photos_are_fetched_again_by_their_place(tmp_path: Path) -> None:
    chunks = split_chunks(str(write_prepared(tmp_path, train=10)), "train", limit=0, max_rows=4)
    assert survey.fetch_photos(chunks, {0, 3, 4, 9}) == {place: make_picture(place) for place in (0, 3, 4, 9)}


def test_a_damaged_photo_costs_that_photo_only(tmp_path: Path) -> None:
    rows = [("good", "train", make_picture(1), ["A dog."]), ("bad", "train", b"no image", ["A cat."])]
    own = read(write_rows(tmp_path, rows))
    assert [bool(look.problem) for look in own.looks] == [False, True]
    assert similar.near_photos(own.looks) == []


def test_photos_that_look_the_same_are_found_and_others_are_not() -> None:
    picture = scene(1)
    pictures = [
        encoded(picture, quality=90),
        encoded(picture, quality=30),  # 1: compressed anew
        encoded(picture.resize((200, 150), Image.Resampling.LANCZOS)),  # 2: reduced
        encoded(picture, "PNG"),  # 3
        encoded(picture, quality=90),  # 4: the same file as 0
        *(encoded(scene(seed)) for seed in range(2, 40)),
    ]
    found = similar.near_photos([survey.look_at(data) for data in pictures])
    pairs = {(pair.first, pair.second) for pair in found}
    assert pairs == {(one, other) for other in range(5) for one in range(other)}
    assert [(pair.first, pair.second) for pair in found if pair.same_file] == [(0, 4)]
    assert found[0].same_file


def test_other_objects_on_the_same_plain_background_are_other_photos() -> None:
    """Most drawings of the quickstart had a twin in another split: a yellow star was a purple one."""
    pictures = [Image.new("RGB", (64, 64), "black") for _ in range(3)]
    for picture, colour, box in zip(
        pictures,
        ["yellow", "purple", "yellow"],
        [(45, 45, 52, 52), (45, 45, 52, 52), (44, 44, 55, 55)],
        strict=True,
    ):
        ImageDraw.Draw(picture).ellipse(box, fill=colour)
    files = [*(encoded(picture, "PNG") for picture in pictures), encoded(pictures[0], quality=90)]
    found = similar.near_photos([survey.look_at(data) for data in files])
    assert [(pair.first, pair.second) for pair in found] == [(0, 3)]


def test_every_hash_within_seven_bits_is_a_candidate() -> None:
    generator = np.random.default_rng(0)
    hashes = generator.integers(0, 1 << 63, (200, 2), dtype=np.uint64)
    near = hashes.copy()
    for row in near:
        for bit in generator.choice(128, 7, replace=False):
            row[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    keys = np.concatenate([hashes, near]).view(np.uint16).astype(np.uint64)
    assert {(place, place + 200) for place in range(200)} <= set(
        map(tuple, similar.pairs_with_equal_keys(keys).tolist())
    )


def test_pairs_with_equal_keys_are_each_once_and_bounded() -> None:
    keys = np.array([[1, 9], [2, 9], [1, 9], [3, 4]], dtype=np.uint64)
    assert similar.pairs_with_equal_keys(keys).tolist() == [[0, 1], [0, 2], [1, 2]]
    same = np.zeros((1000, 1), dtype=np.uint64)
    assert len(similar.pairs_with_equal_keys(same, neighbours=5)) == 5 * 1000 - 15
    assert similar.pairs_with_equal_keys(np.empty((0, 3), dtype=np.uint64)).shape == (0, 2)


def brute_force(texts: similar.Texts) -> set[tuple[int, int]]:
    """All pairs of texts alike by the definition, compared one by one."""
    split = [text.split() for text in texts.words]
    sets = [{*own, *itertools.pairwise(own)} for own in split]
    return {
        (one, other)
        for other in range(len(sets))
        for one in range(other)
        if len(sets[one] & sets[other]) >= similar.ALIKE * len(sets[one] | sets[other])
        and len({*texts.images[one], *texts.images[other]}) > 1
    }


def test_near_captions_are_those_that_comparing_all_pairs_finds() -> None:
    generator = random.Random(0)
    lines = []
    for text in CAPTIONS:
        changed = text.split()
        changed[generator.randrange(len(changed))] = generator.choice(["old", "new", "big"])
        lines += [
            [text],
            [" ".join([*text.split()[:-1], "today,", *changed[-3:], *text.split()[1:6]])],
            [" ".join(changed)],
        ]
    texts = similar.different_texts(survey_of(lines))
    found = {(pair.first, pair.second) for pair in similar.near_captions(texts)}
    expected = brute_force(texts)
    assert len(expected) > 100
    assert found <= expected
    assert len(found) >= 0.98 * len(expected)


def test_captions_of_one_image_are_no_pair() -> None:
    one = ["A red dog runs over a big green hill", "A red dog runs over the big green hill"]
    assert similar.near_captions(similar.different_texts(survey_of([one, ["Two men."]]))) == []
    (pair,) = similar.near_captions(similar.different_texts(survey_of([one[:1], one[1:], ["Two men."]])))
    assert pair.alike == pytest.approx(14 / 19)
    assert similar.near_captions(similar.different_texts(survey_of([]))) == []


def test_texts_are_told_by_their_words() -> None:
    texts = similar.different_texts(
        survey_of([["A dog's bone.", "a DOG'S bone"], ["A dog's bone!"], ["..."]])
    )
    assert texts.words == ["a dog's bone", ""]
    assert texts.images == [[0, 0, 1], [2]]
    assert texts.example == [0, 3]


def test_vocabulary_counts_as_the_metrics_split() -> None:
    found = words.count_words(["A dog runs.", "The dog, a big dog."])
    assert found.lengths.tolist() == [3, 5]
    assert found.counts == {"dog": 3, "a": 2, "runs": 1, "the": 1, "big": 1}
    assert found.hapax == 3
    assert found.covered(at_least=2) == pytest.approx(5 / 8)
    assert found.growth == [(1, 3), (2, 5)]


def test_tokens_are_the_tokenizers(tmp_path: Path) -> None:
    from raycap.text import CaptionTokenizer

    folder = make_tokenizer(tmp_path)
    expected = [len(ids) for ids in CaptionTokenizer.load(str(folder)).encode(CAPTIONS[:9], max_tokens=1000)]
    assert words.count_tokens(CAPTIONS[:9], str(folder)).tolist() == expected


@pytest.mark.parametrize(
    ("caption", "kind"),
    [
        ("Dog.", "fewer than 3 words"),
        ("word " * 41, "more than 40 words"),
        ("A dog dog Dog runs", "a word three times in a row"),
        ("Ein schöner größerer Hündüöäß", "20% or more not ASCII"),
        ("A dog\x07 runs here", "unprintable characters"),
        ("See https://example.org for more", "an address or markup"),
        ("A dog <br> runs", "an address or markup"),
        ("Image not available", "a placeholder"),
        ("Broken image", "a placeholder"),
        ("IMG_0042.jpg", "a placeholder"),
        ("12 34 56", "no letters"),
        ("A DOG RUNS OVER A HILL", "in capitals"),
    ],
)
def test_odd_captions_are_told_by_kind(caption: str, kind: str) -> None:
    assert oddities.TESTS[kind][1](caption)


def test_ordinary_captions_are_not_odd() -> None:
    for caption in (
        *CAPTIONS,
        "A man named José stands in a café.",
        "The USA team plays.",
        "Dogs & cats play.",
    ):
        assert [kind for kind, (_, test) in oddities.TESTS.items() if test(caption)] == []


def test_repeated_captions_are_counted() -> None:
    own = survey_of([["A dog runs here.", "a dog runs here"], *[["A photo of something."]] * 11])
    found = {odd.name: odd for odd in oddities.find_oddities(own, similar.different_texts(own))}
    assert found["the same words twice for one image"].examples == [("image-0", "A dog runs here.")]
    assert found["the same words for 10 images or more"].examples == [("11 images", "A photo of something.")]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Twelve photos; one of them in two splits, a caption with markup, one that is very short."""
    made = [(f"train-{n}", "train", encoded(scene(n)), CAPTIONS[3 * n : 3 * n + 3]) for n in range(10)]
    made[2] = ("<i>two</i>", "train", made[2][2], ["A dog.", "<script>alert(1)</script> & more"])
    made += [
        ("val-0", "val", encoded(scene(3), quality=60), [CAPTIONS[60]]),
        ("val-1", "val", encoded(scene(50)), CAPTIONS[61:63]),
    ]
    return write_rows(tmp_path / "rows", made)


def test_report_holds_what_was_found(rows: Path, tmp_path: Path) -> None:
    options = ExploreOptions(
        output=str(tmp_path / "out/explore.html"),
        samples=5,
        tokenizer=str(make_tokenizer(tmp_path / "tokenizer")),
        max_tokens=5,
    )
    path = explore(ExploreConfig(data=DataConfig(path=str(rows)), explore=options))
    page = Path(path).read_text(encoding="utf-8")
    assert "12 photos with 32 captions" in page
    assert "1 pair of photos that look the same lies in different splits" in page
    assert "in train and in val" in page
    assert "train-3 and val-0" in page
    assert "Captions that training cuts" in page
    assert "<td class=t>fewer than 3 words</td><td>1</td>" in page
    assert "tokens a caption" in page
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in page
    assert "<i>two" not in page
    assert page.count("<article><img ") == 5


def test_the_same_seed_gives_the_same_page(rows: Path, tmp_path: Path) -> None:
    made = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        options = ExploreOptions(output=str(tmp_path / f"{name}.html"), samples=3, seed=seed, split="train")
        path = explore(ExploreConfig(data=DataConfig(path=str(rows)), explore=options))
        made.append(re.findall(r"<p class=id>(\S+), train", Path(path).read_text()))
    assert made[0] == made[1]
    assert made[0] != made[2]


def test_limit_and_split_choose_the_rows(rows: Path, tmp_path: Path) -> None:
    options = ExploreOptions(output=str(tmp_path / "a.html"), split="train")
    page = Path(explore(ExploreConfig(data=DataConfig(path=str(rows), limit=4), explore=options))).read_text()
    assert "4 photos with 11 captions, the first 4 of each split" in page
    options = ExploreOptions(output=str(tmp_path / "a.html"), split="test")
    with pytest.raises(ConfigError, match="no images of split 'test'"):
        explore(ExploreConfig(data=DataConfig(path=str(rows)), explore=options))


def test_a_tokenizer_out_of_reach_leaves_the_rest(rows: Path, tmp_path: Path) -> None:
    options = ExploreOptions(output=str(tmp_path / "a.html"), tokenizer="/no/such/folder")
    page = Path(explore(ExploreConfig(data=DataConfig(path=str(rows)), explore=options))).read_text()
    assert "Tokens: no such folder: /no/such/folder" in page
    assert "words a caption" in page


def test_command_takes_rows_or_a_preset(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "a.html")
    cli.main(["explore", "--data", str(rows), "--limit", "3", "--split", "val", "--output", output])
    assert capsys.readouterr().out == f"{output}\n"
    assert "2 photos with 3 captions" in Path(output).read_text()
    preset = tmp_path / "mine.yaml"
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    preset.write_text(
        f"source: {{kind: shapes}}\ndata: {{path: {rows}}}\n"
        f"model: {{family: gpt2_cross, language_model: {tokenizer}}}\ntrain: {{run: r, max_tokens: 7}}\n"
    )
    cli.main(["explore", str(preset), "--output", output])
    page = Path(output).read_text()
    assert "longer than train.max_tokens=7" in page


def test_command_says_what_it_needs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        cli.main(["explore"])
    assert "raycap explore PRESET" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["explore", "--data", str(tmp_path)])
    assert "no prepared rows at" in capsys.readouterr().err


def test_needs_neither_ray_nor_torch(rows: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from raycap.cli import main\n"
        f"main(['explore', '--data', {str(rows)!r}, '--output', {str(tmp_path / 'a.html')!r}])\n"
        "sys.exit(bool({'torch', 'ray', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_pages_ask_for_nothing_and_run_nothing() -> None:
    body = pages.table(("a", "b"), [("<b>", 1234), ("c", 0.5)]) + pages.histogram([1, 2, 2], label="x < y")
    page = pages.page("<title>", subtitle="&", body=body + pages.curve([1, 2], [3, 4], label="c"))
    assert not re.findall(r"https?://|<script|<b>", page)
    assert "<td class=t>&lt;b&gt;</td><td>1,234</td>" in page
    assert "x &lt; y" in page


@pytest.mark.parametrize("values", [[], [5], [1.5, 1.5], [0, 100_000], [1, 2, 2, 3]])
def test_a_histogram_counts_every_value(values: list[float]) -> None:
    chart = pages.histogram(values, label="n")
    assert sum(int(count.replace(",", "")) for count in re.findall(r": ([\d,]+)</title>", chart)) == len(
        values
    )


def test_a_page_of_what_utf8_cannot_hold_can_be_written() -> None:
    """`raycap debug` on a photo whose name has a byte that is no UTF-8 ended in UnicodeEncodeError."""
    page = pages.page("photo \udcff.jpg", subtitle="\ud800", body="")
    assert "photo \\udcff.jpg" in page
    page.encode()


def test_where_all_values_are_one_the_bar_is_no_wall() -> None:
    (width,) = re.findall(r"<rect .* width=([\d.]+)", pages.histogram([5, 5, 5], label="n"))
    assert float(width) == pages.WIDEST_BAR
