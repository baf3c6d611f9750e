"""COCO's numbers without Java: tokens, BLEU, ROUGE-L, CIDEr-D, prepared references, bad input, evaluate's faces."""

import json
import math
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import raycap.metrics as metrics
from raycap.metrics import (
    DocumentFrequency,
    PreparedReferences,
    Statistics,
    merge_counts,
    score,
    score_each,
    tokenize,
)
from raycap.metrics.ngrams import Words
from raycap.metrics.ptb import DROPPED, neighbours

TOKENS = {  # measured with the reference tool
    """A man's dog isn't running; he's "sleeping" (on a t-shirt).""": (
        "a man 's dog is n't running he 's sleeping -lrb- on a t-shirt -rrb-"
    ),
    "Two men -- one in blue -- can't see the 3,000 people at 5:30 p.m.": (
        "two men one in blue ca n't see the 3,000 people at 5:30 p.m."
    ),
    "She's gonna wanna ride a black-and-white horse...": "she 's gon na wan na ride a black-and-white horse",
    'A U.S. flag & a sign that reads "STOP!" cost $3.50, 50% off': (
        "a u.s. flag & a sign that reads stop cost $ 3.50 50 % off"
    ),
    "a man w/ a hat @ the park [left] {right} <x>": "a man w / a hat @ the park -lsb- left -rsb- -lcb- right -rcb- <x>",
    "It's 9 o'clock; rock 'n' roll 'tis fun": "it 's 9 o'clock rock 'n' roll 't is fun",
    "café naïve façade – em—dash … ellipsis “curly” ‘quotes’ it’s": (
        "café naïve façade em dash ellipsis curly quotes it 's"
    ),
    "Mr. Smith lives on St. John Ave. near no. 5 vs. No. six": "mr. smith lives on st. john ave. near no. 5 vs. no six",
    "M&M's H&M h&m C++ #1 #tag @user 10pm 5:30pm '90s 5'10\"": (
        "m&m 's h&m h & m c++ # 1 #tag @user 10pm 5:30 pm '90s 5 10"
    ),
    "and/or 24/7 1/2 w/o n/a :-) =) a_b a__b £5 50¢ ½": (
        "and/or 24/7 1/2 w/o n/a :--rrb- =-rrb- a_b a __ b # 5 50 cents 1/2"
    ),
    "visit www.foo.org/xy or foo.com, mail a@b.com": "visit www.foo.org/xy or foo.com mail a@b.com",
    "aro`und it`s ma'am y'all d'or O'Neil": "aro`und it s ma'am y' all d'or o'neil",
    "a😀b \u200b dog\r\nruns": "a b dog runs",
    "": "",
    "... - !": "",
    "what?!": "what ?!",
}


@pytest.mark.parametrize("caption", TOKENS)
def test_tokens_are_the_reference_tools(caption: str) -> None:
    assert " ".join(tokenize([caption])[0]) == TOKENS[caption]


def test_a_token_that_spans_a_space_keeps_it() -> None:
    assert tokenize(["1 1/2 cups", "(555) 555-1234"]) == [["1\xa01/2", "cups"], ["-lrb-555-rrb-\xa0555-1234"]]


def test_the_caption_below_decides_whether_a_last_letter_keeps_its_stop() -> None:
    """The reference tokenizes one file: 'B.' before a line that starts with 'The' ends a sentence."""
    assert tokenize(["the letter B.", "The end"])[0] == ["the", "letter", "b"]
    assert tokenize(["the letter B.", "two men"])[0] == ["the", "letter", "b."]
    assert tokenize(["the letter B."])[0] == ["the", "letter", "b."]
    assert tokenize(["house no.", "5 men"])[0] == ["house", "no."]
    captions = ["the letter B.", "The end", "a C.", "two"]
    below = neighbours(captions)
    parts = [tokenize([caption], following=[line])[0] for caption, line in zip(captions, below, strict=True)]
    assert parts == tokenize(captions)


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x85", "\r", "\n"])
def test_a_line_end_inside_a_caption_does_not_shift_those_below(sign: str) -> None:
    """The reference tool reads its file by lines, so that most of these give the next caption another's tokens."""
    assert tokenize([f"one {sign} two", "a dog", "a cat"]) == [["one", "two"], ["a", "dog"], ["a", "cat"]]


