"""`raycap featurize`."""

from typing import Annotated

from cyclopts import Parameter

from raycap.data import featurize as stage
from raycap.data import start_ray


def featurize(
    preset: Annotated[str, Parameter(show_env_var=False)],
    /,
    *,
    config: Annotated[stage.FeaturizeConfig, Parameter(name="*")],
) -> None:
    """Encode every prepared image once with the frozen encoder.

    Prints the folder it made, keyed by the data, the encoder's weights and the preprocessing. The same request is
    answered at once; an interrupted one goes on from its finished shards.

    Parameters
    ----------
    preset
        A preset's name, or a YAML file.
    """
    start_ray()
    print(stage.featurize(config))
