"""Intervals and paired comparisons: the matrix form against the plain loop, and what they conclude."""

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from raycap.metrics import PreparedReferences, Statistics, bootstrap
from raycap.metrics.bootstrap import Floats

PREDICTIONS = ["a red dog runs", "a man", "a blue bike is here", "a tree"]
REFERENCES = [
    ["A red dog runs.", "The dog is running."],
    ["Two people sit.", "A man and a woman sit."],
    ["A bike.", "A blue bike leans on a wall."],
    ["A house stands on a hill.", "A small house."],
]


@dataclass(frozen=True)
class Means:
    """A metric that is a mean of given values."""

    values: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.values)

    def resampled(self, counts: Floats) -> dict[str, Floats]:
        return {"mean": counts @ self.values / counts.sum(axis=1)}


def statistics_of(predictions: list[str]) -> Statistics:
    return PreparedReferences(REFERENCES).statistics(predictions)


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_matrix_form_scores_each_resampling_as_the_plain_one(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Whatever number is held at a time, the resamplings are those of drawing images one sample after another."""
    monkeypatch.setattr(bootstrap, "CHUNK_COUNTS", at_once * 4)
    statistics = statistics_of(PREDICTIONS)
    random = np.random.default_rng(5)
    prepared = PreparedReferences(REFERENCES)
    drawn = [random.integers(4, size=4).tolist() for _ in range(50)]
    plain = [
        prepared.statistics([PREDICTIONS[i] for i in images], images=images).scores() for images in drawn
    ]
    found = bootstrap.intervals(statistics, num_samples=50, seed=5)
    assert set(found) == set(plain[0])
    for name, bounds in found.items():
        expected = np.percentile([sample[name] for sample in plain], [2.5, 97.5])
        assert bounds == pytest.approx(tuple(expected), abs=1e-12), name


def test_one_of_each_image_is_the_corpus_score() -> None:
    statistics = statistics_of(PREDICTIONS)
    once = {name: float(values[0]) for name, values in statistics.resampled(np.ones((1, 4))).items()}
    assert once == pytest.approx(statistics.scores(), abs=1e-15)


def test_equal_captions_do_not_differ_and_the_order_only_turns_the_sign() -> None:
    one, other = statistics_of(PREDICTIONS), statistics_of(["a dog", "a man sits", "a bike", "a house"])
    same = bootstrap.compare(one, one, num_samples=40, seed=0)["cider_d"]
    assert (same.difference, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert not same.is_real
    there = bootstrap.compare(one, other, num_samples=40, seed=0)
    back = bootstrap.compare(other, one, num_samples=40, seed=0)
    for name, difference in there.items():
        assert difference.difference == -back[name].difference
        assert (difference.low, difference.high) == pytest.approx((-back[name].high, -back[name].low))
        assert difference.p_value == back[name].p_value


def test_a_pair_is_judged_on_the_same_images() -> None:
    """Values that vary a lot between images and little between systems: unpaired, nothing would be seen."""
    hard = np.random.default_rng(0).normal(0, 10, size=200)
    better = bootstrap.compare(Means(hard + 0.1), Means(hard), num_samples=400, seed=0)["mean"]
    assert better.is_real
    assert better.difference == pytest.approx(0.1)
    assert better.p_value == pytest.approx(2 / 401)
    low, high = bootstrap.intervals(Means(hard), num_samples=400, seed=0)["mean"]
    assert high - low > 1


def test_noise_is_seldom_called_a_difference() -> None:
    """Of 200 pairs that differ by chance alone, about one in twenty may be called real."""
    random = np.random.default_rng(3)
    called = [
        bootstrap.compare(
            Means(random.normal(size=60)), Means(random.normal(size=60)), num_samples=200, seed=seed
        )["mean"]
        for seed in range(200)
    ]
    assert 2 <= sum(difference.is_real for difference in called) <= 22
    assert 2 <= sum(difference.p_value < 0.05 for difference in called) <= 22


def test_a_difference_is_real_only_where_interval_and_p_value_agree() -> None:
    """One resampling has an interval of no width, which left out zero: "better (p = 1.000)"."""
    one, other = Means(np.arange(2, 12.0)), Means(np.arange(1, 11.0))
    found = bootstrap.compare(one, other, num_samples=1, seed=0)["mean"]
    assert (found.low, found.high, found.p_value) == (1.0, 1.0, 1.0)
    assert not found.is_real
    assert bootstrap.compare(one, other, num_samples=bootstrap.MIN_COMPARED, seed=0)["mean"].is_real
    # two of a hundred resamplings against: the interval leaves out zero, the p-value is 0.0594
    assert not bootstrap.Difference(difference=1.0, low=0.1, high=2.0, p_value=2 * 3 / 101).is_real
    assert not bootstrap.Difference(difference=1.0, low=0.0, high=2.0, p_value=0.049).is_real


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="captions of 2 images cannot be paired with captions of 3"):
        bootstrap.compare(Means(np.ones(2)), Means(np.ones(3)), num_samples=5, seed=0)
    with pytest.raises(ValueError, match="at least one resampling"):
        bootstrap.compare(Means(np.ones(2)), Means(np.ones(2)), num_samples=0, seed=0)


def test_five_thousand_images_a_thousand_times_is_quick() -> None:
    """A loop over the resamplings took 1,000 copies of everything."""
    size = 5000
    random = np.random.default_rng(0)
    counts = random.integers(1, 10, size=(size, 4))
    statistics = Statistics(
        counts, counts + 3, counts[:, 0] + 5, counts[:, 0] + 6, random.random(size), random.random(size)
    )
    start = time.process_time()
    found = bootstrap.intervals(statistics, num_samples=1000, seed=0)
    assert time.process_time() - start < 5
    low, high = found["cider_d"]
    assert low < statistics.scores()["cider_d"] < high
    assert high - low == pytest.approx(2 * 1.96 * np.std(statistics.cider_d) / np.sqrt(size), rel=0.15)
