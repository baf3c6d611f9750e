"""What stands beside the COCO metrics: diversity, baselines, CLIPScore's numbers, SPICE's door."""

import subprocess
import sys
import types
from typing import Any

import numpy as np
import pytest

from raycap.metrics import DocumentFrequency, PreparedReferences, baselines, tokenize
from raycap.metrics.clip_score import clip_score, ref_clip_score, unit
from raycap.metrics.diversity import diversity, normalised
from raycap.metrics.spice import SpiceUnavailableError, spice

REFERENCES = [
    ["A dog is running on grass.", "The dog runs on the green grass."],
    ["Two men are sitting on a bench.", "Men sit.", "Two men sit on a bench in the park."],
    ["A cat sleeps."],
    ["A red bus drives down a city street.", "A bus."],
]


def test_diversity_counts_tokens() -> None:
    captions = ["A dog runs.", "a dog runs", "two cats", "A dog sits"]
    found = diversity(captions, tokens=tokenize(captions), training=normalised(["A dog runs!", "a bus"]))
    assert found == {
        "words": 11 / 4,
        "vocabulary": 6,
        "distinct_1": 6 / 11,
        "distinct_2": 4 / 7,  # a dog (3), dog runs (2), two cats, dog sits
        "distinct_captions": 3 / 4,
        "most_repeated": {"caption": "A dog runs.", "count": 2, "share": 0.5},
        "unseen": 0.5,
    }
    assert "unseen" not in diversity(captions, tokens=tokenize(captions))
    assert diversity([""], tokens=[[]])["distinct_2"] == 0.0
    with pytest.raises(ValueError, match="no captions"):
        diversity([], tokens=[])


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("caption", ["a dog runs on grass", "a a a bus", "unknown words only", "", "A man."])
def test_one_caption_for_all_scores_as_said_of_each_image(caption: str, given: bool) -> None:
    frequency = DocumentFrequency.from_counts({"a": 90, "dog": 10, "a dog": 5, "words": 3}, num_images=100)
    prepared = PreparedReferences(REFERENCES, document_frequency=frequency if given else None)
    expected = prepared.cider_d([caption] * len(REFERENCES))
    np.testing.assert_allclose(baselines.one_for_all(prepared, caption), expected, atol=1e-12)


def test_the_constant_caption_is_the_one_that_fits_most_training_images() -> None:
    # "a dog runs" is said of two thirds of the images; each other caption of one image only
    training = [[f"a dog runs number{i}", f"zebra{i} stands{i}"] for i in range(6)]
    training += [[f"bus{i} stops{i}"] for i in range(3)]
    assert baselines.constant_of(training, seed=0).startswith("a dog runs")
    assert baselines.constant_of(training, seed=0) == baselines.constant_of(training, seed=0)
    with pytest.raises(ValueError, match="no training captions"):
        baselines.constant_of([], seed=0)


def test_left_out_constants_never_come_from_the_image_itself() -> None:
    """A reference scored on its own image would be 10: the candidate's own image and the scored one are left out."""
    prepared = PreparedReferences(REFERENCES)
    chosen = baselines.constants_left_out(REFERENCES, seed=0)
    for image, caption in enumerate(chosen):
        assert caption not in REFERENCES[image]
    # by hand: for each image, the caption of another image that is best on the images that are neither's
    captions = [(i, caption) for i, image in enumerate(REFERENCES) for caption in image]
    for image, caption in enumerate(chosen):
        others = {
            c: np.mean([baselines.one_for_all(prepared, c)[j] for j in range(4) if j not in (i, image)])
            for i, c in captions
            if i != image
        }
        assert others[caption] == pytest.approx(max(others.values()))
    assert baselines.constants_left_out([["x"]], seed=0) == [""]


def test_nearest_is_by_angle_not_by_length() -> None:
    known = np.array([[10.0, 0.0], [0.1, 0.1], [0.0, 3.0], [0.0, 0.0]])
    queries = np.array([[0.2, 0.0], [5.0, 4.0], [-1.0, 2.0]])
    assert baselines.nearest(queries, known, chunk=2).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="cannot be compared"):
        baselines.nearest(queries, np.zeros((0, 2)))


def test_unit_rows_keep_their_precision_and_zeros() -> None:
    rows = unit(np.array([[3.0, 4.0], [0.0, 0.0]], dtype=np.float32))  # type: ignore[arg-type]
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)


def test_clip_scores_are_the_papers() -> None:
    images = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    captions = np.array([[3.0, 4.0], [0.0, -1.0], [1.0, 0.0]])
    scores = clip_score(images, captions)
    np.testing.assert_allclose(scores, [2.5 * 0.6, 0.0, 2.5])
    references = [np.array([[1.0, 0.0], [0.0, 5.0]]), np.array([[0.0, 1.0]]), np.array([[-1.0, 0.0]])]
    # harmonic means of (1.5, 0.8), (0, 0) and (2.5, 0)
    np.testing.assert_allclose(ref_clip_score(scores, captions, references), [2 * 1.5 * 0.8 / 2.3, 0.0, 0.0])


class FakeSpice:
    failure: Exception | None = None

    def compute_score(self, gts: Any, res: Any) -> Any:
        if self.failure:
            raise self.failure
        assert res == {0: ["a dog"], 1: ["it"]}
        assert gts == {0: ["a dog runs", "dogs"], 1: ["a cat"]}
        return 0.25, [{"All": {"f": 0.5}}, {"All": {"f": 0.0}}]


def install(monkeypatch: pytest.MonkeyPatch, spice_class: Any) -> None:
    module = types.ModuleType("pycocoevalcap.spice.spice")
    module.Spice = spice_class  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycocoevalcap", types.ModuleType("pycocoevalcap"))
    monkeypatch.setitem(sys.modules, "pycocoevalcap.spice", types.ModuleType("pycocoevalcap.spice"))
    monkeypatch.setitem(sys.modules, "pycocoevalcap.spice.spice", module)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")


PREDICTED, WANTED = [["a", "dog"], ["it"]], [[["a", "dog", "runs"], ["dogs"]], [["a", "cat"]]]


def test_spice_is_passed_through(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeSpice)
    assert spice(PREDICTED, WANTED).tolist() == [0.5, 0.0]


def test_spice_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline() -> None:
        raise OSError("<urlopen error [Errno -2] Name or service not known>")

    install(monkeypatch, offline)
    with pytest.raises(SpiceUnavailableError, match="downloads Stanford CoreNLP at its first use, and that"):
        spice(PREDICTED, WANTED)
    monkeypatch.setattr(FakeSpice, "failure", subprocess.CalledProcessError(1, ["java"]))
    install(monkeypatch, FakeSpice)
    with pytest.raises(SpiceUnavailableError, match="the SPICE tool failed"):
        spice(PREDICTED, WANTED)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(SpiceUnavailableError, match="needs Java"):
        spice(PREDICTED, WANTED)
    monkeypatch.setitem(sys.modules, "pycocoevalcap.spice.spice", None)
    with pytest.raises(SpiceUnavailableError, match=r"pip install 'raycap\[coco\]'"):
        spice(PREDICTED, WANTED)


def test_a_large_set_is_judged_on_a_part_and_its_own_images_stay_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(baselines, "NUM_IMAGES", 5)
    references = [[f"a dog runs number{i}", f"zebra{i} stands{i}"] for i in range(12)]
    chosen = baselines.constants_left_out(references, seed=0)
    assert len(set(chosen)) == 2  # one for all, and another for the image that it comes from
    assert all(caption not in references[image] for image, caption in enumerate(chosen))
