"""A killed worker, a killed driver, a damaged checkpoint: the run goes on, and no image is lost or seen twice."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from prepared import tiny_run

from raycap import checkpoint
from raycap.checkpoint import RunCheckpoints, TrainingState, read_manifest, read_training
from raycap.schema import image_key
from raycap.train import TrainConfig, resume, train
from raycap.train.record import read_metrics

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_session", "tiny_plugin")]

IMAGES, EPOCHS, IMAGES_A_STEP = 24, 2, 4
EVERYTHING = {image_key(f"train-{number:03}") for number in range(IMAGES)}
DRIVER = """
import sys, yaml
import ray
ray.init(address=sys.argv[1], log_to_driver=False)
from raycap.train import TrainConfig, train
train(TrainConfig.model_validate(yaml.safe_load(open(sys.argv[2]))))
"""


@pytest.fixture
def document(tmp_path: Path, tiny_encoder: str) -> dict[str, Any]:
    """Six steps an epoch, a checkpoint after each, two images a worker and step."""
    settings = tiny_run(tmp_path, tiny_encoder, train=IMAGES, val=4, batch_size=IMAGES_A_STEP // 2)
    return {**settings, "optim": {"ema_decay": 0.5}}


def batches_by_process(log: Path) -> dict[int, list[list[int]]]:
    """Keys of every batch, by the process that trained on it."""
    return {
        int(path.name.split("-")[0]): [
            [int(key) for key in line.split()] for line in path.read_text().splitlines()
        ]
        for path in log.glob("*.log")
    }


def check_rows(run: str) -> None:
    """Every step stands once in metrics.jsonl, in order, and every epoch has all images."""
    rows = read_metrics(run)
    steps = [row["step"] for row in rows if row["kind"] == "step"]
    assert steps == list(range(1, len(steps) + 1))
    assert [row["epoch"] for row in rows if row["kind"] == "epoch"] == list(range(1, EPOCHS + 1))
    for epoch in range(1, EPOCHS + 1):
        assert sum(row["images"] for row in rows if row["kind"] == "step" and row["epoch"] == epoch) == IMAGES


def test_a_killed_worker_is_replaced_and_no_image_is_seen_twice(
    document: dict[str, Any], tmp_path: Path
) -> None:
    """The worker dies in the fourth step of the first epoch, with the third step saved."""
    document["model"] |= {"die_at": 4, "die_rank": 1}
    run = train(TrainConfig.model_validate(document))
    assert (tmp_path / "log/died").exists()
    processes = batches_by_process(tmp_path / "log")
    assert len(processes) == 4
    first = [batches for batches in processes.values() if len(batches) <= 4]
    second = [batches for batches in processes.values() if len(batches) > 4]
    assert [len(found) for found in (first, second)] == [2, 2]
    saved = [key for batches in first for batch in batches[:3] for key in batch]
    after = [key for batches in second for batch in batches for key in batch]
    rest, next_epoch = after_resume(second, images=IMAGES - len(saved))
    assert len(saved) == 3 * IMAGES_A_STEP
    assert sorted(saved + rest) == sorted(EVERYTHING)
    assert sorted(next_epoch) == sorted(EVERYTHING)
    assert len(after) == len(rest) + len(next_epoch)
    check_rows(run)


def after_resume(processes: list[list[list[int]]], *, images: int) -> tuple[list[int], list[int]]:
    """Keys of the epoch that was interrupted, and of those after it: steps are joint, so batches go in turn."""
    in_order: list[int] = []
    for number in range(max(len(batches) for batches in processes)):
        for batches in processes:
            in_order += batches[number] if number < len(batches) else []
    return in_order[:images], in_order[images:]


def test_a_killed_driver_is_continued_past_a_damaged_checkpoint(
    document: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """From the one before the newest, with a warning; a killed sweep's test goes on from a whole one."""
    import ray

    document["model"]["seconds"] = 0.5
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(document))
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", DRIVER, address, str(tmp_path / "config.yaml")]
    run = Path(document["train"]["run"])
    with subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}) as driver:
        wait_for_steps(run, driver, steps=3)
        driver.send_signal(signal.SIGKILL)
    killed_at = set(batches_by_process(tmp_path / "log"))
    wait_for_end(killed_at)

    checkpoints = RunCheckpoints(str(run))
    newest = checkpoints.newest_valid()
    assert newest is not None
    weights = bytearray((Path(newest) / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (Path(newest) / "model.safetensors").write_bytes(weights)
    before = checkpoints.newest_valid()
    assert before is not None
    assert before != newest
    assert read_manifest(before).epoch == 0  # inside the first epoch
    state = read_training(before)
    assert state is not None
    seen = state.tensors["seen"].tolist()
    assert len(seen) == len(set(seen)) == IMAGES_A_STEP * read_manifest(before).step

    caplog.clear()
    assert resume(str(run)) == str(run)
    assert "passing over a damaged checkpoint" in caplog.text
    later = [batches for pid, batches in batches_by_process(tmp_path / "log").items() if pid not in killed_at]
    assert len(later) == 2
    rest, next_epoch = after_resume(later, images=IMAGES - len(seen))
    assert sorted(seen + rest) == sorted(EVERYTHING)
    assert sorted(next_epoch) == sorted(EVERYTHING)
    check_rows(str(run))


def test_an_epoch_saved_after_its_last_image_is_only_validated(
    document: dict[str, Any], tmp_path: Path
) -> None:
    """Killed between the last step of an epoch and the end of its validation: nothing is left to train on."""
    document["train"] |= {"epochs": 1, "num_workers": 1, "batch_size": IMAGES}
    run = train(TrainConfig.model_validate(document))
    loaded = checkpoint.load(run, training=True)
    assert loaded.training is not None
    values = {**loaded.training.values, "epoch": 0, "images": IMAGES}
    tensors = {**loaded.training.tensors, "seen": torch.tensor(sorted(EVERYTHING))}
    RunCheckpoints(run).save_step(
        loaded.model,
        model_config=loaded.config,
        tokenizer=loaded.tokenizer,
        encoder=loaded.manifest.encoder,
        decoding=loaded.manifest.decoding,
        metrics={},
        step=1,
        epoch=0,
        training=TrainingState(tensors, values),
    )
    assert resume(run) == run
    assert [len(batches) for batches in batches_by_process(tmp_path / "log").values()] == [1]
    assert [(row["kind"], row["step"]) for row in read_metrics(run)] == [("step", 1), ("epoch", 1)]
    assert read_manifest(f"{run}/checkpoints/step-00000001").epoch == 1


def wait_for_steps(run: Path, driver: "subprocess.Popen[bytes]", *, steps: int) -> None:
    """Until so many optimizer steps are written down."""
    for _ in range(3000):
        if sum(row["kind"] == "step" for row in read_metrics(str(run))) >= steps:
            return
        assert driver.poll() is None, "the driver ended by itself"
        time.sleep(0.1)
    raise AssertionError(f"no {steps} steps in {run}")


def wait_for_end(pids: set[int]) -> None:
    """Until the workers of the killed driver are gone: Ray ends them with it."""
    for _ in range(600):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return
        time.sleep(0.1)
    raise AssertionError("workers outlive their driver")
