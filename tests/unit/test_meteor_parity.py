"""METEOR against the reference jar as pycocoevalcap drives it (the extra `raycap[coco]`), and as evaluate's metric."""

import gzip
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from raycap import metrics
from raycap.metrics import tokenize
from raycap.metrics.measure import load_meteor
from raycap.metrics.meteor import JavaMeteor, Meteor
from raycap.metrics.meteor.sources import find

pytest.importorskip("pycocoevalcap", reason="pycocoevalcap is not installed: pip install 'raycap[coco]'")
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="the reference METEOR needs Java")

# Words with stems, synonyms, irregular forms and paraphrases in common, function words to repeat, words of one hash.
WORDS = """a a a the the of and in on is are man men person people guy boys boy child kids runs running ran run
    sofa couch picture photo photographs large big small little a_lot many several numerous in_front_of before
    next_to beside close_to near is_going_to will because_of due_to along_with together_with as_well_as also
    dog dogs puppy grass lawn road street bicycle bike rides riding rode variants gelato , . 's n't not""".replace(
    "\n", " "
)
PIECES = """it's can't men's p.m. U.S. Mr. vs. No. no. etc. 5 10 1/2 3.50 3,000 a,b t-shirt a-b-c x--y w/o & % $ # @ / -
    -- ... . , ! ? ; : ( ) [ ] ' '' ` " “ ” ‘ ’ – — … é naïve Éa ½ £5 日本 ☃ 😀 Ω ß C++ AT&T <b> <a|||b> | ||| b_ a~"""
PLAIN = st.lists(st.sampled_from(WORDS.split()), max_size=16).map(
    lambda words: " ".join(words).replace("_", " ")
)
SIGNS = st.lists(st.tuples(st.sampled_from(PIECES.split()), st.sampled_from([" ", " ", ""])), max_size=8).map(
    lambda parts: "".join(piece + space for piece, space in parts)
)
# A line end would be one in the jar's protocol too; the tokenizer turns it into a space.
CAPTION = st.one_of(PLAIN, PLAIN, SIGNS, st.tuples(PLAIN, SIGNS).map(" ".join), st.text(max_size=12))


