"""What a command sets before Ray starts."""

import os
import subprocess
import sys
from typing import Any

import pytest

from raycap.data import (
    driver_environment,
    environment_defaults,
    forwarded_environment,
    start_ray,
    usable_cores,
)


def test_a_local_cluster_asks_for_no_token() -> None:
    """With Ray's own default a token appears in the home folder and later clusters refuse their clients."""
    assert environment_defaults(cores=2, remote=False) == {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_DATA_PARQUET_FOOTER_NUM_ACTORS": "1",
    }
    assert "RAY_DATA_PARQUET_FOOTER_NUM_ACTORS" not in environment_defaults(cores=64, remote=False)


def test_a_clusters_own_settings_are_left_alone() -> None:
    assert environment_defaults(cores=2, remote=True) == {"RAY_USAGE_STATS_ENABLED": "0"}


def test_the_users_settings_reach_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cluster only training's workers got them: encoders looked for models, and plugins, without."""
    for name, value in {"RAYCAP_PLUGINS": "mine", "HF_HOME": "/hub", "OTHER": "x"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", "/plugins")
    forwarded = forwarded_environment()
    assert {
        "RAYCAP_PLUGINS": "mine",
        "HF_HOME": "/hub",
        "PYTHONPATH": "/plugins",
    }.items() <= forwarded.items()
    assert "OTHER" not in forwarded
    assert driver_environment() == {"runtime_env": {"env_vars": forwarded}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")  # a second one lost the job's working directory
    assert driver_environment() == {}
    monkeypatch.delenv("RAYCAP_PLUGINS")
    assert "PYTHONPATH" not in forwarded_environment()


def test_a_cluster_is_told_the_users_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setenv("HF_HOME", "/hub")
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda **options: given.update(options))
    start_ray()
    assert given["runtime_env"]["env_vars"]["HF_HOME"] == "/hub"


def test_cores_within_affinity() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


def test_importing_does_not_import_ray() -> None:
    code = "import raycap.data, raycap.data.prepare, sys; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
