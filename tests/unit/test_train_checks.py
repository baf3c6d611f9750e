"""What stops a run before it starts, in one sentence each."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_meteor import install_meteor
from pydantic import ValidationError
from toy_family import make_base

from raycap.config import ConfigError
from raycap.metrics.measure import load_meteor
from raycap.train import TrainConfig, launch
from raycap.train.checks import (
    backend,
    check,
    check_resources,
    check_strategy,
    device_on,
    with_absolute_paths,
)
from raycap.train.tracking import check_tracking


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    return {
        "data": {"path": str(tmp_path / "data")},
        "encoder": {"name": "owner/encoder"},
        "featurize": {"output": str(tmp_path / "features")},
        "model": make_base(tmp_path / "base").model_dump(),
        "train": {"run": str(tmp_path / "run")},
    }


def configure(document: dict[str, Any], **train: object) -> TrainConfig:
    return TrainConfig.model_validate({**document, "train": {**document["train"], **train}})


def test_too_many_workers_for_the_cluster(document: dict[str, Any]) -> None:
    config = configure(document, num_workers=3, cpus_per_worker=2, device="cpu")
    check_resources(config, cluster={"CPU": 6.0})
    with pytest.raises(ConfigError, match="need 6 CPUs and the cluster has 4; take fewer of either"):
        check_resources(config, cluster={"CPU": 4.0})
    config = configure(document, num_workers=4, gpus_per_worker=0.5, device="cuda")
    check_resources(config, cluster={"CPU": 8.0, "GPU": 2.0})
    with pytest.raises(ConfigError, match="need 2 GPUs and the cluster has 1; take fewer workers"):
        check_resources(config, cluster={"CPU": 8.0, "GPU": 1.0})
    with pytest.raises(ConfigError, match="several workers cannot share it"):
        check_resources(configure(document, num_workers=2, device="mps"), cluster={"CPU": 8.0})


def test_streaming_needs_cpus_beside_the_workers(
    document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers that hold every CPU leave none to make features with, and nothing would ever move."""
    monkeypatch.setattr(
        "raycap.train.checks.required_resources",
        lambda options, cache: {"CPU": 2.0, "GPU": 0.0} if cache == "none" else {},
    )
    config = configure(document, num_workers=2, cache="none", device="cpu")
    check_resources(config, cluster={"CPU": 4.0})
    with pytest.raises(
        ConfigError, match=r"workers take 2 of 3 CPUs and train.cache=none needs 2 beside them"
    ):
        check_resources(config, cluster={"CPU": 3.0})
    check_resources(configure(document, num_workers=2, device="cpu"), cluster={"CPU": 2.0})


