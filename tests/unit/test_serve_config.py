"""serve_config.yaml: every key is one that Serve or raycap knows (Serve itself takes typos in silence)."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from raycap.commands.serve import default_config
from raycap.serve.config import ServeConfig

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "serve_config.yaml").read_text())


def test_serve_accepts_the_file(document: dict[str, Any]) -> None:
    from ray.serve.schema import ServeDeploySchema

    parsed = ServeDeploySchema.model_validate(document)
    assert [application.import_path for application in parsed.applications] == ["raycap.serve:build_app"]


def test_every_key_is_known(document: dict[str, Any]) -> None:
    from ray.serve.config import AutoscalingConfig
    from ray.serve.schema import (
        DeploymentSchema,
        HTTPOptionsSchema,
        LoggingConfig,
        RayActorOptionsSchema,
        ServeApplicationSchema,
        ServeDeploySchema,
    )

    def check(given: dict[str, Any], schema: Any) -> None:
        assert set(given) <= set(schema.model_fields), set(given) - set(schema.model_fields)

    check(document, ServeDeploySchema)
    check(document["http_options"], HTTPOptionsSchema)
    check(document["logging_config"], LoggingConfig)
    for application in document["applications"]:
        check(application, ServeApplicationSchema)
        for deployment in application["deployments"]:
            check(deployment, DeploymentSchema)
            check(deployment.get("autoscaling_config", {}), AutoscalingConfig)
            check(deployment.get("ray_actor_options", {}), RayActorOptionsSchema)


def test_the_file_fits_the_code(document: dict[str, Any]) -> None:
    from raycap.serve.captioning.replica import captioner_deployment
    from raycap.serve.http.ingress import Ingress

    (application,) = document["applications"]
    args = ServeConfig.model_validate(application["args"])
    deployments = {deployment["name"]: deployment for deployment in application["deployments"]}
    assert set(deployments) == {captioner_deployment(max_loaded_models=1).name, Ingress.name}
    captioner, ingress = deployments["Captioner"], deployments["Ingress"]
    assert captioner["max_ongoing_requests"] >= args.max_batch_size
    assert (
        ingress["max_ongoing_requests"] > captioner["max_ongoing_requests"] + captioner["max_queued_requests"]
    )
    assert document["http_options"]["request_timeout_s"] > args.timeout_s
    for deployment in (captioner, ingress):  # what was accepted is answered before a replica goes
        assert deployment["graceful_shutdown_timeout_s"] > args.timeout_s
        assert deployment["max_surge_percent"] == 100


def test_quickstarts_run_is_the_default_and_the_environment_comes_first(
    document: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAYCAP_CHECKPOINT", raising=False)
    args = ServeConfig.model_validate(document["applications"][0]["args"])
    assert args.resolved_checkpoint() == str(tmp_path / "quickstart/run")
    monkeypatch.setenv("RAYCAP_CHECKPOINT", "/runs/mine")
    assert args.resolved_checkpoint() == "/runs/mine"


def test_a_typo_in_args_is_refused() -> None:
    with pytest.raises(ValidationError, match="max_batchsize"):
        ServeConfig.model_validate({"max_batchsize": 4})


def test_serve_sees_the_builders_annotation() -> None:
    """With postponed annotations Serve passes a raw dict and nothing is validated."""
    from raycap.serve import build_app

    assert build_app.__annotations__["args"] is ServeConfig


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"models": {"default": "runs/x"}}, "is the name of `checkpoint`"),
        ({"models": {"a/b": "runs/x"}}, "models.a/b"),
        ({"models": {"": "runs/x"}}, "models"),
        ({"model_name": "../x"}, "model_name"),
    ],
)
def test_names_that_no_request_could_ask_for_are_refused(args: dict[str, Any], message: str) -> None:
    """A model named as the default one took its place without a word."""
    with pytest.raises(ValidationError, match=message):
        ServeConfig.model_validate(args)


def test_what_would_fail_later_fails_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from small_run import make_run

    from raycap.checkpoint import CheckpointError
    from raycap.config import ConfigError
    from raycap.serve import build_app

    run = make_run(tmp_path)
    monkeypatch.delenv("RAYCAP_API_KEYS", raising=False)
    with pytest.raises(ConfigError, match="require_keys is set and RAYCAP_API_KEYS has no key"):
        build_app(ServeConfig(checkpoint=str(run), require_keys=True))
    with pytest.raises(ConfigError, match="fetch_hosts: "):
        build_app(ServeConfig(checkpoint=str(run), fetch_hosts=["http://"]))
    with pytest.raises(CheckpointError, match="Set `checkpoint`"):
        build_app(ServeConfig(checkpoint=str(run / "config.yaml")))
    (weights,) = run.rglob("model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-7] + b"damaged")
    with pytest.raises(CheckpointError, match="has changed since it was written"):
        build_app(ServeConfig(checkpoint=str(run), models={"further": str(run)}))


def test_raycap_serve_needs_no_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`raycap serve --checkpoint RUN`, which a sweep and a model card print, failed outside the repository."""
    monkeypatch.chdir(tmp_path)
    assert Path(default_config()).read_text() == (ROOT / "serve_config.yaml").read_text()
    (tmp_path / "serve_config.yaml").touch()
    assert default_config() == "serve_config.yaml"