@st.composite
def image(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A caption and references, some of them made from the caption's words."""
    caption = draw(CAPTION)
    near = st.permutations(caption.split()).map(" ".join)
    return caption, draw(st.lists(st.one_of(CAPTION, near, st.just(caption)), min_size=1, max_size=4))


@pytest.fixture(scope="module")
def meteor() -> Meteor:
    return Meteor.load()


@pytest.fixture(scope="module")
def reference() -> Iterator[Any]:
    from pycocoevalcap.meteor.meteor import Meteor as Reference

    reference = Reference()
    yield reference
    process = reference.meteor_p
    for pipe in (process.stdin, process.stdout, process.stderr):
        pipe.close()
    process.wait()


def tokens_of(images: list[tuple[str, list[str]]]) -> tuple[list[list[str]], list[list[list[str]]]]:
    references = iter(tokenize([text for _, texts in images for text in texts]))
    return tokenize([caption for caption, _ in images]), [
        [next(references) for _ in texts] for _, texts in images
    ]


def compare(meteor: Meteor, reference: Any, images: list[tuple[str, list[str]]]) -> None:
    predictions, references = tokens_of(images)
    statistics = meteor.statistics(predictions, references)
    corpus, each = reference.compute_score(
        {i: [" ".join(tokens) for tokens in texts] for i, texts in enumerate(references)},
        {i: [" ".join(tokens)] for i, tokens in enumerate(predictions)},
    )
    np.testing.assert_allclose(statistics.each(), each, rtol=0, atol=1e-12)
    assert abs(statistics.score() - corpus) < 1e-12


@needs_java
@settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(images=st.lists(image(), min_size=1, max_size=20))
def test_scores_of_random_captions(
    meteor: Meteor, reference: Any, images: list[tuple[str, list[str]]]
) -> None:
    compare(meteor, reference, images)


@needs_java
def test_scores_of_captions_that_ask_much_of_the_search(meteor: Meteor, reference: Any) -> None:
    """Words repeated so often that the beam is full, and matches by several stages at once."""
    rng = np.random.default_rng(0)
    words = ["a", "the", "man", "men", "guy", "runs", "running", "in", "front", "of", "before", "lot", "many"]
    captions = [" ".join(rng.choice(words, size=size)) for size in rng.integers(5, 40, size=120)]
    compare(meteor, reference, [(captions[i], captions[i + 1 : i + 4]) for i in range(len(captions) - 3)])


@needs_java
def test_empty_and_punctuation_only_captions(meteor: Meteor, reference: Any) -> None:
    texts = ["", "...", "!?", "a dog", "'", "-", "$", "( )", "\u200b"]
    compare(meteor, reference, [(one, [other]) for one in texts for other in texts])
    compare(meteor, reference, [("", ["", ""])])


def with_few_paraphrases(folder: Path) -> Path:
    """The jar in a folder of its own, with a few paraphrases: Java reads all of them for half of its start."""
    (folder / "data").mkdir(parents=True)
    shutil.copy(find().jar, folder)
    with gzip.open(folder / "data/paraphrase-en.gz", "wt") as stream:
        stream.write("0.5\na lot of\nmany\n0.5\ndown the\nalong\n0.1\nalong\ndown the\n")
    return folder


@needs_java
def test_the_jars_own_statistics_are_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYCAP_CACHE", str(tmp_path / "cache"))
    folder = with_few_paraphrases(tmp_path / "meteor")
    predictions, references = tokens_of(
        [
            ("a man rides a bike along a road", ["a guy riding a bicycle down the road", "the person rode"]),
            ("two men on a couch", ["a couple of guys sit on the sofa", "men"]),
            ("", ["nothing", "here"]),
            ("many dogs run", ["a lot of dogs are running", "puppies"]),
            ("the photo's frame isn't big", ["the picture frame is not large"]),
            ("a dog", ["a dog"]),
        ]
    )
    theirs = JavaMeteor.load(str(folder)).statistics(predictions, references)
    ours = Meteor.load(str(folder)).statistics(predictions, references)
    for name, values in vars(ours).items():
        np.testing.assert_array_equal(values, getattr(theirs, name), err_msg=name)
    assert ours.score() == theirs.score()
    assert ours.matched.sum(axis=(0, 2, 3)).min() > 0  # every stage has its part


@needs_java
def test_line_ends_and_half_surrogates_score_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The jar's lines were split by a carriage return inside a tag; half a surrogate pair could not be sent at all."""
    monkeypatch.setenv("RAYCAP_CACHE", str(tmp_path / "cache"))
    folder = with_few_paraphrases(tmp_path / "meteor")
    texts = [
        'a <a href="x\ry"> dog',
        'a <a href="x y"> dog',
        "see http://x\ud800y now",
        "see http://x\udfffy now",
        "http://\ud83d\ude00\r",
        "<!-- a\rb -->",
        "a dog",
    ]
    predictions, references = tokens_of([(one, [other]) for one in texts for other in texts])
    theirs = JavaMeteor.load(str(folder)).statistics(predictions, references)
    ours = Meteor.load(str(folder)).statistics(predictions, references)
    for name, values in vars(ours).items():
        np.testing.assert_array_equal(values, getattr(theirs, name), err_msg=name)


def test_evaluate_combines_meteor_with_another_metric_offline(
    meteor: Meteor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a fake METEOR was ever combined. The real one needs neither Java nor a connection."""
    import evaluate

    def connect(*_: object) -> None:
        raise OSError("this test is offline")

    monkeypatch.setattr("socket.socket.connect", connect)
    monkeypatch.setattr("socket.getaddrinfo", connect)
    monkeypatch.setenv("PATH", "")
    load_meteor.cache_clear()
    images = [
        ("a man rides a bike", ["A guy is riding a bicycle.", "A person rides."]),
        ("two dogs", ["A dog."]),
    ]
    captions, wanted = [caption for caption, _ in images], [texts for _, texts in images]
    both = evaluate.combine([metrics.load("meteor"), metrics.load("cider_d")])
    found = both.compute(predictions=captions, references=wanted)
    expected = meteor.statistics(*tokens_of(images)).score()
    assert found == {"meteor": expected, "cider_d": metrics.score(captions, wanted)["cider_d"]}
    assert 0.2 < expected < 1
    with pytest.raises(ValueError, match="nothing to score"):
        metrics.load("meteor").compute(predictions=[], references=[])