def test_a_tag_ends_a_sentence_only_with_a_space_behind_it() -> None:
    """The letter before "<b>he" lost its stop; the random comparison with the reference tool found it."""
    assert tokenize(["x A. <b> he", "x A. <b>", "x A. <b>he", "x A.  <b>, he"]) == [
        ["x", "a", "<b>", "he"],
        ["x", "a", "<b>"],
        ["x", "a.", "<b>", "he"],
        ["x", "a.", "<b>", "he"],
    ]


TEXT = st.one_of(
    st.text(max_size=40),
    st.lists(st.sampled_from(list(" '\"`.,-/()<>&@#$5a1BnotTé½“’…_*+=:;!?")), max_size=24).map("".join),
    st.lists(
        st.sampled_from(["a", "man's", "U.S.", "b.", "5", "1/2", "can't", "--", "<b>", "(x)"]), max_size=9
    ).map(" ".join),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(TEXT, max_size=4))
def test_tokens_hold_no_space_no_capital_and_nothing_that_is_dropped(captions: list[str]) -> None:
    lines = tokenize(captions)
    assert len(lines) == len(captions)
    for tokens in lines:
        assert not set(tokens) & DROPPED
        assert all(" " not in token and "\n" not in token for token in tokens)
        assert [token.lower() for token in tokens] == tokens or any(not token.isascii() for token in tokens)


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=5))
def test_cached_words_do_not_change_tokens(captions: list[str]) -> None:
    first = tokenize(captions)
    assert tokenize(captions) == first


def test_words_of_letters_are_what_the_rules_make_of_them() -> None:
    """Letters alone, or before a comma or stop, skip the rules: with each word that a rule knows, in any case."""
    from raycap.metrics import ptb, ptb_rules

    known = " ".join(pattern.pattern for pattern, _ in ptb_rules.RULES)
    words = {word for word in re.findall("[A-Za-z]{1,9}", known) if len(word) > 1 or word in "AaI"}
    words |= {word + ending for word in ptb_rules.SPLIT_WORDS for ending in ("", "s", "a")}
    assert len(words) > 300
    for word in sorted(words):
        for chunk in (word, word.upper(), word.capitalize(), f"{word},", f"{word}.", f"{word.upper()}."):
            if ptb._CLOSED.fullmatch(chunk):
                assert ptb._closed_tokens(chunk, {}) == ptb._lex(chunk, f"{chunk}\n", 0, len(chunk))[0], chunk


def plain_cider_d(predictions: list[list[str]], references: list[list[list[str]]]) -> list[float]:
    """CIDEr-D straight from the paper, one n-gram at a time: the slow truth for the fast one."""

    def counts(tokens: list[str], n: int) -> dict[tuple[str, ...], int]:
        out: dict[tuple[str, ...], int] = {}
        for i in range(len(tokens) - n + 1):
            gram = tuple(tokens[i : i + n])
            out[gram] = out.get(gram, 0) + 1
        return out

    scores = []
    for candidate, refs in zip(predictions, references, strict=True):
        total = 0.0
        for n in range(1, 5):
            seen: dict[tuple[str, ...], int] = {}
            for image in references:
                for gram in {gram for ref in image for gram in counts(ref, n)}:
                    seen[gram] = seen.get(gram, 0) + 1

            def weigh(
                tokens: list[str], n: int = n, seen: dict[tuple[str, ...], int] = seen
            ) -> dict[tuple[str, ...], float]:
                log_images = math.log(len(references))
                return {
                    gram: count * (log_images - math.log(max(1, seen.get(gram, 0))))
                    for gram, count in counts(tokens, n).items()
                }

            hyp = weigh(candidate)
            for ref_tokens in refs:
                ref = weigh(ref_tokens)
                dot = sum(min(value, ref.get(gram, 0.0)) * ref.get(gram, 0.0) for gram, value in hyp.items())
                norms = math.sqrt(sum(v * v for v in hyp.values())) * math.sqrt(
                    sum(v * v for v in ref.values())
                )
                gap = max(len(candidate) - 1, 0) - max(len(ref_tokens) - 1, 0)
                total += (dot / norms if norms else 0.0) * math.exp(-(gap**2) / 72) / len(refs)
        scores.append(total / 4 * 10)
    return scores


