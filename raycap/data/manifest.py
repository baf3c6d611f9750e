"""The manifests of prepared rows and of features: written last, so a folder that has one is whole."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raycap import storage
from raycap.config import ConfigError, Frozen, describe_validation_error

MANIFEST = "manifest.json"


class DataManifest(BaseModel):
    """What later stages read of the manifest that `prepare` writes; it says more."""

    model_config = ConfigDict(frozen=True, extra="allow")

    fingerprint: str
    """Hash of all that the rows depend on."""
    counts: dict[str, int]
    """Images by split."""
    files: dict[str, int] = {}
    """Bytes of the files of rows, by place."""


class FeatureFile(Frozen):
    """One Parquet file of features."""

    name: str
    rows: int = Field(gt=0)


class FeatureManifest(Frozen):
    """What `featurize` made: features of which data by which encoder, and where they lie."""

    format: int = 1
    raycap: str
    data: str
    """Folder of the prepared rows they were made from."""
    data_fingerprint: str
    limit: int
    encoder: dict[str, Any]
    """The encoder's settings (EncoderConfig)."""
    encoder_fingerprint: str
    patches: int
    vision_dim: int
    counts: dict[str, int]
    """Images by split."""
    files: dict[str, list[FeatureFile]]
    """By split, in the order of the prepared rows."""


def read_data_manifest(path: str) -> DataManifest:
    """The manifest of a folder of prepared rows.

    Raises:
        ConfigError: no finished rows there, or a manifest that is not one.
    """
    try:
        content = storage.read_json(storage.join(path, MANIFEST))
        return DataManifest.model_validate(content)
    except FileNotFoundError:
        raise ConfigError(
            f"no prepared rows at {path}: it has no {MANIFEST}; run `raycap prepare` first"
        ) from None
    except ValidationError as error:
        raise ConfigError(f"{storage.join(path, MANIFEST)}: {describe_validation_error(error)}") from None


def read_feature_manifest(folder: str) -> FeatureManifest | None:
    """The manifest of a folder of features; None where they are absent or unfinished."""
    try:
        return FeatureManifest.model_validate(storage.read_json(storage.join(folder, MANIFEST)))
    except FileNotFoundError:
        return None
