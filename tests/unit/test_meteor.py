"""METEOR without Java on word lists of a few words: stages, search, score, the kept file, what is absent."""

import gzip
import itertools
import json
import logging
import os
import stat
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycap import storage
from raycap.metrics import tokenize
from raycap.metrics.meteor import (
    VERSION,
    JavaMeteor,
    Meteor,
    MeteorStatistics,
    MeteorUnavailableError,
    lists,
    sources,
)
from raycap.metrics.meteor.align import EXACT, PARAPHRASE, STEM, SYNONYM, Match, align, possible_matches
from raycap.metrics.meteor.lexicon import Lexicon, string_hash
from raycap.metrics.meteor.normalize import normalize
from raycap.metrics.meteor.stemmer import stem

FUNCTION_WORDS = "the a of and\nin".replace(" ", "\n")
SYNSETS = {
    "sofa": "11 12",
    "couch": "12",
    "man": "1",
    "guy": "1 2",
    "ride": "31",
    "drive": "31",
    "hood": "40",
}
EXCEPTIONS = {"man": "men", "ride": "rode ridden"}
PREFIXES = "# a remark\n\nvs\nst\nno #NUMERIC_ONLY#\n"
PARAPHRASES = [
    ("a lot of", "many"),
    ("many", "numerous"),
    ("in front of", "before"),
    ("in front", "before the"),
    ("many", "several"),
]


def write_folder(folder: Path, paraphrases: list[tuple[str, str]] = PARAPHRASES) -> Path:
    """A METEOR folder of a few words."""
    (folder / "data").mkdir(parents=True)
    with zipfile.ZipFile(folder / "meteor-1.5.jar", "w") as jar:
        jar.writestr("function/english.words", FUNCTION_WORDS + "\n")
        jar.writestr("nonbreaking/english.prefixes", PREFIXES)
        jar.writestr(
            "synonym/english.synsets", "".join(f"{word}\n{sets}\n" for word, sets in SYNSETS.items())
        )
        jar.writestr(
            "synonym/english.exceptions", "".join(f"{base}\n{f}\n" for base, f in EXCEPTIONS.items())
        )
    with gzip.open(folder / "data/paraphrase-en.gz", "wt") as stream:
        stream.writelines(f"0.5\n{phrase}\n{other}\n" for phrase, other in paraphrases)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("RAYCAP_CACHE", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path: Path, cache: Path) -> Path:
    return write_folder(tmp_path / "meteor")


@pytest.fixture(scope="module")
def lexicon(tmp_path_factory: pytest.TempPathFactory) -> Lexicon:
    return Lexicon(lists.parse(sources.find(str(write_folder(tmp_path_factory.mktemp("words") / "meteor")))))


def aligned(lexicon: Lexicon, caption: str, reference: str) -> tuple[list[Match], int]:
    captions = lexicon.captions([caption, reference])
    return align(lexicon, captions[caption], captions[reference])


def stages(lexicon: Lexicon, caption: str, reference: str) -> list[tuple[int, str, str]]:
    """Stage, caption's words and reference's words of each match."""
    matches, _ = aligned(lexicon, caption, reference)
    words, others = caption.split(), reference.split()
    return [
        (
            match.stage,
            " ".join(words[match.caption_start : match.caption_start + match.caption_length]),
            " ".join(others[match.start : match.start + match.length]),
        )
        for match in matches
    ]


@pytest.mark.parametrize(
    ("caption", "reference", "matches"),
    [
        ("dog runs", "dog barks", [(EXACT, "dog", "dog")]),
        ("dogs running", "dog run", [(STEM, "dogs", "dog"), (STEM, "running", "run")]),
        ("sofa", "couch", [(SYNONYM, "sofa", "couch")]),
        ("couches", "sofas", [(SYNONYM, "couches", "sofas")]),  # by their endings
        ("guy", "men", [(SYNONYM, "guy", "men")]),  # an exception
        ("ridden", "driving", [(SYNONYM, "ridden", "driving")]),
        ("sofa", "guy", []),
        ("many dogs", "a lot of dogs", [(PARAPHRASE, "many", "a lot of"), (EXACT, "dogs", "dogs")]),
        ("a lot of dogs", "many dogs", [(PARAPHRASE, "a lot of", "many"), (EXACT, "dogs", "dogs")]),
        ("a lot of", "numerous", []),  # paraphrases do not chain
        (
            "before the house",
            "in front house",
            [(PARAPHRASE, "before the", "in front"), (EXACT, "house", "house")],
        ),
        ("", "a dog", []),
        ("a dog", "", []),
    ],
)
def test_each_stage_matches(
    lexicon: Lexicon, caption: str, reference: str, matches: list[tuple[int, str, str]]
) -> None:
    assert stages(lexicon, caption, reference) == matches


