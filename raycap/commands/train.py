"""`raycap train`, with the flags of one model family."""

from collections.abc import Callable
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import create_model

from raycap import train as stage
from raycap.config import ConfigError
from raycap.data import start_ray
from raycap.models import FAMILIES, load_plugins

Unset = Annotated[str, Parameter(show_env_var=False)]  # read from the command line before anything else


def train_command(family: str) -> Callable[..., None]:
    """The command with `model` spelled out as that family's config, so that its settings become flags.

    Raises:
        ConfigError: no such family.
    """
    load_plugins()
    if family not in FAMILIES:
        raise ConfigError(f"unknown family {family!r}; known: {', '.join(FAMILIES)}")
    flags: Any = create_model("TrainConfig", __base__=stage.TrainConfig, model=(FAMILIES[family], ...))

    def train(
        preset: Unset = "", /, *, resume: Unset = "", config: Annotated[flags, Parameter(name="*")]
    ) -> None:
        """Fine-tune a captioner. Features are made first where they are missing.

        Prints the run folder: checkpoints, metrics.jsonl, loss.png, curves.png and samples.html.

        Parameters
        ----------
        preset
            A preset's name, or a YAML file.
        resume
            Folder of a run to continue from its last checkpoint, with its own settings; takes no preset.
        """
        start_ray()
        if resume:
            print(stage.resume(resume))
            return
        print(stage.train(stage.TrainConfig.model_validate(config.model_dump(mode="json"))))

    return train
