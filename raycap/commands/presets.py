"""`raycap presets`."""

import yaml

from raycap.config import load_document, preset_names


def presets(name: str = "", /) -> None:
    """List the presets that come with raycap, or print one as YAML, to copy and change.

    Parameters
    ----------
    name
        A preset to print.
    """
    if name:
        print(yaml.safe_dump(load_document(name), sort_keys=False), end="")
        return
    for preset in preset_names():
        print(preset)
