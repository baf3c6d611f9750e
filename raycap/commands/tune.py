"""`raycap tune`, with the flags of one model family."""

import os
from collections.abc import Callable
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import Field, create_model

from raycap import tune as stage
from raycap.commands.train import Unset
from raycap.config import ConfigError, load_documents
from raycap.data import start_ray
from raycap.models import FAMILIES, load_plugins
from raycap.tune.settings import plan

HEALTH_CHECK = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"


class Options(stage.TuneOptions):
    """The tune block without its space, which is read from the files: its lines are no flags."""

    space: Annotated[dict[str, Any], Parameter(parse=False)] = Field(default={})


def tune_command(family: str) -> Callable[..., None]:
    """The command with `model` spelled out as that family's config, so that its settings become flags.

    Raises:
        ConfigError: no such family.
    """
    load_plugins()
    if family not in FAMILIES:
        raise ConfigError(f"unknown family {family!r}; known: {', '.join(FAMILIES)}")
    blocks: dict[str, Any] = {"model": (FAMILIES[family], ...), "tune": (Options, ...)}
    flags: Any = create_model("SweepConfig", __base__=stage.SweepConfig, **blocks)

    def tune(
        preset: Unset = "",
        space: Unset = "",
        /,
        *,
        resume: Unset = "",
        config: Annotated[flags, Parameter(name="*")],
    ) -> None:
        """Sweep over settings: many trials of `raycap train` on one feature cache, poor ones ended early.

        What varies stands in the YAML file, a line a setting, in the block `tune: {run: FOLDER, space: {...}}`:

        optim.lr: loguniform 1e-4 1e-2, model.lora.rank: choice 4 8 16, train.batch_size: grid 16 32, model.dropout:
        uniform 0 0.3, decoding.beams: int 1 5, encoder.layer: choice -1 -2

        Ends with a ranked table, sweep.html (parallel coordinates, what mattered, learning curves), sweep.json, the
        best trial's checkpoint as SWEEP/best and the command that serves it. Prints the sweep's folder.

        Parameters
        ----------
        preset
            A preset's name, or a YAML file.
        space
            A YAML file whose blocks are laid over the preset's: the tune block, and whatever else differs.
        resume
            Folder of a sweep to continue: trials that are over stay, others go on. Takes no preset, and of the flags
            only --tune.trials, by which a sweep that is over takes more trials, and --tune.max-concurrent.
        """
        os.environ.setdefault(HEALTH_CHECK, "0.5")  # a trial ends seconds sooner than with Ray's own 2
        if resume:
            start_ray()
            trials, concurrent = config.tune.trials, config.tune.max_concurrent
            print(stage.resume(resume, trials=trials, max_concurrent=concurrent))
            return
        document = config.model_dump(mode="json")
        files = load_documents(preset, *filter(None, [space]))
        document["tune"]["space"] = (files.get("tune") or {}).get("space", {})
        sweep = stage.SweepConfig.model_validate(document)
        plan(sweep)  # what is wrong with it is said before Ray takes seconds to start
        start_ray()
        print(stage.tune(sweep))

    return tune
