"""The model families: FAMILIES is the one list of them, ModelConfig the type that selects one by `family`.

A family outside this package is added by naming its module in the environment variable RAYCAP_PLUGINS
(comma-separated); the module calls `register`. Workers read the same variable.
"""

from __future__ import annotations

import importlib
import os
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny

from raycap.config import ConfigError
from raycap.models.base import CaptionGroup, CaptionModel, FamilyConfig
from raycap.models.gpt2_cross import Gpt2CrossConfig

FAMILIES: dict[str, type[FamilyConfig]] = {"gpt2_cross": Gpt2CrossConfig}


def register(family: str, config: type[FamilyConfig]) -> None:
    """Add a family under its name; the name selects it in every config and checkpoint."""
    FAMILIES[family] = config


def load_plugins() -> None:
    """Import the modules that RAYCAP_PLUGINS names, each of which registers its families.

    Raises:
        ConfigError: a module that cannot be imported.
    """
    for module in filter(None, map(str.strip, os.environ.get("RAYCAP_PLUGINS", "").split(","))):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigError(
                f"RAYCAP_PLUGINS names the module {module!r}, which cannot be imported ({error}); "
                "correct the name, or put its folder on PYTHONPATH"
            ) from error


def select_family(value: Any) -> FamilyConfig:
    """A family's config from a mapping with its `family` name.

    Raises:
        ConfigError: no name, or an unknown one.
    """
    if isinstance(value, FamilyConfig):
        return value
    load_plugins()
    name = value.get("family") if isinstance(value, dict) else value
    if name not in FAMILIES:
        raise ConfigError(f"unknown family {name!r}; known: {', '.join(FAMILIES)}")
    return FAMILIES[name].model_validate(value)


ModelConfig = Annotated[SerializeAsAny[FamilyConfig], BeforeValidator(select_family)]

__all__ = [
    "FAMILIES",
    "CaptionGroup",
    "CaptionModel",
    "FamilyConfig",
    "ModelConfig",
    "load_plugins",
    "register",
    "select_family",
]
