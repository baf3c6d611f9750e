"""The Jobs API, as a user of a cluster has it: submit jobs/train.py, follow its log, find the checkpoint."""

import subprocess
import time
from pathlib import Path

import pytest
import yaml
from fakes import make_encoder, make_language_model
from prepared import write_prepared

from raycap import checkpoint

ROOT = Path(__file__).resolve().parents[2]


def submit(address: str, *job: str) -> "subprocess.CompletedProcess[str]":
    """`ray job submit`, tried again while a cluster that has only just started has no agent for jobs yet."""
    command = ["ray", "job", "submit", "--address", address, "--working-dir", str(ROOT), "--", *job]
    for _ in range(20):
        done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
        if "No available agent" not in done.stdout + done.stderr:
            break
        time.sleep(3)
    return done


@pytest.mark.ray
def test_a_submitted_job_trains(ray_session: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    preset = tmp_path / "tiny.yaml"
    document = {
        "data": {"path": str(write_prepared(tmp_path / "data", train=12, val=4))},
        "encoder": {"name": str(make_encoder(tmp_path / "encoder"))},
        "featurize": {"output": str(tmp_path / "features")},
        "model": {
            "family": "gpt2_cross",
            "language_model": str(make_language_model(tmp_path / "language_model")),
        },
        "train": {"run": str(run), "epochs": 1, "batch_size": 4},
    }
    preset.write_text(yaml.safe_dump(document))
    done = submit(ray_session, "python", "jobs/train.py", str(preset), "--optim.lr", "1e-3")
    log = done.stdout + done.stderr
    assert done.returncode == 0, log
    assert "succeeded" in log
    assert str(run) in log  # the job's last line names the run
    manifest = checkpoint.verify(checkpoint.resolve(str(run)))
    assert manifest.step == 3
    assert manifest.family == "gpt2_cross"


@pytest.mark.ray
def test_a_failing_job_says_why_and_exits_non_zero(ray_session: str, tmp_path: Path) -> None:
    nothing = str(tmp_path / "nothing")
    done = submit(ray_session, "python", "jobs/train.py", "shapes", "--data", nothing)
    assert done.returncode != 0
    assert nothing in done.stdout + done.stderr
    assert "raycap prepare" in done.stdout + done.stderr
