"""Scoring on Ray's workers: the same figures as in one process, to the last bit, for any number of them."""

import json

import numpy as np
import pytest
from fake_meteor import FakeStatistics

from raycap.evaluate.workers import WorkerScorer
from raycap.metrics import PreparedReferences, frequency
from raycap.metrics.measure import Measured, measure
from raycap.score import report as reporting
from raycap.score.config import ScoringOptions

pytestmark = pytest.mark.ray
TEXT = "a red dog runs over the green grass with two men and one old bike on hill street"
WORDS = TEXT.split()
# ends that the caption below decides about: "letter B." before "The ..." is another token
ENDS = ["letter B.", "no.", "The end", "U.S.", "5 men", "2 o'clock!"]


def make(size: int) -> tuple[list[str], list[list[str]]]:
    random = np.random.default_rng(4)

    def caption() -> str:
        start = ["The ", "", "5 "][int(random.integers(3))]
        words = random.choice(WORDS, size=int(random.integers(1, 12))).tolist()
        return f"{start}{' '.join(words)} {ENDS[int(random.integers(len(ENDS)))]}"

    captions = [caption() for _ in range(size)]
    return captions, [[caption() for _ in range(int(random.integers(1, 5)))] for _ in range(size)]


CAPTIONS, REFERENCES = make(61)
IDS = [f"image-{index}" for index in range(61)]


def same(one: Measured, other: Measured) -> None:
    assert one.scores() == other.scores()
    each, theirs = one.each(), other.each()
    for name, values in each.items():
        assert values.tobytes() == theirs[name].tobytes(), name
    assert one.tokens == other.tokens


@pytest.mark.parametrize("num_parts", [1, 2, 4])
def test_any_number_of_workers_gives_the_same_bits(ray_session: None, num_parts: int) -> None:
    """Parts are cut where tokens depend on the next part, and document frequencies are merged from all of them."""
    prepared = PreparedReferences(REFERENCES)
    scorer = WorkerScorer(REFERENCES, ids=IDS, num_parts=num_parts)
    same(scorer.measure(CAPTIONS), measure(CAPTIONS, prepared))
    constant = ["a red dog on the green grass"] * len(IDS)
    same(scorer.measure(constant), measure(constant, prepared))
    assert scorer.document_frequency.counts() == prepared.document_frequency.counts()
    assert scorer.document_frequency.source == prepared.document_frequency.source
    assert scorer.reference_tokens() == prepared.all_tokens()


def test_the_data_notices_a_cut() -> None:
    """Without the next part's first caption, tokens at most cuts would differ."""
    whole = PreparedReferences(REFERENCES).all_tokens()
    changed = [
        size
        for size in range(1, len(REFERENCES))
        if PreparedReferences(REFERENCES[:size]).all_tokens()[-1] != whole[size - 1]
    ]
    assert len(changed) > 3


def test_given_frequencies_and_a_whole_report(ray_session: None) -> None:
    given = frequency.count([["a red dog", "the old bike"]] * 7 + [["a hill street"]], source="elsewhere")
    options = ScoringOptions(bootstrap=30, document_frequency="given.json")
    prepared = PreparedReferences(REFERENCES, ids=IDS, document_frequency=given)
    local = reporting.LocalScorer(prepared)
    spread = WorkerScorer(REFERENCES, ids=IDS, num_parts=3, document_frequency=given)
    reports = [
        reporting.describe(
            scorer.measure(CAPTIONS), scorer, captions=CAPTIONS, references=REFERENCES, options=options
        )
        for scorer in (local, spread)
    ]
    assert json.dumps(reports[0]) == json.dumps(reports[1])
    assert reports[0]["document_frequency"] == {"source": "elsewhere", "num_images": 8}


def test_a_wrong_reference_on_a_worker_is_one_sentence(ray_session: None) -> None:
    wrong = [*REFERENCES[:50], [], *REFERENCES[51:]]
    with pytest.raises(ValueError, match=r"^image image-50 has no reference caption") as caught:
        WorkerScorer(wrong, ids=IDS, num_parts=4)
    assert "\n" not in str(caught.value)


def test_meteors_parts_are_put_together() -> None:
    parts = [
        Measured(
            measure(CAPTIONS[begin:end], PreparedReferences(REFERENCES[begin:end])).statistics,
            [],
            meteor=FakeStatistics(np.arange(begin, end)),
        )
        for begin, end in ((0, 30), (30, 61))
    ]
    together = Measured.concatenate(parts)
    assert together.scores()["meteor"] == pytest.approx(3.0)
    missing = Measured.concatenate([parts[0], measure(CAPTIONS[30:], PreparedReferences(REFERENCES[30:]))])
    assert "meteor" not in missing.scores()
