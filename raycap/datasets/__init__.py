"""Where images and captions come from: one file a source, selected by `kind`.

A source lists records and reads one when asked (base.py); `prepare` turns them into rows.
"""

from typing import Annotated

from pydantic import Field

from raycap.datasets.base import RawRecord, Source
from raycap.datasets.coco import CocoSource
from raycap.datasets.flickr8k import Flickr8kSource
from raycap.datasets.flickr30k import Flickr30kSource
from raycap.datasets.folder import FolderSource
from raycap.datasets.shapes import ShapesSource

SourceConfig = Annotated[
    Flickr30kSource | Flickr8kSource | CocoSource | FolderSource | ShapesSource, Field(discriminator="kind")
]

__all__ = [
    "CocoSource",
    "Flickr8kSource",
    "Flickr30kSource",
    "FolderSource",
    "RawRecord",
    "ShapesSource",
    "Source",
    "SourceConfig",
]
