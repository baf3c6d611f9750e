"""From drawn settings to a trial's config: which settings may vary, and what each trial's run is given.

Knows the config classes by their fields alone.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ValidationError

from raycap import choosing, storage
from raycap.choosing import LOSSES
from raycap.config import ConfigError, describe_validation_error
from raycap.train import TrainConfig
from raycap.tune.config import SweepConfig
from raycap.tune.space import Dimension, grid_points, parse_space

TRIALS = "trials"
BEAMS, VAL_BEAMS, LENGTH = "decoding.beams", "train.val_beams", "decoding.length_penalty"
# Settings that all trials share, with why.
SHARED: Mapping[str, str] = MappingProxyType(
    {
        "data": "trials are compared on the same images",
        "tracking": "trials are tracked as one group",
        "train.run": "each trial has a folder below tune.run",
        "train.cache": "trials share one cache",
        "train.epochs": "trials are compared at the same epochs; tune.scheduler decides which go on",
        "train.metric": "trials are compared by it",
        "train.choose": "trials are compared by it",
        "featurize.output": "trials share one cache",
        "model.family": "settings differ between families; run a sweep for each",
    }
)
# Settings on which the rows that trials read depend: rows are made once for each combination, before any trial.
ROWS = ("encoder.", "featurize.", "model.language_model", "model.tokenizer", "train.max_tokens")


def read_space(config: SweepConfig) -> tuple[Dimension, ...]:
    """The sweep's dimensions, each a setting that exists, may vary and takes the values it is drawn from.

    Raises:
        ConfigError: one does not, in one sentence.
    """
    dimensions = parse_space(config.tune.space)
    known = list(setting_names(config))
    for dimension in dimensions:
        check_name(dimension.name, known)
        for value in dimension.probes():
            try:
                with_settings(config, {dimension.name: value})
            except ValidationError as error:
                reason = describe_validation_error(error).splitlines()[0]
                raise ConfigError(f"tune.space: {dimension.name} cannot be {value!r}: {reason}") from None
    check_effect(config, [dimension.name for dimension in dimensions])
    if config.tune.algorithm == "grid":
        grid_points(dimensions)
    return dimensions


def plan(config: SweepConfig) -> tuple[tuple[Dimension, ...], dict[str, TrainConfig]]:
    """What varies, and by `rows_key` a config for every kind of rows: all that can be known before Ray starts.

    Raises:
        ConfigError: the space does not fit the config, or the trials could share no features.
    """
    if config.train.cache == "none":
        raise ConfigError(
            "a sweep's trials share features that are made once; take train.cache=object_store or disk"
        )
    dimensions = read_space(config)
    return dimensions, rows_configs(config, dimensions)


def check_name(name: str, known: Sequence[str]) -> None:
    """Whether a setting exists and may vary.

    Raises:
        ConfigError: it does not, or may not.
    """
    for shared, why in SHARED.items():
        if name == shared or name.startswith(f"{shared}."):
            raise ConfigError(f"tune.space: {name} cannot vary within a sweep: {why}")
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"known are, among others, {', '.join(known[:5])}"
        raise ConfigError(f"tune.space: there is no setting {name!r}; {hint}")


def check_effect(config: SweepConfig, names: Sequence[str]) -> None:
    """Whether validation would notice the decoding settings that vary.

    Raises:
        ConfigError: it would not.
    """
    if LENGTH in names and config.train.val_beams == 1 and not {BEAMS, VAL_BEAMS} & set(names):
        raise ConfigError(
            f"tune.space: {LENGTH} has no effect while validation is greedy; set --train.val-beams 3, or vary {BEAMS}"
        )


def setting_names(config: BaseModel, prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings of a config; of the model those of its own family."""
    for name in type(config).model_fields:
        value = getattr(config, name)
        if name == "tune":
            continue
        if isinstance(value, BaseModel):
            yield from setting_names(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def with_settings(config: TrainConfig, settings: Mapping[str, Any]) -> TrainConfig:
    """The training config with dotted settings replaced; decoding.beams sets validation's beams too.

    Raises:
        ValidationError: a value that its setting does not take, or that contradicts another.
    """
    document = {name: block for name, block in config.model_dump(mode="json").items() if name != "tune"}
    beams = {VAL_BEAMS: settings[BEAMS]} if BEAMS in settings else {}
    for name, value in {**beams, **settings}.items():
        *blocks, last = name.split(".")
        place = document
        for block in blocks:
            place = place[block]
        place[last] = value
    return TrainConfig.model_validate(document)


def own_settings(config: TrainConfig, dimensions: Sequence[Dimension]) -> dict[str, Any]:
    """What the preset itself has for the settings that vary."""
    document = config.model_dump(mode="json")
    found = {}
    for dimension in dimensions:
        value: Any = document
        for part in dimension.name.split("."):
            value = value[part]
        found[dimension.name] = tuple(value) if isinstance(value, list) else value
    return found


def trial_config(config: SweepConfig, settings: Mapping[str, Any], *, number: int) -> TrainConfig:
    """What a trial trains with: its settings, a folder of its own, and a name in the sweep's group.

    Raises:
        ValidationError: settings that contradict each other.
    """
    sweep = config.tune.run.rstrip("/").rsplit("/", 1)[-1]
    document = with_settings(config, settings).model_dump(mode="json")
    document["train"]["run"] = trial_folder(config.tune.run, number)
    document["tracking"]["name"] = f"{config.tracking.name or sweep}-{number:04d}"
    document["tracking"]["group"] = config.tracking.group or sweep
    return TrainConfig.model_validate(document)


def trial_folder(sweep: str, number: int) -> str:
    """Where a trial's run lies."""
    return storage.join(sweep, TRIALS, f"{number:04d}")


def rows_key(config: TrainConfig) -> str:
    """A name of the rows that a trial reads: equal for trials that share them."""
    document = config.model_dump(mode="json")
    model = {name: document["model"].get(name) for name in ("language_model", "tokenizer")}
    parts = [document["encoder"], document["featurize"], model, config.train.max_tokens]
    return json.dumps(parts, sort_keys=True)


def rows_configs(config: SweepConfig, dimensions: Sequence[Dimension]) -> dict[str, TrainConfig]:
    """By `rows_key`, a config for every kind of rows that some trial may read.

    Raises:
        ConfigError: an encoder's setting with too many values to make features of each.
    """
    varied = [d for d in dimensions if d.name.startswith(ROWS)]
    for dimension in varied:
        if dimension.all_values is None:
            raise ConfigError(
                f"tune.space: features, or tokens, are made once for each value of {dimension.name}, before the "
                "trials; list its values: choice A B ..."
            )
    points = [with_settings(largest(config, dimensions), point) for point in grid_points(varied)]
    own = [largest(config, dimensions)] if config.tune.baseline else []
    return {rows_key(point): point for point in [*own, *points]}


def largest(config: SweepConfig, dimensions: Sequence[Dimension]) -> TrainConfig:
    """The config whose trial takes the most of the cluster."""
    settings: dict[str, Any] = {}
    for name in ("train.num_workers", "train.cpus_per_worker", "train.gpus_per_worker"):
        for dimension in dimensions:
            if dimension.name == name:
                settings[name] = max(dimension.probes())
    return with_settings(config, settings)


def objective(config: TrainConfig) -> tuple[str, bool]:
    """The one number that Optuna and asha look at, and whether less of it is better.

    It is the first metric that the strategy names (of meteor-centred METEOR); `train.metric` where it names none.
    """
    name = next(iter(choosing.parse(config.train.strategy).named), config.train.metric)
    return name, name in LOSSES