WORDS = st.lists(st.sampled_from(["a", "dog", "cat", "runs", "on", "grass", "red"]), max_size=8).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=3)), min_size=1, max_size=5))
def test_cider_d_equals_the_plain_sum(images: list[tuple[str, list[str]]]) -> None:
    predictions, references = [image[0] for image in images], [image[1] for image in images]
    expected = plain_cider_d(tokenize(predictions), [tokenize(image) for image in references])
    np.testing.assert_allclose(score_each(predictions, references)["cider_d"], expected, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=3)), min_size=1, max_size=5))
def test_scores_stay_in_range_and_a_reference_scores_one(images: list[tuple[str, list[str]]]) -> None:
    references = [image[1] for image in images]
    scores = score([image[0] for image in images], references)
    assert all(0 <= scores[name] <= 1 + 1e-9 for name in metrics.NAMES if name != "cider_d")
    assert 0 <= scores["cider_d"] <= 10 + 1e-9
    copied = score_each([refs[0] for refs in references], references)
    np.testing.assert_allclose(copied["rouge_l"], 1.0)
    long = [len(refs[0].split()) >= 1 for refs in references]
    np.testing.assert_allclose(copied["bleu_1"][long], 1.0, atol=1e-8)


PREDICTIONS = ["a dog runs on the grass", "two men sit on a bench", "", "a red bus in the city street"]
REFERENCES = [
    ["A dog is running on grass.", "The dog runs on the green grass."],
    ["Two men are sitting on a bench.", "Men sit.", "Two men sit on a bench in the park."],
    ["A cat sleeps."],
    ["A red bus drives down a city street.", "A bus."],
]


def test_prepared_references_score_like_plain_ones_and_survive_pickling() -> None:
    prepared = pickle.loads(pickle.dumps(PreparedReferences(REFERENCES)))
    assert prepared.statistics(PREDICTIONS).scores() == score(PREDICTIONS, REFERENCES)
    assert score(PREDICTIONS, prepared) == score(PREDICTIONS, REFERENCES)


def test_several_predictions_of_one_image_score_as_each_alone() -> None:
    prepared = PreparedReferences(REFERENCES)
    alone = score_each(PREDICTIONS, prepared)["cider_d"]
    twice = prepared.cider_d([PREDICTIONS[1], PREDICTIONS[3], PREDICTIONS[1]], images=[1, 3, 1])
    assert twice.tolist() == [alone[1], alone[3], alone[1]]


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_parts_scored_by_workers_add_up_to_the_last_bit(workers: int) -> None:
    """Strided parts, their own references, merged document frequencies: the same figures as in one piece."""
    rows = [(PREDICTIONS[i % 4] + f" {i % 3}", REFERENCES[i % 4]) for i in range(11)]
    whole = score([row[0] for row in rows], [row[1] for row in rows])
    below = neighbours([caption for row in rows for caption in row[1]])
    first = np.cumsum([0, *(len(row[1]) for row in rows)])
    parts = [list(range(worker, len(rows), workers)) for worker in range(workers)]

    def prepare(part: list[int], frequency: DocumentFrequency | None) -> PreparedReferences:
        following = [line for i in part for line in below[first[i] : first[i + 1]]]
        return PreparedReferences(
            [rows[i][1] for i in part], document_frequency=frequency, following=following
        )

    frequency = merge_counts([prepare(part, None).document_frequency for part in parts], source="all parts")
    statistics = [prepare(part, frequency).statistics([rows[i][0] for i in part]) for part in parts]
    assert Statistics.concatenate(statistics).scores() == whole