def test_streaming_needs_gpus_beside_the_workers(
    document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one GPU the worker held it all, the encoder waited for it, and the run hung: only CPUs were checked."""
    cluster = {"CPU": 8.0, "GPU": 1.0}
    monkeypatch.setattr("raycap.data.resources.cluster_resources", lambda: cluster)
    with pytest.raises(
        ConfigError,
        match=r"workers take 1 of 1 GPUs and train.cache=none needs 1 beside them .*"
        r"featurize\.gpus_per_encoder and train\.gpus_per_worker",
    ):
        check_resources(configure(document, cache="none", device="cuda"), cluster=cluster)
    check_resources(configure(document, device="cuda"), cluster=cluster)
    check_resources(configure(document, cache="none", device="cpu"), cluster=cluster)
    document["featurize"]["gpus_per_encoder"] = 0.5
    check_resources(configure(document, cache="none", device="cuda", gpus_per_worker=0.5), cluster=cluster)


def test_device_follows_the_cluster(document: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycap.train.checks.choose_device", lambda requested: "cpu")
    assert device_on(configure(document, num_workers=2), cluster={"CPU": 8.0, "GPU": 2.0}) == "cuda"
    assert device_on(configure(document, num_workers=2), cluster={"CPU": 8.0, "GPU": 1.0}) == "cpu"
    assert device_on(configure(document, device="cpu"), cluster={"GPU": 9.0}) == "cpu"
    monkeypatch.setattr("raycap.train.checks.choose_device", lambda requested: "mps")
    assert device_on(configure(document), cluster={"CPU": 8.0}) == "mps"
    assert device_on(configure(document, num_workers=2), cluster={"CPU": 8.0}) == "cpu"
    assert backend(configure(document), device="cuda") == "nccl"
    assert backend(configure(document, gpus_per_worker=0.5), device="cuda") == "gloo"


def test_missing_data_names_the_command(document: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="run `raycap prepare` first"):
        check(configure(document), run=document["train"]["run"])


def test_unknown_metric_names_the_known_ones(document: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/manifest.json").write_text('{"fingerprint": "f", "counts": {"train": 1}}')
    with pytest.raises(ConfigError, match=r"unknown train.metric 'cider'; known: bleu_1, .*cider_d"):
        check(configure(document, metric="cider"), run=document["train"]["run"])


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        ("spice", "train.choose=spice needs spice, which validation does not measure; it measures bleu_1, "),
        ("meteor-centred", "train.choose=meteor-centred needs METEOR: "),
    ],
)
def test_a_strategy_that_validation_cannot_serve(
    choose: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_meteor(monkeypatch, available=False)
    load_meteor.cache_clear()
    with pytest.raises(ConfigError, match=message):
        check_strategy(choose)
    load_meteor.cache_clear()
    check_strategy("weighted:cider_d=1,val_loss=0.1")


def test_a_wrong_strategy_is_refused_with_the_settings(document: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="unknown strategy 'cider'; known: "):
        configure(document, choose="cider")
    assert configure(document, choose="pareto").train.strategy == "pareto"
    assert configure(document, metric="bleu_4").train.strategy == "bleu_4"


def test_a_used_run_folder_names_resume(document: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.jsonl").touch()
    with pytest.raises(
        ConfigError, match=r"is not empty: continue that run with `raycap train --resume .*run`"
    ):
        launch.train(configure(document))


def test_resume_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no run at .*: config.yaml is not there"):
        launch.resume(str(tmp_path))


def test_tracking_without_key_or_disk(
    document: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    online = TrainConfig.model_validate({**document, "tracking": {"wandb": "online"}}).tracking
    with pytest.raises(ConfigError, match="needs a key: set WANDB_API_KEY"):
        check_tracking(online, run=str(tmp_path))
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password 0123456789\n")
    check_tracking(online, run=str(tmp_path))
    (tmp_path / "netrc").write_text("nonsense here")
    with pytest.raises(
        ConfigError, match=r"netrc cannot be read for W&B's key .*; mend it, or set WANDB_API_KEY"
    ):
        check_tracking(online, run=str(tmp_path))
    offline = TrainConfig.model_validate({**document, "tracking": {"wandb": "offline"}}).tracking
    with pytest.raises(ConfigError, match="is on no disk; use online or off"):
        check_tracking(offline, run="s3://bucket/run?region=eu-west-1")
    board = TrainConfig.model_validate({**document, "tracking": {"tensorboard": True}}).tracking
    check_tracking(board, run=str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"tracking.tensorboard writes into the run folder, .*; leave it out"
    ):
        check_tracking(board, run="s3://bucket/run?region=eu-west-1")


def test_off_without_quotes_is_off(document: dict[str, Any]) -> None:
    """YAML reads a bare `off` as false, and `wandb: off` was refused."""
    tracking = yaml.safe_load("wandb: off")
    assert TrainConfig.model_validate({**document, "tracking": tracking}).tracking.wandb == "off"


def test_local_folders_become_absolute_and_hub_names_stay(
    document: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    document["data"]["path"] = "data"
    document["model"]["language_model"] = "base"
    config = with_absolute_paths(configure(document), run=str(tmp_path / "run"))
    assert config.data.path == str(tmp_path / "data")
    assert config.model.model_dump()["language_model"] == str(tmp_path / "base")
    assert config.encoder.name == "owner/encoder"
