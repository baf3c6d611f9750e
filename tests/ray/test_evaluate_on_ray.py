"""Evaluation over a cluster: the engine's own captions, the metrics of raycap.metrics, a report to reproduce it."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from fakes import make_clip
from prepared import make_picture, write_prepared
from small_run import make_run

from raycap import checkpoint, metrics
from raycap.checkpoint import CheckpointError
from raycap.config import ConfigError, DataConfig
from raycap.data.featurize import FeaturizeConfig, FeaturizeOptions, featurize
from raycap.data.splits import read_references
from raycap.decoding import DecodingConfig
from raycap.engine import CaptionEngine
from raycap.evaluate import EvaluateConfig, EvaluateOptions, evaluate
from raycap.evaluate.captioning import clip_scores
from raycap.vision import EncoderConfig, VisionEncoder, decode_image
from raycap.vision.clip import Clip

pytestmark = pytest.mark.ray
NUM_VAL, LIMIT = 12, 11


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    make_run(folder)
    write_prepared(folder / "data", val=NUM_VAL)
    return folder


def config_for(folder: Path, **options: object) -> EvaluateConfig:
    return EvaluateConfig(
        checkpoint=str(folder / "run"),
        data=DataConfig(path=str(folder / "data"), limit=LIMIT),
        decoding=DecodingConfig(max_tokens=6),
        evaluate=EvaluateOptions.model_validate({"batch_size": 2, "bootstrap": 50, **options}),
    )


def test_a_report_says_what_the_engine_says(
    ray_session: None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two engines and ragged batches give the captions that one engine gives image by image."""
    path = Path(evaluate(config_for(folder, num_engines=2, cpus_per_engine=1)))
    report = json.loads(path.read_text())
    lines = [json.loads(line) for line in path.with_name("captions.jsonl").read_text().splitlines()]

    engine = CaptionEngine.load(str(folder / "run"), device="cpu")
    expected = [engine.caption(make_picture(index), max_tokens=6) for index in range(LIMIT)]
    assert [line["image_id"] for line in lines] == [f"val-{index:03}" for index in range(LIMIT)]
    assert [line["caption"] for line in lines] == [caption.text for caption in expected]
    assert [line["score"] for line in lines] == pytest.approx([c.score for c in expected], abs=1e-4)
    assert len({line["caption"] for line in lines}) > 1

    predictions, references = [line["caption"] for line in lines], [line["references"] for line in lines]
    scores = metrics.score(predictions, references)
    assert {name: report["metrics"][name] for name in scores} == scores
    assert set(report["intervals"]) == set(report["metrics"])
    assert all(low <= report["metrics"][name] <= high for name, (low, high) in report["intervals"].items())

    assert report["num_images"] == LIMIT
    step = str(folder / "run/checkpoints/step-00000007")
    assert (report["checkpoint"]["path"], report["checkpoint"]["digest"]) == (
        step,
        checkpoint.verify(step).digest,
    )
    assert report["data"] == {
        "path": str(folder / "data"),
        "fingerprint": str(folder / "data"),
        "limit": LIMIT,
    }
    assert report["decoding"] == engine.decoding(max_tokens=6).model_dump()  # the rest is the checkpoint's
    assert report["device"] in {"cpu", "cuda", "mps"}
    assert path.parent.parent == folder / "run/evaluate"
    assert path.parent.name.startswith("val-")

    # its encoder is an image tower alone, and nothing was trained or featurized here
    assert "is a model of type 'clip_vision_model'" in report["omitted"]["clip_score"]
    assert "there are no features of training photos" in report["omitted"]["nearest"]
    assert set(report["baselines"]) == {"constant"}

    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"{report['metrics']['cider_d']:.4f}" in shown.err


def test_a_whole_clip_and_kept_features_stand_beside_the_captions(ray_session: None, tmp_path: Path) -> None:
    """CLIPScores are the paper's on the same pixels; each photo's nearest training photo is found by features."""
    run = make_run(tmp_path, encoder=make_clip(tmp_path / "encoder"))
    data = DataConfig(path=str(write_prepared(tmp_path / "data", train=9, val=5)))
    config = EvaluateConfig(
        checkpoint=str(run),
        data=data,
        evaluate=EvaluateOptions(
            batch_size=2, bootstrap=20, cpus_per_engine=1, scoring_tasks=2, meteor="off"
        ),
    )
    options = FeaturizeOptions(output=str(tmp_path / "features"), device="cpu")
    encoder = EncoderConfig(name=str(tmp_path / "encoder"))
    featurize(FeaturizeConfig(data=data, encoder=encoder, featurize=options))
    document = {"data": data.model_dump(), "featurize": options.model_dump()}
    (run / "config.yaml").write_text(yaml.safe_dump(document))
    path = Path(evaluate(config))
    report = json.loads(path.read_text())
    lines = [json.loads(line) for line in path.with_name("captions.jsonl").read_text().splitlines()]

    vision = VisionEncoder(encoder, device="cpu")
    clip = Clip.load(encoder, device="cpu")
    pixels = [vision.preprocess(decode_image(make_picture(index))) for index in range(14)]
    expected = [
        clip_scores(clip, pixels[9 + index][None], [line["caption"]], [line["references"]])
        for index, line in enumerate(lines)
    ]
    for name in ("clip_score", "ref_clip_score"):
        mean = np.mean([scores[name][0] for scores in expected])
        assert report["metrics"][name] == pytest.approx(mean, abs=1e-4)
        assert report["metric_versions"][name].endswith("CLIPScore (Hessel et al. 2021, w = 2.5)")
    assert "clip_score" not in report["omitted"]

    means = vision.encode(np.stack(pixels)).float().mean(dim=1)
    means = means / means.norm(dim=1, keepdim=True)
    captions = read_references(data.path, "train")
    first = [reference.captions[0] for reference in captions.values()]
    chosen = [first[index] for index in (means[9:] @ means[:9].T).argmax(dim=1).tolist()]
    references = [line["references"] for line in lines]
    assert report["baselines"]["nearest"]["metrics"] == metrics.score(chosen, references)
    assert report["diversity"]["unseen"] == 1.0
    assert report["baselines"]["constant"]["rule"].startswith("of 27 training captions")


@pytest.mark.parametrize("split", ["test", "train", "nowhere"])
def test_a_split_without_images_is_refused(ray_session: None, folder: Path, split: str) -> None:
    with pytest.raises(ConfigError, match=f"no images of split '{split}' .* splits with images: val"):
        evaluate(config_for(folder, split=split))


def test_a_damaged_checkpoint_is_refused(ray_session: None, folder: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    weights = run / "checkpoints/step-00000007/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    config = EvaluateConfig(checkpoint=str(run), data=DataConfig(path=str(folder / "data")))
    with pytest.raises(CheckpointError, match=r"damaged checkpoint: .*model\.safetensors has changed"):
        evaluate(config)
