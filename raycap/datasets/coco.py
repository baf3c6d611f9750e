"""COCO captions: the official captions_*.json files, each for a split, or Karpathy's JSON.

Lin et al., "Microsoft COCO: Common Objects in Context" (https://cocodataset.org). The official test captions
are kept back, so papers use Karpathy's splits, in which `restval` photos are trained on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from raycap import storage
from raycap.config import ConfigError
from raycap.datasets.base import (
    FolderOfImages,
    RawRecord,
    bad_line,
    find_file,
    find_images,
    karpathy_records,
    missing,
    stem,
)

KARPATHY = ("dataset_coco.json", "annotations/dataset_coco.json", "karpathy/dataset_coco.json")
YEARS = ("2014", "2017")


class CocoSource(FolderOfImages):
    """COCO: 123,287 photos with five captions each."""

    kind: Literal["coco"] = "coco"
    train_files: tuple[str, ...] = ()
    """Official caption files to train on, below `path`; where none is given for any split they are found."""
    val_files: tuple[str, ...] = ()
    """Official caption files to validate on."""
    test_files: tuple[str, ...] = ()
    """Official caption files to test on."""

    def records(self) -> Iterator[RawRecord]:
        given = {"train": self.train_files, "val": self.val_files, "test": self.test_files}
        if not any(given.values()):
            if file := find_file(self.path, *KARPATHY):
                return karpathy_records(
                    file, folder=self.path, candidates=(".", "images"), setting=self.images
                )
            given = self._find_official()
        return self._official_records(given)

    def _find_official(self) -> dict[str, tuple[str, ...]]:
        """The caption files of one year.

        Raises:
            ConfigError: none, or those of both years, which hold the same photos.
        """
        found = {
            year: {
                split: tuple(name for name in _names(split, year) if find_file(self.path, name))[:1]
                for split in ("train", "val")
            }
            for year in YEARS
        }
        years = [year for year in YEARS if any(found[year].values())]
        if not years:
            raise missing(
                self.path, wanted=f"annotations/captions_train2017.json and the like, or {KARPATHY[0]}"
            )
        if len(years) > 1:
            raise ConfigError(
                f"{self.path} has caption files of {' and '.join(years)}, which hold the same photos; "
                "name the ones to use in source.train_files, val_files and test_files"
            )
        return found[years[0]]

    def _official_records(self, files: dict[str, tuple[str, ...]]) -> Iterator[RawRecord]:
        for split, names in files.items():
            for name in names:
                path = find_file(self.path, name)
                if not path:
                    raise missing(self.path, wanted=name)
                yield from self._file_records(path, split)

    def _file_records(self, path: str, split: str) -> Iterator[RawRecord]:
        content = storage.read_json(path)
        match content:
            case {"images": list(images), "annotations": list(annotations)}:
                pass
            case _:
                raise ConfigError(
                    f"{path} is no COCO caption file: it needs lists 'images' and 'annotations'"
                )
        captions: dict[str, list[object]] = {}
        for number, annotation in enumerate(annotations):
            match annotation:
                case {"image_id": image_id, "caption": caption}:
                    captions.setdefault(str(image_id), []).append(caption)
                case _:
                    yield bad_line(stem(path), number, "annotation without image_id and caption")
        place = self._find_images(path, images)
        for image in images:
            match image:
                case {"id": image_id, "file_name": str(name)}:
                    file = storage.join(place, *name.split("/"))
                    yield RawRecord(str(image_id), split, file, captions.pop(str(image_id), []))
        for image_id in captions:
            yield RawRecord(
                image_id, split, "", [], problems=[f"{stem(path)} has its captions but not the image"]
            )

    def _find_images(self, path: str, images: list[object]) -> str:
        part = stem(path).removeprefix("captions_")
        names = (
            str(image["file_name"]) for image in images if isinstance(image, dict) and "file_name" in image
        )
        candidates = (part, f"images/{part}", "images", ".")
        return find_images(self.path, names, candidates=candidates, setting=self.images)


def _names(split: str, year: str) -> tuple[str, str]:
    return f"annotations/captions_{split}{year}.json", f"captions_{split}{year}.json"
