"""`raycap train`."""

from typing import Annotated, Any, Union

from cyclopts import Parameter
from pydantic import Field, create_model

from raycap import train as stage
from raycap.data import start_ray
from raycap.models import FAMILIES, load_plugins


def with_family_flags(config: type[stage.TrainConfig]) -> Any:
    """The config with `model` spelled out as a union of all families, so that their settings become flags."""
    load_plugins()
    families = tuple(FAMILIES.values())
    if len(families) == 1:
        return create_model(config.__name__, __base__=config, model=(families[0], ...))
    return create_model(
        config.__name__,
        __base__=config,
        model=(Union[families], Field(discriminator="family")),  # noqa: UP007
    )


TrainFlags = with_family_flags(stage.TrainConfig)


def train(
    preset: str = "", /, *, resume: str = "", config: Annotated[TrainFlags, Parameter(name="*")]
) -> None:
    """Fine-tune a captioner. Features are made first where they are missing.

    Prints the run folder: checkpoints, metrics.jsonl, loss.png and samples.html.

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
