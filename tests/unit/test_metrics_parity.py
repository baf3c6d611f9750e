"""Against pycocoevalcap itself (the extra `raycap[coco]`); its tokenizer needs Java."""

import contextlib
import os
import shutil
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from raycap.metrics import NAMES, PreparedReferences, tokenize

pytest.importorskip("pycocoevalcap", reason="pycocoevalcap is not installed: pip install 'raycap[coco]'")
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="the reference tokenizer needs Java")

Captions = dict[int, list[str]]


def reference_tokens(captions: Captions) -> Captions:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    with open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
        return PTBTokenizer().tokenize(
            {key: [{"caption": text} for text in texts] for key, texts in captions.items()}
        )


def reference_scores(candidates: Captions, references: Captions) -> tuple[dict[str, float], dict[str, Any]]:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    bleu, bleu_each = Bleu(4).compute_score(references, candidates, verbose=0)
    rouge, rouge_each = Rouge().compute_score(references, candidates)
    cider, cider_each = Cider().compute_score(references, candidates)
    return dict(zip(NAMES, [*bleu, rouge, cider], strict=True)), dict(
        zip(NAMES, [*map(np.array, bleu_each), rouge_each, cider_each], strict=True)
    )


def compare(
    predictions: list[str], references: list[list[str]], theirs: tuple[dict[str, float], dict[str, Any]]
) -> None:
    statistics = PreparedReferences(references).statistics(predictions)
    scores, each = statistics.scores(), statistics.each()
    for name in NAMES:
        assert abs(scores[name] - theirs[0][name]) < 1e-12, name
        np.testing.assert_allclose(each[name], theirs[1][name], atol=1e-12, err_msg=name)


PIECES = """a dog runs on the grass two men A. b. U.S. p.m. Mr. no. 5 10 1/2 3.50 555-1234 can't he's dogs' 'n' 'tis
    & % $ # @ / - -- ... . , ! ? ; : ( ) [ ] { } ' " ` “ ” ‘ ’ – — … é naïve ½ £5 ¢ 日本 ☃ 😀 t-shirt and/or w/o cannot
    gonna o'clock ma'am y'all www.x.com a@b.com :) <b> </b> C++ AT&T '90s 5'10 10:30pm"""
CAPTION = st.lists(
    st.tuples(st.sampled_from(PIECES.split()), st.sampled_from([" ", " ", " ", "", "  "])), max_size=10
).map(lambda parts: "".join(piece + space for piece, space in parts))
IMAGES = st.lists(st.tuples(CAPTION, st.lists(CAPTION, min_size=1, max_size=3)), min_size=2, max_size=120)
# A failing example is not shrunk: every step would start Java twice.
FEW = settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@needs_java
@FEW
@given(st.lists(CAPTION, min_size=1, max_size=250))
def test_tokens_of_random_captions(captions: list[str]) -> None:
    theirs = reference_tokens({0: [*captions, "end"]})[0][:-1]
    assert [" ".join(tokens) for tokens in tokenize([*captions, "end"])[:-1]] == theirs


@needs_java
@FEW
@given(IMAGES)
def test_scores_of_random_captions(images: list[tuple[str, list[str]]]) -> None:
    predictions = [*(image[0] for image in images), "a dog", "", "...!"]
    references = [*(image[1] for image in images), ["a dog runs"], ["a cat"], ["it sits"]]
    candidates = reference_tokens({key: [text] for key, text in enumerate(predictions)})
    compare(
        predictions, references, reference_scores(candidates, reference_tokens(dict(enumerate(references))))
    )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.lists(st.sampled_from(["a", "dog", "cat", "on"]), max_size=9).map(" ".join)] * 3),
        min_size=1,
        max_size=6,
    )
)
def test_scores_of_plain_words_need_no_java(images: list[tuple[str, str, str]]) -> None:
    predictions = [*(image[0] for image in images), "a dog"]
    references = [*([image[1], image[2]] for image in images), ["a cat on"]]
    theirs = reference_scores({k: [v] for k, v in enumerate(predictions)}, dict(enumerate(references)))
    compare(predictions, references, theirs)