def test_given_document_frequencies_change_cider_d_only() -> None:
    training = DocumentFrequency.from_counts({"a": 90, "dog": 10, "a dog": 5}, num_images=100)
    assert training.counts() == {"a": 90, "dog": 10, "a dog": 5}
    own = score(PREDICTIONS, REFERENCES)
    given_df = score(PREDICTIONS, PreparedReferences(REFERENCES, document_frequency=training))
    assert {name for name in own if own[name] != given_df[name]} == {"cider_d"}
    # With one image the default frequencies weigh everything by log 1 = 0; a training set's do not.
    one = PreparedReferences([["a dog"]], document_frequency=training)
    assert score(["a dog"], [["a dog"]])["cider_d"] == 0.0
    np.testing.assert_allclose(score(["a dog"], one)["cider_d"], 5.0)  # two of four orders match fully


def test_document_frequencies_survive_their_plain_form() -> None:
    words = Words.of(tokenize([caption for image in REFERENCES for caption in image]))
    image_of = np.repeat(np.arange(4), [len(image) for image in REFERENCES])
    counted = DocumentFrequency.of(words, image_of, num_images=4, source="here")
    again = DocumentFrequency.from_counts(counted.counts(), num_images=4)
    assert again.counts() == counted.counts()
    assert counted.counts()["a"] == 4
    assert counted.counts()["on a bench"] == 1


def test_the_closest_reference_length_takes_the_shorter_of_two() -> None:
    prepared = PreparedReferences([["one two", "one two three four"]])
    statistics = prepared.statistics(["one two three"])
    assert statistics.reference_length.tolist() == [2]
    assert statistics.correct.tolist() == [[3, 2, 1, 0]]


def test_empty_captions_score_zero_but_equal_empties_share_their_one_empty_token() -> None:
    """The reference splits '' into one empty token, so nothing against nothing has ROUGE-L 1."""
    scores = score_each(["", "", "a dog"], [["a dog"], ["..."], ["..."]])
    assert scores["rouge_l"].tolist() == [0.0, 1.0, 0.0]
    assert scores["cider_d"].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        (["a"], [["b"], ["c"]], "1 predictions for 2 images"),
        ([], [], "nothing to score"),
        (["a", "b"], [["x"], []], "image 1 has no reference"),
        (["a", 3], [["x"], ["y"]], "caption of image 1 must be a string and is int"),
        (["a"], [["x", None]], "reference of image 0 must be a string and is NoneType"),
        (["a"], ["x"], "references of image 0 must be a list"),
        ("a", [["x"]], "predictions must be a list"),
        (
            ["a"],
            {"a": ["x"]},
            "references must be a list with a list of captions for each image and are of type dict$",
        ),
        (["a"], "x", "references must be .* and are one string$"),
        (["a"], [{"x": 1}], "references of image 0 must be a list of captions and are of type dict$"),
        (["a"], [7], "references of image 0 must be a list of captions and are of type int$"),
        ({"a": "x"}, [["x"]], "predictions must be a list of captions and are of type dict$"),
        (
            (text for text in "a"),
            [["x"]],
            "predictions must be a list of captions and are of type generator$",
        ),
        (["a"], (["x"] for _ in "a"), "references must be .* and are of type generator$"),
        (["a"], [(text for text in "x")], "references of image 0 must be .* and are of type generator$"),
        (["a"], [np.array([])], "image 0 has no reference"),
        (["a"], [np.array([1.5])], "reference of image 0 must be a string and is float64"),
        (np.array("a"), [["x"]], "predictions must be a list of captions and are of type ndarray$"),
    ],
)
def test_bad_input_is_named(predictions: object, references: object, message: str) -> None:
    """A dict of references was a KeyError, a generator a TypeError, an array "truth value ... is ambiguous"."""
    with pytest.raises(ValueError, match=message):
        score(predictions, references)  # type: ignore[arg-type]
    if references != []:
        with pytest.raises(ValueError, match=message):
            PreparedReferences(references).statistics(predictions)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "references", [[np.array(["a dog", "dogs"]), ["a cat"]], np.array([["a dog"], ["a cat"]])]
)
def test_arrays_of_captions_are_lists(references: object) -> None:
    """An array of an image's references was "truth value ... is ambiguous"."""
    plain = [[str(text) for text in texts] for texts in references]  # type: ignore[attr-defined]
    assert score(np.array(["a dog", "cats"]), references) == score(["a dog", "cats"], plain)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "images",
    [
        [0.7],
        [0.0],
        [True],
        [True, 0],
        ["0"],
        [[0]],
        0,
        {0},
        (index for index in [0]),
        np.array([False]),
    ],
)
def test_images_are_whole_numbers(images: object) -> None:
    """0.7 was image 0 and True image 1."""
    prepared = PreparedReferences([["x"], ["y"]])
    with pytest.raises(ValueError, match=r"images must be a list of whole numbers, .* and are "):
        prepared.cider_d(["x"], images=images)  # type: ignore[arg-type]
    assert prepared.cider_d([], images=[]).tolist() == []
    assert prepared.cider_d(["y"], images=np.array([1])).shape == (1,)  # type: ignore[arg-type]


