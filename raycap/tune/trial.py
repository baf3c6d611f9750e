"""One trial, in the process that Ray Tune starts for it: a training run over rows that all trials share."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import ray.tune
from ray.tune.integration.ray_train import TuneReportCallback

from raycap import storage
from raycap.checkpoint import RunCheckpoints, read_manifest
from raycap.train.launch import start
from raycap.train.rows import Rows
from raycap.tune.config import SweepConfig
from raycap.tune.record import read_trial, recorded_epochs
from raycap.tune.search import NUMBER
from raycap.tune.settings import rows_key, trial_config


def run_trial(
    config: dict[str, Any], *, sweep: dict[str, Any], rows: Mapping[str, Rows], environment: Mapping[str, str]
) -> None:
    """Train a trial from its newest whole checkpoint; Tune hears of every epoch, those of before a kill first.

    Args:
        config: the trial's number, which is all that Tune gives it.
        sweep: the sweep's config.
        rows: by `rows_key`.
        environment: what of the driver's a trial and its workers need.

    Raises:
        ConfigError: as `train`.
        TrainingError: as `train`.
    """
    adopt(environment)
    whole = SweepConfig.model_validate(sweep)
    record = read_trial(whole.tune.run, config[NUMBER])
    trial = trial_config(whole, record.settings, number=record.number)
    run = storage.absolute(trial.train.run)
    newest = RunCheckpoints(run).newest_valid()
    if newest:
        for row in recorded_epochs(run, done=read_manifest(newest).epoch):
            ray.tune.report(row)
    start(trial, run=run, rows=rows[rows_key(trial)], callbacks=[TuneReportCallback()], shown=False)


def adopt(environment: Mapping[str, str]) -> None:
    """Take over variables of the driver's: Ray Tune starts its processes without."""
    os.environ.update(environment)
    for folder in environment.get("PYTHONPATH", "").split(os.pathsep):
        if folder and folder not in sys.path:
            sys.path.append(folder)  # plugins are imported by name
