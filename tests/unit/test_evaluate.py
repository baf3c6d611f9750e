"""What an evaluation reports, without a cluster: intervals, merged settings, resources, files."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_meteor import install_meteor
from prepared import write_prepared
from toy_family import ENCODER, make_base

from raycap import metrics
from raycap.checkpoint import Manifest
from raycap.config import ConfigError, DataConfig
from raycap.data.featurize import FeaturizeOptions
from raycap.data.resources import Pool
from raycap.decoding import DecodingConfig
from raycap.evaluate import (
    Answer,
    EvaluateConfig,
    EvaluateOptions,
    Plan,
    choose_decoding,
    plan,
    score_answers,
)
from raycap.evaluate.captioning import Said, choose_engines
from raycap.evaluate.report import default_output, describe, write_report
from raycap.evaluate.training import TrainingSet, find_training, training_captions
from raycap.evaluate.workers import choose_parts
from raycap.metrics.measure import load_meteor

ANSWERS = [
    Answer("a", "a red dog runs", -0.5, ["A red dog runs.", "The dog is running."]),
    Answer("b", "a man", -0.7, ["Two people sit.", "A man and a woman sit."]),
    Answer("c", "a blue bike is here", -0.2, ["A bike.", "A blue bike leans on a wall."]),
    Answer("d", "a tree", -0.9, ["A house stands on a hill.", "A small house."]),
]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    config = make_base(tmp_path_factory.mktemp("base"))
    return Manifest(
        family="toy",
        model=config.model_dump(),
        encoder=ENCODER,
        decoding=DecodingConfig(beams=4, max_tokens=9),
        metrics={},
        step=1,
        epoch=0,
        base=[],
        versions={},
        commit="",
        created="",
        files={},
        digest="0123456789abcdef",
    )


def config_for(tmp_path: Path, **options: Any) -> EvaluateConfig:
    return EvaluateConfig(
        checkpoint="run",
        data=DataConfig(path=str(tmp_path)),
        evaluate=EvaluateOptions.model_validate(options),
    )


SAID = [Said(answer.caption, answer.score) for answer in ANSWERS]


@pytest.fixture(autouse=True)
def no_meteor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    install_meteor(monkeypatch, available=False)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0})
    yield
    load_meteor.cache_clear()


def test_scores_are_those_of_the_metrics_and_intervals_hold_them() -> None:
    options = EvaluateOptions(bootstrap=200, seed=1)
    found = score_answers(ANSWERS, SAID, options, Plan(omitted={"clip_score": "no text tower"}))
    assert found["metrics"] == metrics.score(
        [answer.caption for answer in ANSWERS], [answer.references for answer in ANSWERS]
    )
    for name, (low, high) in found["intervals"].items():
        assert low <= found["metrics"][name] <= high
    assert found["intervals"]["cider_d"][0] < found["intervals"]["cider_d"][1]
    assert found == score_answers(ANSWERS, SAID, options, Plan(omitted={"clip_score": "no text tower"}))
    assert found["omitted"] == {"meteor": "the word lists are not here", "clip_score": "no text tower"}
    assert found["num_images"] == 4
    assert found["document_frequency"]["num_images"] == 4
    plain = score_answers(ANSWERS, SAID, EvaluateOptions(bootstrap=0, baselines=False), Plan())
    assert not {"intervals", "baselines"} & set(plain)


def test_what_the_engines_measured_is_a_metric_like_the_others() -> None:
    said = [replace(one, clip_score=0.1 * place, ref_clip_score=0.5) for place, one in enumerate(SAID)]
    found = score_answers(ANSWERS, said, EvaluateOptions(bootstrap=50), Plan())
    assert found["metrics"]["clip_score"] == pytest.approx(0.15)
    assert found["metrics"]["ref_clip_score"] == 0.5
    assert found["intervals"]["ref_clip_score"] == (0.5, 0.5)
    assert found["metric_versions"]["clip_score"] == "CLIPScore (Hessel et al. 2021, w = 2.5)"


def test_training_captions_stand_beside_the_score() -> None:
    training = [["a red dog runs", "it is here"], ["A man!", "two men"]]
    found = score_answers(ANSWERS, SAID, EvaluateOptions(bootstrap=0), Plan(training=training))
    assert found["diversity"]["unseen"] == 0.5
    constant = found["baselines"]["constant"]
    assert constant["caption"] in {text for image in training for text in image}
    assert set(found["baselines"]) == {"constant"}


def test_the_nearest_photos_caption_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    said = [replace(one, mean=[float(place), 1.0]) for place, one in enumerate(SAID)]
    seen: list[Any] = []
    captions = ["A red dog runs.", "a man", "a bike", "a house"]
    monkeypatch.setattr(
        "raycap.evaluate.nearest_captions", lambda config, queries: seen.append(queries) or captions
    )
    features: Any = object()
    found = score_answers(ANSWERS, said, EvaluateOptions(bootstrap=0), Plan(features=features))
    assert seen[0].tolist() == [[0, 1], [1, 1], [2, 1], [3, 1]]
    expected = metrics.score(captions, [answer.references for answer in ANSWERS])
    assert found["baselines"]["nearest"]["metrics"] == expected


def test_a_large_split_is_scored_by_as_many_workers_as_help(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_parts(0, num_images=19_999) == 1
    assert choose_parts(0, num_images=20_000) == 4
    assert choose_parts(3, num_images=50) == 3
    assert choose_parts(8, num_images=5) == 5
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 64.0})
    assert choose_parts(0, num_images=20_000) == 4  # at least 5,000 images each


def test_training_lies_where_the_run_says(tmp_path: Path) -> None:
    here = DataConfig(path="evaluated", limit=3)
    folder = f"{tmp_path}/run/checkpoints/step-00000001"
    assert find_training(folder, here) == TrainingSet(here, FeaturizeOptions())
    data = write_prepared(tmp_path / "rows", train=4, val=2)
    (tmp_path / "run").mkdir()
    config = {"data": {"path": str(data), "limit": 2}, "featurize": {"output": "F"}, "train": {}}
    (tmp_path / "run/config.yaml").write_text(yaml.safe_dump(config))
    found = find_training(folder, here)
    assert found == TrainingSet(DataConfig(path=str(data), limit=2), FeaturizeOptions(output="F"))
    assert len(training_captions(found)) == 2
    (data / "manifest.json").unlink()
    assert find_training(folder, here).data == here


def test_only_given_settings_replace_the_checkpoints(manifest: Manifest) -> None:
    chosen = choose_decoding(manifest, DecodingConfig(beams=5, n=3))
    assert (chosen.beams, chosen.max_tokens, chosen.n) == (5, 9, 1)
    assert choose_decoding(manifest, DecodingConfig()) == manifest.decoding


def test_settings_that_contradict_the_checkpoints_are_one_sentence(manifest: Manifest) -> None:
    with pytest.raises(ConfigError, match="min_tokens"):
        choose_decoding(manifest, DecodingConfig(min_tokens=12))


@pytest.mark.parametrize(
    ("cluster", "options", "expected"),
    [
        ({"CPU": 4.0}, {"device": "cpu", "cpus_per_engine": 3}, Pool("cpu", 1, 0.0, 3)),
        ({"CPU": 8.0, "GPU": 2.0}, {"gpus_per_engine": 0.5}, Pool("cuda", 1, 0.5, 1)),
        (
            {"CPU": 8.0, "GPU": 2.0},
            {"device": "cpu", "cpus_per_engine": 2, "num_engines": 3},
            Pool("cpu", 3, 0.0, 2),
        ),
    ],
)
def test_engines_take_what_the_cluster_has(
    monkeypatch: pytest.MonkeyPatch, cluster: dict[str, float], options: dict[str, Any], expected: Pool
) -> None:
    monkeypatch.setattr("raycap.data.resources.cluster_resources", lambda: cluster)
    assert choose_engines(EvaluateOptions.model_validate(options)) == expected


def test_engines_that_leave_no_cpu_to_decode_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycap.data.resources.cluster_resources", lambda: {"CPU": 4.0})
    with pytest.raises(ConfigError, match="2 engines of 2 CPUs leave none of the cluster's 4"):
        choose_engines(EvaluateOptions(device="cpu", num_engines=2, cpus_per_engine=2))


def test_each_way_to_evaluate_has_its_own_folder(manifest: Manifest, tmp_path: Path) -> None:
    from raycap.data.manifest import DataManifest

    data = DataManifest(raycap="", source={}, fingerprint="f", counts={"val": 4}, captions={"val": 8})
    folder = f"{tmp_path}/run/checkpoints/step-00000001"

    def output(decoding: DecodingConfig, **options: Any) -> str:
        config = config_for(tmp_path, **options)
        return default_output(folder, describe(config, folder, manifest, data, decoding, device="cpu"))

    one, other = output(DecodingConfig(beams=1)), output(DecodingConfig(beams=2))
    assert one == output(DecodingConfig(beams=1))
    assert one != other
    assert one.startswith(f"{tmp_path}/run/evaluate/val-")
    assert one != output(DecodingConfig(beams=1), document_frequency="f.json")
    assert one == output(DecodingConfig(beams=1), spice=True)  # what is added changes no figure


def test_a_report_and_its_captions_are_written(tmp_path: Path) -> None:
    path = write_report(str(tmp_path / "out"), {"metrics": {"cider_d": 0.5}}, ANSWERS)
    assert json.loads(Path(path).read_text()) == {"metrics": {"cider_d": 0.5}, "captions": "captions.jsonl"}
    lines = [json.loads(line) for line in (tmp_path / "out/captions.jsonl").read_text().splitlines()]
    assert [Answer(**line) for line in lines] == ANSWERS
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["captions.jsonl", "report.json"]


def test_what_cannot_stand_beside_the_captions_is_said_before_captioning(
    manifest: Manifest, tmp_path: Path
) -> None:
    """A missing file of document frequencies was noticed after an hour of captioning."""
    data = write_prepared(tmp_path / "rows", train=4, val=2)
    found = plan(config_for(data), f"{tmp_path}/run/checkpoints/step-1", manifest)
    assert len(found.training) == 4
    assert (found.features, found.frequency) == (None, None)
    assert set(found.omitted) == {"clip_score", "nearest"}
    assert "there are no features of training photos" in found.omitted["nearest"]
    assert plan(config_for(data, clip_score=False, baselines=False), "run", manifest).omitted == {}
    train = plan(config_for(data, split="train"), "run", manifest)
    assert train.omitted["nearest"] == "the evaluated photos are the training photos"
    with pytest.raises(ValueError, match=r"no such file: f\.json"):
        plan(config_for(data, document_frequency="f.json"), "run", manifest)
    with pytest.raises(ValueError, match="the word lists are not here"):
        plan(config_for(data, meteor="python"), "run", manifest)
