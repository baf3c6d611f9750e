"""What a command sets before Ray starts."""

import os
import subprocess
import sys

from raycap.data import environment_defaults, usable_cores


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


def test_cores_within_affinity() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


def test_importing_does_not_import_ray() -> None:
    code = "import raycap.data, raycap.data.prepare, sys; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
