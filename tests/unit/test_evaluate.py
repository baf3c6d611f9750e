"""What an evaluation reports, without a cluster: intervals, merged settings, resources, files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_family import ENCODER, make_base

from raycap import metrics
from raycap.checkpoint import Manifest
from raycap.config import ConfigError, DataConfig
from raycap.data.resources import Pool
from raycap.decoding import DecodingConfig
from raycap.evaluate import Answer, EvaluateConfig, EvaluateOptions, choose_decoding
from raycap.evaluate.captioning import choose_engines
from raycap.evaluate.report import default_output, describe, intervals, score_answers, write_report

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


def test_scores_are_those_of_the_metrics_and_intervals_hold_them() -> None:
    found = score_answers(ANSWERS, num_samples=200, seed=1)
    assert found["metrics"] == metrics.score(
        [answer.caption for answer in ANSWERS], [answer.references for answer in ANSWERS]
    )
    for name, (low, high) in found["intervals"].items():
        assert low <= found["metrics"][name] <= high
    assert found["intervals"]["cider_d"][0] < found["intervals"]["cider_d"][1]
    assert found == score_answers(ANSWERS, num_samples=200, seed=1)
    assert "intervals" not in score_answers(ANSWERS, num_samples=0, seed=1)


def test_an_interval_is_the_percentile_bootstrap_of_the_mean() -> None:
    """CIDEr-D is a mean over images: its interval equals the plain bootstrap of the images' own scores."""
    prepared = metrics.PreparedReferences([answer.references for answer in ANSWERS])
    statistics = prepared.statistics([answer.caption for answer in ANSWERS])
    random = np.random.default_rng(5)
    means = [statistics.cider_d[random.integers(4, size=4)].mean() for _ in range(100)]
    found = intervals(statistics, num_samples=100, seed=5)["cider_d"]
    assert found == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])))


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

    def output(decoding: DecodingConfig) -> str:
        config = config_for(tmp_path)
        return default_output(folder, describe(config, folder, manifest, data, decoding, device="cpu"))

    one, other = output(DecodingConfig(beams=1)), output(DecodingConfig(beams=2))
    assert one == output(DecodingConfig(beams=1))
    assert one != other
    assert one.startswith(f"{tmp_path}/run/evaluate/val-")


def test_a_report_and_its_captions_are_written(tmp_path: Path) -> None:
    path = write_report(str(tmp_path / "out"), {"metrics": {"cider_d": 0.5}}, ANSWERS)
    assert json.loads(Path(path).read_text()) == {"metrics": {"cider_d": 0.5}, "captions": "captions.jsonl"}
    lines = [json.loads(line) for line in (tmp_path / "out/captions.jsonl").read_text().splitlines()]
    assert [Answer(**line) for line in lines] == ANSWERS
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["captions.jsonl", "report.json"]
