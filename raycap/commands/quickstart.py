"""`raycap quickstart`."""

from raycap import quickstart as stage
from raycap.data import start_ray


def quickstart(*, folder: str = "quickstart") -> None:
    """Do everything once, offline, on this machine, in a few minutes on two cores.

    Draws shapes, trains a small encoder and a small GPT-2 from scratch, featurizes, LoRA-trains on two Ray workers,
    evaluates on held-out drawings, serves the result and captions a drawing over HTTP. Prints the run folder.

    Parameters
    ----------
    folder
        Where everything is put.
    """
    start_ray()
    print(stage.quickstart(folder))
