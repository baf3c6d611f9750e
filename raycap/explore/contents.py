"""All that the report of prepared rows tells, before it is a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raycap.explore.oddities import Oddity
from raycap.explore.similar import NearCaptions, NearPhotos, Texts
from raycap.explore.survey import Survey
from raycap.explore.words import Counts, Vocabulary


@dataclass(frozen=True)
class Contents:
    """All that the report tells."""

    path: str
    limit: int
    options: Mapping[str, Any]
    manifest: Mapping[str, Any]
    """What the manifest of the rows says beyond what raycap reads of it."""
    survey: Survey
    vocabulary: Vocabulary
    tokens: Counts | None
    without_tokens: str
    """Why there are none."""
    texts: Texts
    near_captions: list[NearCaptions]
    near_photos: list[NearPhotos]
    oddities: list[Oddity]
