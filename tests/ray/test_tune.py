"""Sweeps of tiny trials: ended early, failing, killed and continued, all on one feature cache."""

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
from raycap.tune import SweepConfig, resume, tune
from raycap.tune.record import read_trials

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_session", "tiny_plugin")]

DRIVER = """
import sys, yaml
import ray
ray.init(address=sys.argv[1], log_to_driver=False)
from raycap.tune import SweepConfig, tune
tune(SweepConfig.model_validate(yaml.safe_load(open(sys.argv[2]))))
"""


def tiny_sweep(folder: Path, encoder: str, *, space: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Settings of a sweep of tests/tiny_family.py, a worker a trial."""
    document = tiny_run(folder, encoder, train=12, val=4, num_workers=1, num_samples=2)
    return {**document, "tune": {"run": str(folder / "sweep"), "space": space, **options}}


def test_a_sweep_ranks_its_trials_and_keeps_the_best(
    tmp_path: Path, tiny_encoder: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """One trial fails and one that is behind ends early, and neither ends the sweep."""
    space = {"optim.lr": "grid 1e-1 1e-9", "model.infinite_at": [0]}
    options = {"algorithm": "random", "trials": 4, "reduction": 2, "max_concurrent": 2}
    document = tiny_sweep(tmp_path, tiny_encoder, space=space, **options)
    document["model"]["infinite_at"] = 1  # so that the preset's own trial fails
    document["train"] |= {"choose": "val_loss", "metric": "cider_d", "epochs": 2}
    sweep = Path(tune(SweepConfig.model_validate(document)))
    assert (
        "Configuration for experiment" not in capfd.readouterr().out
    )  # Tune's own; stdout is the sweep's path

    report = json.loads((sweep / "sweep.json").read_text())
    trials = {trial["number"]: trial for trial in report["trials"]}
    assert {number: trial["state"] for number, trial in trials.items()} == {
        1: "failed",
        2: "finished",
        3: "stopped",  # it begins when the first has failed; the second is an epoch further by then
        4: "finished",
    }
    assert trials[1]["reason"].startswith("the loss of step 1 is not finite (inf)")
    assert [trials[n]["settings"]["optim.lr"] for n in (2, 3, 4)] == [0.1, 1e-9, 0.1]
    ranked = [trial for trial in report["trials"] if trial["rank"]]
    assert ranked[-1]["number"] == 3
    losses = [trial["metrics"]["val_loss"] for trial in ranked]
    assert losses == sorted(losses)

    best = checkpoint.verify(str(sweep / "best"))
    assert best.metrics["val_loss"] == losses[0]
    assert report["serve"] == f"raycap serve --checkpoint {sweep / 'best'}"
    assert report["seconds"]["training_s"] > 0
    assert report["seconds"]["not_training_s"] < report["seconds"]["total_s"]
    assert "<script>" in (sweep / "sweep.html").read_text()
    assert resume(str(sweep)) == str(sweep)  # nothing is left, and nothing runs again
    assert {n: t.state for n, t in read_trials(str(sweep)).items()} == {
        n: t["state"] for n, t in trials.items()
    }


def test_a_killed_sweep_goes_on(tmp_path: Path, tiny_encoder: str) -> None:
    """Finished trials are not run again, the others go on from their checkpoint, and the rest is run.

    Two encoder layers make two feature folders, before any trial, and again none.
    """
    import ray

    space = {"optim.lr": "loguniform 1e-4 1e-1", "encoder.layer": "grid -1 -2"}
    document = tiny_sweep(tmp_path, tiny_encoder, space=space, trials=3, scheduler="none", algorithm="random")
    document["model"] |= {"seconds": 0.4}
    document["train"] |= {"epochs": 3, "batch_size": 4, "max_failures": 0}
    document["tune"] |= {"max_concurrent": 1, "seed": 5}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(document))
    sweep = tmp_path / "sweep"
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", DRIVER, address, str(tmp_path / "config.yaml")]
    with subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}) as driver:
        wait_for_epoch(sweep, driver, trial=2, epoch=1)
        driver.send_signal(signal.SIGKILL)
    before = read_trials(str(sweep))
    assert before[1].state == "finished"
    assert before[2].state == "begun"
    wait_for_end(set(batches_by_process(tmp_path / "log")))
    first_run = (sweep / "trials/0001/metrics.jsonl").read_bytes()

    assert resume(str(sweep)) == str(sweep)
    after = read_trials(str(sweep))
    assert [record.state for record in after.values()] == ["finished"] * 3
    assert {record.settings["encoder.layer"] for record in after.values()} == {-1, -2}
    assert len(list((tmp_path / "features").iterdir())) == 2
    assert after[1] == before[1]
    assert (sweep / "trials/0001/metrics.jsonl").read_bytes() == first_run
    assert after[2].settings == before[2].settings
    assert sorted(after[2].metrics) == ["1", "2", "3"]
    assert after[2].metrics["1"] == before[2].metrics["1"]
    steps = [json.loads(line) for line in (sweep / "trials/0002/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in steps if row["kind"] == "step"] == list(range(1, 10))


def wait_for_epoch(sweep: Path, driver: "subprocess.Popen[bytes]", *, trial: int, epoch: int) -> None:
    """Until a trial has reported an epoch."""
    for _ in range(3000):
        record = read_trials(str(sweep)).get(trial)
        if record and record.epoch >= epoch:
            return
        assert driver.poll() is None, "the driver ended by itself"
        time.sleep(0.1)
    raise AssertionError(f"trial {trial} did not come to epoch {epoch}")
