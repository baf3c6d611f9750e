"""Flickr8k as people have it: Kaggle's captions.txt, the original token file with its three split lists, ...

The original is Hodosh, Young and Hockenmaier, "Framing Image Description as a Ranking Task" (JAIR 2013):
6,000 photos to train, 1,000 to validate, 1,000 to test, and 91 in no list, which are left out.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator
from typing import Any, Literal

from raycap.config import ConfigError
from raycap.datasets.base import (
    FlickrFolder,
    Grouped,
    RawRecord,
    find_file,
    find_images,
    karpathy_records,
    missing,
    numbered_captions,
    read_lines,
)
from raycap.datasets.parquet import parquet_files, parquet_records, read_parquet_image

log = logging.getLogger(__name__)

TEXT_FOLDERS = ("", "Flickr8k_text/", "flickr8k_text/")
FILES = {
    "karpathy": "dataset_flickr8k.json",
    "token": "Flickr8k.token.txt",
    "csv": "captions.txt",
    "parquet": "*.parquet",
}
SPLIT_LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
IMAGES = (
    "Images",
    "images",
    "Flicker8k_Dataset",  # so spelled in the original archive
    "Flickr8k_Dataset",
    "Flickr8k_Dataset/Flicker8k_Dataset",
    ".",
)


class Flickr8kSource(FlickrFolder):
    """Flickr8k: 8,091 photos with five captions each."""

    kind: Literal["flickr8k"] = "flickr8k"

    def records(self) -> Iterator[RawRecord]:
        layout, file = self._find()
        if layout == "parquet":
            return parquet_records(self.path)
        if layout == "karpathy":
            return karpathy_records(file, folder=self.path, candidates=IMAGES, setting=self.images)
        grouped = numbered_captions(file) if layout == "token" else kaggle_captions(file)
        names = self._split_lists(grouped) if layout == "token" else {"": list(grouped.captions)}
        return self._text_records(grouped, names)

    def read(self, record: RawRecord) -> tuple[bytes, list[Any]]:
        if record.row >= 0:
            return read_parquet_image(record), record.captions
        return super().read(record)

    def _find(self) -> tuple[str, str]:
        wanted = {layout: name for layout, name in FILES.items() if self.layout in ("auto", layout)}
        for layout, name in wanted.items():
            if layout == "parquet" and parquet_files(self.path):
                return layout, ""
            if file := find_file(self.path, *(folder + name for folder in TEXT_FOLDERS)):
                return layout, file
        raise missing(self.path, wanted=" or ".join(wanted.values()))

    def _split_lists(self, grouped: Grouped) -> dict[str, list[str]]:
        """Names by split; all without a split where there is none of the lists.

        Raises:
            ConfigError: one or two of the three lists are missing.
        """
        found = {
            split: find_file(self.path, *(folder + name for folder in TEXT_FOLDERS))
            for split, name in SPLIT_LISTS.items()
        }
        if not any(found.values()):
            return {"": list(grouped.captions)}
        if absent := [SPLIT_LISTS[split] for split, file in found.items() if not file]:
            raise ConfigError(
                f"{self.path} has some of the three split lists, but not {' and '.join(absent)}"
            )
        names = {split: [line.strip() for _, line in read_lines(file)] for split, file in found.items()}
        if unlisted := len(set(grouped.captions).difference(*names.values())):
            log.warning("%d images of %s stand in no split list and are left out", unlisted, FILES["token"])
        return names

    def _text_records(self, grouped: Grouped, names: dict[str, list[str]]) -> Iterator[RawRecord]:
        every = (name for split in names.values() for name in split)
        images = find_images(self.path, every, candidates=IMAGES, setting=self.images)
        for split, members in names.items():
            for name in members:
                yield grouped.record(name, split=split, images=images)


def kaggle_captions(path: str) -> Grouped:
    """`image,caption`; a caption that holds commas is quoted, or not."""
    grouped = Grouped()
    for number, line in read_lines(path):
        # line by line: one stray quote must not swallow the lines after it
        fields = next(csv.reader([line]))
        if number == 1 and fields[0] == "image":
            continue
        if len(fields) >= 2:
            grouped.add(fields[0], ",".join(fields[1:]))
        else:
            grouped.add_problem(fields[0], f"line {number} of captions.txt has no comma")
    return grouped
