"""What every configuration is made of: the frozen base, the blocks several stages share, and presets.

A preset (or a user's YAML file) is one document of named blocks (`data`, `encoder`, `model`, ...). Each stage
has a config class whose fields are some of these blocks, so one document drives every command.
Knows nothing of the command line (cli.py) nor of any stage.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails


class ConfigError(ValueError):
    """A setting that the user can fix; the message says what came and what is allowed."""


class Frozen(BaseModel):
    """Base of every config: immutable; an unknown key, and a number that is not finite, are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @classmethod
    def from_document(cls, document: Mapping[str, Any], /, **blocks: Any) -> Self:
        """Validate the blocks of `document` that this class has, with `blocks` replacing whole blocks."""
        merged = {**document, **blocks}
        return cls.model_validate({name: merged[name] for name in cls.model_fields if name in merged})


class DataConfig(Frozen):
    """Prepared rows: what `prepare` writes and every later stage reads."""

    path: str
    """Folder (or URI) of prepared rows: Parquet shards by split and a manifest."""
    limit: int = Field(default=0, ge=0)
    """Images to use of each split, for quick trials; 0 uses all."""


def cache_folder() -> Path:
    """Where raycap keeps what it can make again: RAYCAP_CACHE, or raycap/ in the user's cache directory."""
    own = os.environ.get("RAYCAP_CACHE")
    shared = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own).expanduser() if own else Path(shared) / "raycap"


def preset_names() -> list[str]:
    """Names of the presets that come with raycap."""
    folder = resources.files("raycap") / "presets"
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def load_document(preset: str) -> dict[str, Any]:
    """Read a preset by name, or a YAML file by path.

    Raises:
        ConfigError: unknown name, missing file, or YAML that is not a mapping of blocks.
    """
    path = Path(preset)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise ConfigError(
                f"no such file: {preset}; give a YAML file or a preset: {', '.join(preset_names())}"
            )
        text = path.read_text(encoding="utf-8")
    elif preset in preset_names():
        text = (resources.files("raycap") / "presets" / f"{preset}.yaml").read_text(encoding="utf-8")
    else:
        raise ConfigError(
            f"unknown preset {preset!r}; known: {', '.join(preset_names())} (or a path to a .yaml file)"
        )
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{preset} is not valid YAML: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{preset} must hold a mapping of blocks, and holds {type(document).__name__}")
    return document


def load_documents(preset: str, *files: str) -> dict[str, Any]:
    """A preset with the blocks of more presets or YAML files laid over it, setting by setting.

    Raises:
        ConfigError: as `load_document`.
    """
    document = load_document(preset)
    for file in files:
        for block, settings in load_document(file).items():
            both = isinstance(settings, dict) and isinstance(document.get(block), dict)
            document[block] = {**document[block], **settings} if both else settings
    return document


def describe_validation_error(error: ValidationError) -> str:
    """One line for each wrong setting: its dotted name, what came and what is allowed."""
    return "\n".join(_describe(item) for item in error.errors(include_url=False))


def _describe(item: ErrorDetails) -> str:
    where = "".join(f"{part}." for part in item["loc"]).removesuffix(".")
    if item["type"] == "value_error":  # our own sentence, which says what came
        return ": ".join(filter(None, [where, item["msg"].removeprefix("Value error, ")]))
    if item["type"] == "missing":  # what came is the whole block around it
        return f"{where}: {item['msg']}"
    return f"{where or 'config'}: {item['msg']} (got {item['input']!r})"
