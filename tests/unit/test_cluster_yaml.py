"""cluster.yaml against Ray's own schema and its own checks."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_ray_accepts_it(cluster: dict[str, Any]) -> None:
    jsonschema.validate(cluster, SCHEMA)
    validate_config(prepare_config(copy.deepcopy(cluster)))


def test_the_schema_check_can_fail(cluster: dict[str, Any]) -> None:
    cluster["avaliable_node_types"] = {}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(cluster, SCHEMA)


def test_gpu_workers_are_spot_and_come_from_zero(cluster: dict[str, Any]) -> None:
    worker = cluster["available_node_types"]["gpu_worker"]
    assert worker["min_workers"] == 0
    assert worker["max_workers"] >= 1
    assert worker["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"


def test_the_lines_to_uncomment_are_valid() -> None:
    """Workers had no instance profile and so did not reach S3; what the comments offer must fit as it stands."""
    text = (ROOT / "cluster.yaml").read_text()
    for line in ("ImageId: ami-", "IamInstanceProfile: {"):
        assert f"      # {line}" in text
        text = text.replace(f"# {line}", line)
    cluster = yaml.safe_load(text)
    worker = cluster["available_node_types"]["gpu_worker"]["node_config"]
    assert worker["IamInstanceProfile"] == {"Name": "ray-autoscaler-v1"}
    assert worker["ImageId"].startswith("ami-")
    validate_config(prepare_config(cluster))


def test_it_holds_no_secret() -> None:
    text = (ROOT / "cluster.yaml").read_text().lower()
    assert not any(word in text for word in ("secret", "akia", "password", "ssh_private_key", "token:"))


def test_the_checkout_it_sends_is_the_one_it_installs(cluster: dict[str, Any]) -> None:
    (remote,) = cluster["file_mounts"]
    assert any(f"pip install -q ~/{Path(remote).name}" in line for line in cluster["setup_commands"])