def test_bad_images_and_ids_are_named() -> None:
    with pytest.raises(ValueError, match=r"image cat\.jpg has no reference"):
        PreparedReferences([["x"], []], ids=["dog.jpg", "cat.jpg"])
    with pytest.raises(ValueError, match="no image 7"):
        PreparedReferences([["x"]]).cider_d(["a"], images=[7])
    with pytest.raises(ValueError, match=r"caption of image dog\.jpg"):
        PreparedReferences([["x"]], ids=["dog.jpg"]).statistics([None])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="1 to 4 words"):
        DocumentFrequency.from_counts({"a b c d e": 1}, num_images=2)


def test_evaluate_faces_compute_the_same_numbers() -> None:
    expected = score(PREDICTIONS, REFERENCES)
    cider = metrics.load("cider_d").compute(predictions=PREDICTIONS, references=REFERENCES)
    assert cider == {"cider_d": expected["cider_d"]}
    import evaluate

    combined = evaluate.combine([metrics.load("bleu"), metrics.load("rouge_l")])
    both = combined.compute(predictions=PREDICTIONS, references=REFERENCES)
    assert both == {name: expected[name] for name in ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l")}
    with pytest.raises(ValueError, match=r"unknown metric 'cider'; known: bleu_1"):
        metrics.load("cider")


def test_evaluate_faces_refuse_what_comes_in_no_order() -> None:
    """`evaluate` raised KeyError of a dict and TypeError of a generator."""
    metric = metrics.load("rouge_l")
    with pytest.raises(ValueError, match=r"references must be .* and are of type dict$"):
        metric.compute(predictions=["a"], references={"a": ["x"]})
    with pytest.raises(ValueError, match=r"predictions must be .* and are of type generator$"):
        metric.compute(predictions=(text for text in "a"), references=[["x"]])


@pytest.mark.parametrize("name", ["cider_d", "bleu", "captions"])
def test_evaluate_faces_refuse_no_images(name: str) -> None:
    """They scored 0.0, where `score` says that there is nothing to score."""
    metric = metrics.load(name)
    with pytest.raises(ValueError, match="nothing to score: no images"):
        metric.compute(predictions=[], references=[])
    found = metric.compute(predictions=PREDICTIONS, references=REFERENCES)  # it is not spoilt
    assert found.items() <= score(PREDICTIONS, REFERENCES).items()


@pytest.mark.real
@pytest.mark.parametrize(
    "name", ["flickr30k_magic", "flickr30k_constant_caption", "two_images_good", "two_images_bad"]
)
def test_published_captions_score_what_coco_evaluation_gave(shared: Path, name: str) -> None:
    rows = json.loads((shared / "metrics" / f"{name}.json").read_text())
    expected = json.loads((shared / "metrics" / "expected.json").read_text())[name]
    scores = score([row["candidate"] for row in rows], [row["references"] for row in rows])
    keys = {"BLEU-1": "bleu_1", "BLEU-2": "bleu_2", "BLEU-3": "bleu_3", "BLEU-4": "bleu_4"}
    keys |= {"ROUGE-L": "rouge_l", "CIDEr-D": "cider_d"}
    for theirs, ours in keys.items():
        printed = 1e-6 if len(rows) > 2 else 6e-5  # the small files' BLEU is printed to four digits
        assert abs(scores[ours] - expected[theirs]) <= printed, ours
