"""`raycap prepare`."""

from typing import Annotated

from cyclopts import Parameter

from raycap.data import prepare as stage


def prepare(
    preset: Annotated[str, Parameter(show_env_var=False)],
    /,
    *,
    config: Annotated[stage.PrepareConfig, Parameter(name="*")],
) -> None:
    """Turn raw photos and captions into canonical rows: Parquet by split, a manifest, and rejected.jsonl.

    Prints the folder it made. Running again on a finished folder answers at once.

    Parameters
    ----------
    preset
        A preset's name, or a YAML file.
    """
    print(stage.prepare(config))
