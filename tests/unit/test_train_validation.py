"""What validation scores."""

import pytest
from fake_meteor import install_meteor

from raycap import metrics
from raycap.metrics.measure import load_meteor
from raycap.train.validation import score_captions

SAID = {1: "a dog runs", 2: "a cat sits on a mat", 3: "nobody wrote of this"}
WANTED = {1: ["a dog is running", "the dog runs"], 2: ["a cat on a mat"], 4: ["never captioned"]}


def test_images_with_caption_and_references_are_scored() -> None:
    expected = metrics.score([SAID[1], SAID[2]], [WANTED[1], WANTED[2]])
    found = score_captions(2.5, SAID, WANTED, metric="rouge_l")
    assert found.metrics == {"val_loss": 2.5, **expected}
    assert found.captions == SAID
    assert list(found.scores) == [1, 2]
    alone = metrics.score([SAID[2]], [WANTED[2]])["rouge_l"]  # a metric that the other images have no part in
    assert found.scores[2] == pytest.approx(alone)
    assert score_captions(2.5, {}, WANTED, metric="rouge_l").metrics == {"val_loss": 2.5}


def test_meteor_is_measured_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    install_meteor(monkeypatch, available=True)
    scored = score_captions(2.5, SAID, WANTED, metric="cider_d", meteor=load_meteor()).metrics
    load_meteor.cache_clear()
    assert scored["meteor"] == pytest.approx(0.45)  # the fake: a tenth of the mean of 3 and 6 words
    assert scored["val_loss"] == 2.5