def test_words_that_match_by_several_stages_are_listed_by_each_and_same_words_only_exactly(
    lexicon: Lexicon,
) -> None:
    captions = lexicon.captions(["men guys", "man guy"])
    listed = possible_matches(lexicon, captions["men guys"], captions["man guy"])
    # "men" is a synonym of both; "guys" has also the stem of "guy".
    assert [[(match.stage, match.caption_start) for match in starting] for starting in listed] == [
        [(SYNONYM, 0), (SYNONYM, 1)],
        [(STEM, 1), (SYNONYM, 0), (SYNONYM, 1)],
    ]
    same = lexicon.captions(["guy man"])["guy man"]
    assert [[match.stage for match in starting] for starting in possible_matches(lexicon, same, same)] == [
        [EXACT],
        [EXACT],
    ]


@pytest.mark.parametrize(
    ("caption", "reference", "places", "chunks"),
    [
        # Of two equal words the one that keeps a chunk whole is taken.
        ("the dog saw the cat", "the cat", [(0, 3), (1, 4)], 1),
        ("b a c a d", "a d", [(0, 3), (1, 4)], 1),
        # More words come before fewer chunks, fewer chunks before nearer words.
        ("c a b", "a b c", [(0, 1), (1, 2), (2, 0)], 2),
        ("a x a b", "a b x", [(0, 2), (1, 3), (2, 1)], 2),
        # A synonym gains nothing: with a chunk of its own it is left out, within a chunk, or without a rival, taken.
        ("sofa x sofa y", "y couch", [(0, 3)], 1),
        ("y sofa z sofa", "y couch z", [(0, 0), (1, 1), (2, 2)], 1),
        ("sofa x y", "y couch", [(0, 2), (1, 0)], 2),
    ],
)
def test_the_search_takes_most_words_then_fewest_chunks(
    lexicon: Lexicon, caption: str, reference: str, places: list[tuple[int, int]], chunks: int
) -> None:
    matches, found = aligned(lexicon, caption, reference)
    assert [(match.start, match.caption_start) for match in matches] == places
    assert found == chunks


WORDS = ["a", "b", "c", "sofa", "couch", "dog", "dogs", "many", "lot", "of"]
SMALL = st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join)


@settings(max_examples=120, deadline=None)
@given(SMALL, SMALL)
def test_no_other_choice_of_matches_is_better(lexicon: Lexicon, caption: str, reference: str) -> None:
    """Every set of matches that share no word, for captions whose paths all fit into the beam.

    A match that shares no word with any other is always taken, even where that makes a chunk more.
    """
    captions = lexicon.captions([caption, reference])
    sides = captions[caption], captions[reference]
    every = [match for starting in possible_matches(lexicon, *sides) for match in starting]
    if len(every) > 8:
        return
    certain = {
        place
        for place, match in enumerate(every)
        if all(is_free_of_overlap((match, other)) for i, other in enumerate(every) if i != place)
    }
    matches, chunks = align(lexicon, *sides)
    best = min(
        cost([every[place] for place in chosen])
        for size in range(len(every) + 1)
        for chosen in itertools.combinations(range(len(every)), size)
        if certain <= set(chosen) and is_free_of_overlap(tuple(every[place] for place in chosen))
    )
    assert cost(matches) == best
    assert chunks == best[1]


def is_free_of_overlap(matches: tuple[Match, ...]) -> bool:
    words = sum(match.bits().bit_count() for match in matches)
    caption_words = sum(match.caption_bits().bit_count() for match in matches)
    together = [0, 0]
    for match in matches:
        together = [together[0] | match.bits(), together[1] | match.caption_bits()]
    return [words, caption_words] == [bits.bit_count() for bits in together]


