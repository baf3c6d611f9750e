"""Fixtures for tests on a cluster."""

from pathlib import Path

import pytest


@pytest.fixture
def tiny_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The family of tests/tiny_family.py, as a user would add it: by name, found on the workers' path."""
    monkeypatch.setenv("RAYCAP_PLUGINS", "tiny_family")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[1]))
