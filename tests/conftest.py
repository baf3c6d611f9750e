"""Fixtures for all tests: a small Ray cluster, tiny models, and the real data beside the project."""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

# As with the virtual environment activated: a submitted job's `python` is the one that runs the tests.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.3")
os.environ.setdefault("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", "1")
os.environ.setdefault("RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S", "1")
os.environ.setdefault("RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S", "1")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

import pytest
from ports import free_port

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def ray_session() -> Iterator[str]:
    """A local cluster with the dashboard on (Tune and the Jobs API need it); gives the dashboard's address."""
    import ray

    port = free_port()
    with tempfile.TemporaryDirectory(prefix="rc", dir="/tmp", ignore_cleanup_errors=True) as folder:
        ray.init(
            address="local",
            num_cpus=4,
            object_store_memory=400_000_000,
            _temp_dir=folder,
            include_dashboard=True,
            dashboard_port=port,
            log_to_driver=False,
        )
        yield f"http://127.0.0.1:{port}"
        ray.shutdown()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real photos and models; the test skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"real data not found at {SHARED.name}/ beside the project")
    return SHARED


@pytest.fixture(scope="session")
def tiny_language_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a two-layer GPT-2 of random weights, with its tokenizer."""
    from fakes import make_language_model

    return str(make_language_model(tmp_path_factory.mktemp("language_model")))


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a two-layer CLIP vision tower of random weights: 17 patches of 24."""
    from fakes import make_encoder

    return str(make_encoder(tmp_path_factory.mktemp("encoder")))


@pytest.fixture
def tiny_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The family of tests/tiny_family.py, as a user would add it: by name, found on the workers' path."""
    monkeypatch.setenv("RAYCAP_PLUGINS", "tiny_family")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny products gain nothing from more, and wait for each other on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