def cost(matches: list[Match]) -> tuple[int, int]:
    """Words that do not match, as the search counts them, and chunks."""
    gained, chunks, end = 0, 0, (-1, -1)
    for match in matches:
        exact = match.stage == EXACT
        gained += 2 if exact else match.length // 2 + match.caption_length // 2
        chunks += (match.start, match.caption_start) != end
        end = (match.start + match.length, match.caption_start + match.caption_length)
    return -gained, chunks


def score_of(meteor: Meteor, caption: str, *references: str) -> float:
    return meteor.statistics([caption.split()], [[text.split() for text in references]]).score()


def test_the_score_is_the_papers(folder: Path) -> None:
    meteor = Meteor.load(str(folder))
    assert score_of(meteor, "the dog runs", "the dog runs") == 1.0  # no penalty for one whole chunk
    # Two of three content words and the function word match: 0.75 * 2 + 0.25 of 0.75 * 3 + 0.25, in one chunk of 3.
    share = (0.75 * 2 + 0.25) / (0.75 * 3 + 0.25)
    np.testing.assert_allclose(
        score_of(meteor, "the red dog runs", "the red dog barks"), share * (1 - 0.6 * (1 / 3) ** 0.2)
    )
    # A stem counts 0.6, a synonym 0.8, a paraphrase 0.6; precision counts 0.15, recall 0.85.
    penalty = 1 - 0.6 * (1 / 2) ** 0.2
    np.testing.assert_allclose(score_of(meteor, "dog sofa", "dog couch x"), mean(1.8 / 2, 1.8 / 3) * penalty)
    np.testing.assert_allclose(
        score_of(meteor, "dog runs", "dog running x"), mean(1.6 / 2, 1.6 / 3) * penalty
    )
    # "a lot of" is one content word and two function words.
    precision, recall = (0.75 * 1.6) / (0.75 * 2), (0.75 * 1.6 + 0.25 * 0.6 * 2) / (0.75 * 3 + 0.25 * 2)
    np.testing.assert_allclose(
        score_of(meteor, "many dogs", "a lot of dogs x"), mean(precision, recall) * (1 - 0.6 * (1 / 3) ** 0.2)
    )
    assert score_of(meteor, "", "a dog") == score_of(meteor, "a dog", "") == score_of(meteor, "", "") == 0.0
    assert score_of(meteor, "cat", "dog") == 0.0


def mean(precision: float, recall: float) -> float:
    return 1 / (0.15 / precision + 0.85 / recall)


def test_an_image_is_scored_against_its_best_reference(folder: Path) -> None:
    statistics = Meteor.load(str(folder)).statistics(
        [["dog", "runs"]],
        [[["cat"], ["dog", "barks", "now"], ["the", "dog", "runs"], ["the", "dog", "runs"]]],
    )
    assert statistics.words.tolist() == [[2, 3]]
    assert statistics.function_words.tolist() == [[0, 1]]
    assert statistics.chunks.tolist() == [1]


CAPTIONS = ["the dog runs", "a man on a sofa", "", "many dogs", "the cat sat", "a a a b"]
REFERENCES = [
    ["the dog runs", "dogs run"],
    ["men on the couch", "a guy"],
    ["a dog"],
    ["a lot of dogs run", "dogs"],
    ["sat the cat"],
    ["b a a", "a b a b"],
]


def statistics_of(meteor: Meteor, images: list[int]) -> MeteorStatistics:
    return meteor.statistics(
        [CAPTIONS[i].split() for i in images], [[text.split() for text in REFERENCES[i]] for i in images]
    )


def test_sums_depend_neither_on_order_nor_on_parts(folder: Path) -> None:
    meteor = Meteor.load(str(folder))
    whole = statistics_of(meteor, list(range(6)))
    parts = [statistics_of(meteor, part) for part in ([5, 2], [0], [], [4, 1, 3])]
    together = MeteorStatistics.concatenate(parts)
    assert together.score() == whole.score()
    assert together.take(np.argsort([5, 2, 0, 4, 1, 3])).each().tolist() == whole.each().tolist()
    assert len(together) == 6
    assert 0 < whole.score() < 1
    counts = np.array([[1, 1, 1, 1, 1, 1], [0, 3, 0, 0, 2, 1]], dtype=np.float64)
    again = whole.take(np.array([1, 1, 1, 4, 4, 5])).score()
    assert whole.resampled(counts).tolist() == [whole.score(), again]


