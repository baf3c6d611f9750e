"""Flickr30k as people have it: Karpathy's JSON, the original token file, Kaggle's CSV, or the hub's Parquet.

The original is https://shannon.cs.illinois.edu/DenotationGraph; the splits are
https://cs.stanford.edu/people/karpathy/deepimagesent. Only the JSON and the hub's files carry splits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

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

FILES = {
    "karpathy": (
        "dataset_flickr30k.json",
        "flickr30k/dataset_flickr30k.json",
        "karpathy/dataset_flickr30k.json",
    ),
    "token": ("results_20130124.token", "flickr30k/results_20130124.token"),
    "csv": ("results.csv", "flickr30k_images/results.csv"),
}
IMAGES = (
    "flickr30k-images",
    "flickr30k_images",
    "flickr30k_images/flickr30k_images",  # as Kaggle's archive unpacks
    "Images",
    "images",
    ".",
)


class Flickr30kSource(FlickrFolder):
    """Flickr30k: 31,783 photos with five captions each."""

    kind: Literal["flickr30k"] = "flickr30k"

    def records(self) -> Iterator[RawRecord]:
        layout, file = self._find()
        if layout == "parquet":
            return parquet_records(self.path)
        if layout == "karpathy":
            return karpathy_records(file, folder=self.path, candidates=IMAGES, setting=self.images)
        return self._text_records(numbered_captions(file) if layout == "token" else kaggle_captions(file))

    def read(self, record: RawRecord) -> tuple[bytes, list[Any]]:
        if record.row >= 0:
            return read_parquet_image(record), record.captions
        return super().read(record)

    def _find(self) -> tuple[str, str]:
        for layout, names in FILES.items():
            if self.layout in ("auto", layout) and (file := find_file(self.path, *names)):
                return layout, file
        if self.layout in ("auto", "parquet") and parquet_files(self.path):
            return "parquet", ""
        first = {layout: names[0] for layout, names in FILES.items()} | {"parquet": "*.parquet"}
        wanted = [name for layout, name in first.items() if self.layout in ("auto", layout)]
        raise missing(self.path, wanted=" or ".join(wanted))

    def _text_records(self, grouped: Grouped) -> Iterator[RawRecord]:
        images = find_images(self.path, grouped.captions, candidates=IMAGES, setting=self.images)
        for name in grouped.captions:
            yield grouped.record(name, split="", images=images)


def kaggle_captions(path: str) -> Grouped:
    """`image_name| comment_number| comment`; one line of the published file lacks its second separator."""
    grouped = Grouped()
    for number, line in read_lines(path):
        fields = [field.strip() for field in line.split("|", 2)]
        if fields[0] == "image_name":
            continue
        if len(fields) == 3:
            grouped.add(fields[0], fields[2])
        else:
            grouped.add_problem(fields[0], f"line {number} of results.csv has {len(fields)} of 3 fields")
    return grouped
