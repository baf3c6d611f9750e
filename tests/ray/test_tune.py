"""A sweep of tiny trials: ended early, failing, killed and continued, all on one feature cache."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from prepared import tiny_run
from test_train_faults import batches_by_process, wait_for_end

from raycap import checkpoint
from raycap.tune import resume
from raycap.tune.record import read_trials

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_session", "tiny_plugin")]

DRIVER = """
import sys, yaml
import ray
ray.init(address=sys.argv[1], log_to_driver=False)
from raycap.tune import SweepConfig, tune
tune(SweepConfig.model_validate(yaml.safe_load(open(sys.argv[2]))))
"""


@pytest.fixture
def document(tmp_path: Path, tiny_encoder: str) -> dict[str, Any]:
    """A sweep of tests/tiny_family.py: the preset's own trial fails, the last one learns nothing."""
    settings = tiny_run(tmp_path, tiny_encoder, train=12, val=4, num_workers=1, num_samples=2, batch_size=4)
    settings["model"] |= {"seconds": 0.4, "infinite_at": 1}
    settings["train"] |= {"choose": "val_loss", "metric": "cider_d", "max_failures": 0}
    space = {"optim.lr": "grid 1e-2 1e-1 1e-9", "model.infinite_at": [0], "encoder.layer": [-2]}
    sweep = {"run": str(tmp_path / "sweep"), "space": space, "algorithm": "grid", "max_concurrent": 1}
    return {**settings, "tune": {**sweep, "reduction": 2}}


def test_a_killed_sweep_goes_on_and_ranks_its_trials(
    document: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Trials that were over are not run again, the one in progress goes on from its checkpoint, and the rest is run.

    One trial fails and one that is behind ends early, and neither ends the sweep. Two encoder layers make two feature
    folders, before any trial, and after the kill none.
    """
    import ray

    (tmp_path / "config.yaml").write_text(yaml.safe_dump(document))
    sweep = tmp_path / "sweep"
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", DRIVER, address, str(tmp_path / "config.yaml")]
    with subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}) as driver:
        wait_for_epoch(sweep, driver, trial=3, epoch=1)
        driver.send_signal(signal.SIGKILL)
    before = read_trials(str(sweep))
    assert [record.state for record in before.values()] == ["failed", "finished", "begun"]
    wait_for_end(set(batches_by_process(tmp_path / "log")))
    second_run = (sweep / "trials/0002/metrics.jsonl").read_bytes()
    capfd.readouterr()

    assert resume(str(sweep)) == str(sweep)
    assert "Configuration for experiment" not in capfd.readouterr().out  # Tune's; stdout is the sweep's path
    after = read_trials(str(sweep))
    assert [record.state for record in after.values()] == ["failed", "finished", "finished", "stopped"]
    assert after[1].reason.startswith("the loss of step 1 is not finite (inf)")
    assert [after[n].settings["optim.lr"] for n in (2, 3, 4)] == [1e-2, 1e-1, 1e-9]
    assert len(list((tmp_path / "features").iterdir())) == 2
    assert (after[1], after[2]) == (before[1], before[2])
    assert (sweep / "trials/0002/metrics.jsonl").read_bytes() == second_run
    assert after[3].metrics["1"] == before[3].metrics["1"]
    steps = [json.loads(line) for line in (sweep / "trials/0003/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in steps if row["kind"] == "step"] == list(range(1, 7))
    check_report(sweep)
    assert resume(str(sweep)) == str(sweep)  # nothing is left, and nothing runs again
    assert read_trials(str(sweep)) == after


def check_report(sweep: Path) -> None:
    """Trials by rank, the best one's checkpoint in its place, where the time went."""
    report = json.loads((sweep / "sweep.json").read_text())
    ranked = [trial for trial in report["trials"] if trial["rank"]]
    assert [trial["number"] for trial in ranked] == [3, 2, 4]
    losses = [trial["metrics"]["val_loss"] for trial in ranked]
    assert losses == sorted(losses)
    best = checkpoint.verify(str(sweep / "best"))
    assert best.metrics["val_loss"] == losses[0]
    assert report["serve"] == f"raycap serve --checkpoint {sweep / 'best'}"
    assert report["seconds"]["training_s"] > 0
    assert report["seconds"]["not_training_s"] < report["seconds"]["total_s"]
    assert "<script>" in (sweep / "sweep.html").read_text()


def wait_for_epoch(sweep: Path, driver: "subprocess.Popen[bytes]", *, trial: int, epoch: int) -> None:
    """Until a trial has reported an epoch."""
    for _ in range(3000):
        record = read_trials(str(sweep)).get(trial)
        if record and record.epoch >= epoch:
            return
        assert driver.poll() is None, "the driver ended by itself"
        time.sleep(0.1)
    raise AssertionError(f"trial {trial} did not come to epoch {epoch}")