def test_nothing_scores_nothing_and_wrong_input_is_named(folder: Path) -> None:
    meteor = Meteor.load(str(folder))
    assert meteor.statistics([], []).score() == 0.0
    assert MeteorStatistics.concatenate([]).each().tolist() == []
    with pytest.raises(ValueError, match="1 predictions for the references of 2 images"):
        meteor.statistics([["a"]], [[["a"]], [["b"]]])
    with pytest.raises(ValueError, match="image 1 has no reference"):
        meteor.statistics([["a"], ["b"]], [[["a"]], []])


NORMALIZED = {  # as the reference jar's, but for the prefixes, which are the test's
    "it 's": "it ' s",
    "is n't": "is n 't",
    "p.m. u.s. x": "pm us x",
    "etc.": "etc .",
    "vs. st. lou": "vs. st. lou",
    "no. 5": "no. 5",
    "no. Five": "no . five",
    "b. runs": "b. runs",
    "t-shirt-x a-b-c": "t shirt x a b-c",
    "c++ a&b": "c + + a & b",
    "a... b": "a ... b",
    "1\xa01/2 cups": "1 1 / 2 cups",
    "3,000 a,b": "3,000 a , b",
    "'' “x”": '" " x "',
    "it ' s 5's `q": "it ' s 5 's ' q",
    "a--b x–y": "a b x - y",
    "日本 Éa": "日 本 éa",
    "": "",
    " ": "",
}


@pytest.mark.parametrize("text", NORMALIZED)
def test_normalization_is_the_jars(text: str) -> None:
    assert normalize(text, {"vs", "st"}, {"no"}) == NORMALIZED[text].split()


STEMS = {  # measured with the reference jar
    "added": "ad", "vying": "vy", "virologist": "virologist", "dying": "die", "skis": "ski", "news": "news",
    "generously": "generous", "communism": "communism", "arsenal": "arsenal", "sayings": "say", "ties": "tie",
    "cries": "cri", "gas": "gas", "kiwis": "kiwi", "agreed": "agre", "hopping": "hop", "hoping": "hope",
    "luxuriated": "luxuri", "sized": "size", "boys'": "boy", "'boy's'": "boy", "rational": "ration",
    "relational": "relat", "happily": "happili", "analogies": "analog", "formative": "format", "adoption": "adopt",
    "controlled": "control", "roll": "roll", "youth": "youth", "enjoy": "enjoy", "by": "by", "é": "é",
    "succeed": "succeed", "herrings": "herring", "bed": "bed", "rate": "rate",
}  # fmt: skip


@pytest.mark.parametrize("word", STEMS)
def test_stems_are_those_of_the_jars_snowball(word: str) -> None:
    """Newer Snowball releases have other stems for "added", "vying" and "virologist"."""
    assert stem(word) == STEMS[word]


def test_words_are_compared_by_javas_hash() -> None:
    """The reference takes two words that share a hash for the same, and so does an equal score."""
    assert string_hash("abc") == 96354
    assert string_hash("variants") == string_hash("gelato")
    assert string_hash("😀") == 1772899


