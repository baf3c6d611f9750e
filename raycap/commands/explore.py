"""`raycap explore`."""

from typing import Annotated

from cyclopts import Parameter

from raycap import explore as stage
from raycap.config import DataConfig

DEFAULTS = stage.ExploreOptions()


def explore(
    preset: Annotated[str, Parameter(show_env_var=False)] = "",
    /,
    *,
    data: DataConfig,
    options: Annotated[stage.ExploreOptions, Parameter(name="*")] = DEFAULTS,
) -> None:
    """Look at prepared rows before training: one HTML report. Prints its path.

    Counts by split, caption lengths in words and tokens, vocabulary, sizes, captions of different photos that say
    nearly the same, photos that look the same (in two splits above all), odd captions, and a sheet of samples.
    `raycap explore PRESET` or `raycap explore --data FOLDER`; --limit is short for --data.limit.

    Parameters
    ----------
    preset
        A preset's name, or a YAML file, that says where the rows lie and which tokenizer reads them.
    data
        The prepared rows.
    """
    print(stage.explore(stage.ExploreConfig(data=data, explore=options)))
