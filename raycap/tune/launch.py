"""From a config to a finished sweep: checks and features first, then Ray Tune over `raycap.train`, then the report."""

from __future__ import annotations

import logging
import os
import shlex
import uuid
from collections.abc import Mapping

import ray
import ray.tune
import yaml

from raycap import storage
from raycap.config import ConfigError
from raycap.data import forwarded_environment
from raycap.data.manifest import read_data_manifest
from raycap.data.progress import say
from raycap.train import TrainConfig
from raycap.train.checks import check, with_absolute_paths
from raycap.train.launch import CONFIG
from raycap.train.rows import load_rows
from raycap.tune.config import SweepConfig
from raycap.tune.ledger import Ledger
from raycap.tune.record import check_names, read_trials
from raycap.tune.report import finish
from raycap.tune.resources import concurrent_trials
from raycap.tune.search import Asha, Planner
from raycap.tune.settings import (
    largest,
    objective,
    own_settings,
    plan,
    trial_config,
    with_settings,
)
from raycap.tune.trial import run_trial

DRIVER_SHARE = 0.001  # a trial's own process only waits; this puts it on the head node and takes no CPU
HEAD = "node:__internal_head__"
DATA = "data.json"  # which rows the trials saw
TUNE_DEFAULTS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # every trial's run has its own records
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # its tables go to stdout, which holds the path of the sweep and nothing else
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C interrupts; the sweep goes on with --resume
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


def tune(config: SweepConfig) -> str:
    """Run a sweep from its start; returns its folder.

    Raises:
        ConfigError: something is missing or does not fit, found before anything starts.
        SweepError: not one trial came to a checkpoint.
    """
    sweep = storage.absolute(config.tune.run)
    if storage.list_names(sweep):
        raise ConfigError(
            f"{sweep} is not empty: continue that sweep with `raycap tune --resume {config.tune.run}`, "
            "or give another folder (--tune.run)"
        )
    return start(config, sweep=sweep)


def resume(sweep: str, **changes: int) -> str:
    """Continue a sweep: trials that are over stay as they are, others go on from their newest checkpoint.

    Args:
        sweep: its folder.
        changes: settings of the tune block that differ from now on.

    Raises:
        ConfigError: no sweep there, or one that does not fit its trials.
        SweepError: as `tune`.
    """
    sweep = storage.absolute(sweep)
    path = storage.join(sweep, CONFIG)
    if not storage.exists(path):
        raise ConfigError(
            f"no sweep at {sweep}: {CONFIG} is not there; give the folder that `raycap tune` made"
        )
    document = yaml.safe_load(storage.read_bytes(path))
    if "tune" not in document:
        raise ConfigError(f"{sweep} is a run, not a sweep; continue it with `raycap train --resume {sweep}`")
    document["tune"] = {**document["tune"], **changes}
    return start(SweepConfig.model_validate(document), sweep=sweep)


def start(config: SweepConfig, *, sweep: str) -> str:
    """Check, make features, run the trials that are left, report."""
    config = placed(config, sweep=sweep)
    dimensions, wanted = plan(config)
    records = read_trials(sweep)
    check_names(records, [dimension.name for dimension in dimensions], sweep=sweep)
    biggest = largest(config, dimensions)
    check(biggest, run=sweep)
    concurrent = concurrent_trials(config, biggest)
    check_data(config, sweep=sweep)
    document = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    storage.write_bytes(storage.join(sweep, CONFIG), document.encode())
    ledger = Ledger(config, dimensions, records)
    ledger.take_over()
    try:
        run_trials(ledger, wanted=wanted, concurrent=concurrent)
    except KeyboardInterrupt:
        say(f"go on with `raycap tune --resume {shlex.quote(sweep)}`")
        raise
    return finish(config, dimensions, ledger.records, wall_s=ledger.wall_s)


def check_data(config: SweepConfig, *, sweep: str) -> None:
    """Whether trials can be compared on these images, and were so far; a sweep that begins notes which they are.

    Raises:
        ConfigError: no validation images, or the rows were prepared anew.
    """
    manifest = read_data_manifest(config.data.path)
    if not manifest.counts.get("val"):
        raise ConfigError(
            f"{config.data.path} has no validation images, by which the trials of a sweep are compared; "
            "prepare it with a val split"
        )
    found = manifest.fingerprint
    path = storage.join(sweep, DATA)
    if not storage.exists(path):
        storage.write_json(path, {"fingerprint": found})
    elif storage.read_json(path)["fingerprint"] != found:
        raise ConfigError(
            f"{config.data.path} has other rows than when {sweep} began, and its trials could not be compared; "
            "prepare it as it was, or start another sweep"
        )


def placed(config: SweepConfig, *, sweep: str) -> SweepConfig:
    """The config with its folders made absolute; `train.run`, which no trial uses, is the sweep's."""
    absolute = with_absolute_paths(with_settings(config, {}), run=sweep).model_dump(mode="json")
    options = {**config.tune.model_dump(mode="json"), "run": sweep}
    return SweepConfig.model_validate({**absolute, "tune": options})


def run_trials(ledger: Ledger, *, wanted: Mapping[str, TrainConfig], concurrent: int) -> None:
    """Run what is left of a sweep, over the rows that `wanted` asks for."""
    config, dimensions, records = ledger.config, ledger.dimensions, ledger.records
    goal = objective(config)
    planner = Planner(
        config.tune,
        dimensions,
        own=own_settings(config, dimensions),
        objective=goal,
        records=records,
        check=lambda settings, number: trial_config(config, settings, number=number),
        write=ledger.write,
    )
    if not planner.left:
        say(f"all {planner.total} trials are over")
        return
    rows = {key: load_rows(point) for key, point in wanted.items()}
    ledger.total = planner.total
    before = len(records) - len(planner.begun)
    say(
        f"sweep of {planner.total} trials by {config.tune.algorithm}, {concurrent} side by side"
        f"{f', {before} of them over' if before else ''}: {config.tune.run}"
    )
    quieten()
    scheduler = (
        Asha(config.tune, epochs=config.train.epochs, objective=goal, records=records)
        if config.tune.scheduler == "asha"
        else None
    )
    trainable = ray.tune.with_parameters(
        run_trial, sweep=config.model_dump(mode="json"), rows=rows, environment=forwarded_environment()
    )
    attempt = uuid.uuid4().hex[:8]
    ray.tune.Tuner(
        ray.tune.with_resources(trainable, {"CPU": 0, HEAD: DRIVER_SHARE}),
        tune_config=ray.tune.TuneConfig(
            num_samples=planner.left,
            max_concurrent_trials=concurrent,
            search_alg=planner,
            scheduler=scheduler,
        ),
        run_config=ray.tune.RunConfig(
            name=attempt,
            storage_path=storage.join(config.tune.run, "ray"),
            callbacks=[ledger],
            verbose=0,
        ),
    ).fit()


def quieten() -> None:
    """Leave what Tune would print and keep to raycap's own lines, except under RAYCAP_DEBUG."""
    for name, value in TUNE_DEFAULTS.items():
        os.environ.setdefault(name, value)
    if not os.environ.get("RAYCAP_DEBUG"):
        for name in ("ray.tune", "ray.exceptions"):
            logging.getLogger(name).setLevel(
                logging.CRITICAL
            )  # failures are in the ledger, with their reason