def test_the_lists_are_parsed_once_and_a_changed_source_is_parsed_anew(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = score_of(Meteor.load(str(folder)), "few dogs", "scarce dogs x")
    parse = lists.parse
    monkeypatch.setattr(lists, "parse", lambda found: pytest.fail("parsed a second time"))
    assert score_of(Meteor.load(str(folder)), "few dogs", "scarce dogs x") == first
    assert score_of(Meteor.load(str(folder / "meteor-1.5.jar")), "few dogs", "scarce dogs x") == first
    monkeypatch.setattr(lists, "parse", parse)
    other = write_folder(folder.parent / "other", [*PARAPHRASES, ("few", "scarce")])
    (other / "data/paraphrase-en.gz").replace(folder / "data/paraphrase-en.gz")
    assert score_of(Meteor.load(str(folder)), "few dogs", "scarce dogs x") > first
    assert len(list(cache.glob("meteor-*.npz"))) == 2


def test_of_workers_that_start_together_one_parses(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parse, parsed = lists.parse, []

    def slow(found: sources.Sources) -> lists.WordLists:
        parsed.append(found)
        time.sleep(0.1)
        return parse(found)

    monkeypatch.setattr(lists, "parse", slow)
    with ThreadPoolExecutor(4) as pool:
        scores = [score_of(meteor, "sofa", "couch") for meteor in pool.map(Meteor.load, [str(folder)] * 4)]
    assert len(set(scores)) == len(parsed) == 1


def test_a_kept_file_that_cannot_be_read_is_written_anew(
    folder: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = score_of(Meteor.load(str(folder)), *CAPTIONS[:2])
    kept = next(cache.glob("meteor-*.npz"))
    whole = kept.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(b"couch")] ^= 0xFF
    for content in (whole[: len(whole) // 2], b"", b"\x80\x04pickle", bytes(flipped)):
        kept.write_bytes(content)
        assert score_of(Meteor.load(str(folder)), *CAPTIONS[:2]) == expected
        assert kept.read_bytes() == whole
    assert caplog.text.count("is written anew") == 4


def test_a_write_that_fails_leaves_nothing_and_scoring_goes_on(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(source: str, target: str) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(storage.os, "replace", full)
        assert score_of(Meteor.load(str(folder)), "dog", "dog") == 1.0
    assert "every run parses them" in caplog.text
    assert {path.name for path in cache.iterdir()} == {"meteor.lock"}


def test_a_cache_folder_that_cannot_be_made_is_done_without(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAYCAP_CACHE", str(tmp_path / "file/cache"))
    with caplog.at_level(logging.WARNING):
        assert score_of(Meteor.load(str(folder)), "dog", "dog") == 1.0
    assert "every run parses them" in caplog.text


def test_the_cache_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAYCAP_CACHE", "~/kept")
    assert lists.cache_folder() == Path.home() / "kept"
    monkeypatch.delenv("RAYCAP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert lists.cache_folder() == tmp_path / "raycap"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert lists.cache_folder() == Path.home() / ".cache/raycap"


def test_absent_word_lists_are_named_with_what_to_do(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remedy = r"pip install 'raycap\[coco\]', or name a METEOR 1.5 folder"
    with pytest.raises(MeteorUnavailableError, match=rf"needs .*nowhere/meteor-1.5.jar, and .*{remedy}"):
        Meteor.load(str(tmp_path / "nowhere"))
    with monkeypatch.context() as patched:
        patched.setattr("importlib.util.find_spec", lambda name: None)
        # asked for the jar, it spoke of word lists
        for load, wanted in ((Meteor.load, "word lists"), (JavaMeteor.load, "jar")):
            absent = f"METEOR needs pycocoevalcap's {wanted}, and it is not installed; {remedy}"
            with pytest.raises(MeteorUnavailableError, match=absent):
                load()
    paraphrases = folder / "data/paraphrase-en.gz"
    whole = paraphrases.read_bytes()
    for content in (b"plain text", whole[:-20], whole[:12] + b"\xff" * 20 + whole[32:]):
        paraphrases.write_bytes(content)
        with pytest.raises(MeteorUnavailableError, match="is not METEOR's paraphrases"):
            Meteor.load(str(folder))
    paraphrases.unlink()
    with pytest.raises(MeteorUnavailableError, match=r"needs .*data/paraphrase-en\.gz"):
        Meteor.load(str(folder))
    paraphrases.touch()
    with zipfile.ZipFile(folder / "meteor-1.5.jar", "w") as jar:
        jar.writestr("README", "empty")
    with pytest.raises(MeteorUnavailableError, match=r"word lists are not in .*english\.words"):
        Meteor.load(str(folder))
    (folder / "meteor-1.5.jar").write_bytes(b"not a zip")
    with pytest.raises(MeteorUnavailableError, match="word lists are not in"):
        Meteor.load(str(folder))


@pytest.fixture
def java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for Java on the PATH: a script that a test writes."""
    program = tmp_path / "bin/java"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return program


def write_program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_java_that_is_absent_or_fails_is_named(
    folder: Path, java: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_program(java, "echo 'no heap' >&2; exit 3")
    meteor = JavaMeteor.load(str(folder))
    with pytest.raises(ChildProcessError, match="ended with code 3 after 0 of 1 captions: no heap"):
        meteor.statistics([["a"]], [[["a"]]])
    assert len(meteor.statistics([], [])) == 0
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(MeteorUnavailableError, match="needs Java, and there is no `java` on the PATH"):
        JavaMeteor.load(str(folder))


def test_the_jar_is_asked_as_coco_asks_it(folder: Path, java: Path, tmp_path: Path) -> None:
    answer = " ".join(f"{number}.0" for number in range(1, 24))
    write_program(java, f'echo "$@" > {tmp_path}/arguments; tee {tmp_path}/asked | sed "s/.*/{answer}/"')
    statistics = JavaMeteor.load(str(folder)).statistics(
        [["a", "dog"], []], [[["a"], ["the", "dog"]], [["café"]]]
    )
    assert (tmp_path / "asked").read_text() == "SCORE ||| a ||| the dog ||| a dog\nSCORE ||| café ||| \n"
    jar = folder / "meteor-1.5.jar"
    assert (tmp_path / "arguments").read_text() == f"-jar -Xmx2G {jar} - - -stdio -l en -norm\n"
    assert statistics.words.tolist() == [[1, 2]] * 2
    assert statistics.matched[0].ravel().tolist() == list(range(5, 21))
    assert statistics.chunks.tolist() == [21, 21]
    assert JavaMeteor.VERSION.startswith(VERSION)
    assert Meteor.VERSION == VERSION


def test_the_jar_gets_one_line_an_image_that_utf_8_can_hold(folder: Path, java: Path, tmp_path: Path) -> None:
    """A carriage return inside a tag made two lines of one, and half a surrogate pair in a URL could not be sent."""
    answer = " ".join(f"{number}.0" for number in range(1, 24))
    write_program(java, f'tee {tmp_path}/asked | tr "\\r" "\\n" | sed "s/.*/{answer}/"')
    tag, url = tokenize(['<a href="x\ry">', "http://x\ud800y\udfff"])
    assert ascii(tag) == r"""['<a\xa0href="x\ry">']"""
    assert ascii(url) == r"['http://x\ud800y\udfff']"
    statistics = JavaMeteor.load(str(folder)).statistics([tag, url], [[["a\nb"]], [url, tag]])
    assert len(statistics) == 2
    assert (tmp_path / "asked").read_bytes().decode().split("\n") == [
        'SCORE ||| a b ||| <a\xa0href="x y">',
        'SCORE ||| http://x\ue000y\ue7ff ||| <a\xa0href="x y"> ||| http://x\ue000y\ue7ff',
        "",
    ]


def test_a_jar_that_fails_without_a_word_is_said_so(folder: Path, java: Path) -> None:
    """The message ended with a colon and nothing behind it."""
    write_program(java, "cat >/dev/null")
    with pytest.raises(ChildProcessError, match=r"code 0 after 0 of 1 captions: it gave no reason$"):
        JavaMeteor.load(str(folder)).statistics([["a"]], [[["a"]]])


@pytest.mark.real
@pytest.mark.parametrize(
    "name", ["flickr30k_magic", "flickr30k_constant_caption", "two_images_good", "two_images_bad"]
)
def test_published_captions_score_what_coco_evaluation_gave(shared: Path, name: str) -> None:
    pytest.importorskip("pycocoevalcap", reason="METEOR's word lists come with raycap[coco]")
    rows = json.loads((shared / "metrics" / f"{name}.json").read_text())
    expected = json.loads((shared / "metrics" / "expected.json").read_text())[name]["METEOR"]
    references = iter(tokenize([text for row in rows for text in row["references"]]))
    statistics = Meteor.load().statistics(
        tokenize([row["candidate"] for row in rows]),
        [[next(references) for _ in row["references"]] for row in rows],
    )
    assert abs(statistics.score() - expected) < 1e-12
