"""What a source of images is: settings that list records without reading an image, and read one when asked.

Listing happens once, where the command runs; reading happens in many tasks at the same time. Knows nothing of
Ray, of decoding, or of the rows that are written.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator

from raycap import storage
from raycap.config import ConfigError, Frozen

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "restval": "train",  # Karpathy's COCO split: validation photos that everybody trains on
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
SourcePath = Annotated[str, AfterValidator(storage.absolute)]  # workers have another working directory
PROBED_IMAGES = 20  # a folder is the images' folder when it holds any of the first so many


class RawRecord(NamedTuple):
    """One image before it is read."""

    image_id: str
    split: str  # "" where the source has none
    path: str  # file that holds the image
    captions: list[Any]  # as found: not yet checked, not even to be text
    row: int = -1  # row of a Parquet file, or number of a drawing
    problems: list[str] = []  # noqa: RUF012 - what is wrong with single lines; each costs one caption


class Source(Frozen, ABC):
    """Settings of a source, and the two things a source can do."""

    kind: str

    @abstractmethod
    def records(self) -> Iterator[RawRecord]:
        """Every image with its captions, in a fixed order, without reading any image.

        Raises:
            ConfigError: files are missing; names what was looked for and what is there.
        """

    def read(self, record: RawRecord) -> tuple[bytes, list[Any]]:
        """Encoded image and captions of a record.

        Raises:
            OSError: the file is missing or cannot be read.
        """
        return storage.read_bytes(record.path), record.captions


class FolderOfFiles(Source):
    """Settings that the sources made of files share; the command line needs them to be alike."""

    path: SourcePath
    """Folder, or URI, that holds the images and their captions."""


class FolderOfImages(FolderOfFiles):
    """Settings of published data sets, whose images lie in a folder of their own."""

    images: str = ""
    """Folder of the images below `path`; empty tries the usual names."""


class FlickrFolder(FolderOfImages):
    """Settings of the Flickr data sets, whose captions people have in several layouts."""

    layout: Literal["auto", "karpathy", "token", "csv", "parquet"] = "auto"
    """Which file to read captions from; auto takes the first there is, those with splits first."""


def bad_line(file: str, number: int, problem: str) -> RawRecord:
    """A record for a line that names no image, so that it is counted and listed."""
    return RawRecord(f"{file}:{number}", "", "", [], problems=[problem])


def find_file(folder: str, *names: str) -> str:
    """Path of the first of `names` that exists below `folder`, or ""."""
    for name in names:
        path = storage.join(folder, *name.split("/"))
        if storage.exists(path):
            return path
    return ""


def missing(folder: str, *, wanted: str) -> ConfigError:
    """The one sentence for files that are not there."""
    if not storage.exists(folder):
        return ConfigError(f"no such folder: {folder}; looked there for {wanted}")
    names = storage.list_names(folder)
    held = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return ConfigError(f"looked in {folder} for {wanted} and found {held or 'nothing'}")


def find_images(folder: str, names: Iterable[str], *, candidates: tuple[str, ...], setting: str) -> str:
    """The folder, among `candidates` below `folder`, that holds any of the first images.

    Raises:
        ConfigError: none does.
    """
    first = [name for name, _ in zip(names, range(PROBED_IMAGES), strict=False)]
    tried = (setting,) if setting else candidates
    for candidate in tried:
        place = folder if candidate == "." else storage.join(folder, *candidate.split("/"))
        if any(storage.exists(storage.join(place, *name.split("/"))) for name in first):
            return place
    wanted = f"the images ({first[0] if first else 'none is listed'}, ...) in {', '.join(tried)}"
    raise missing(folder, wanted=wanted)


def read_lines(path: str) -> Iterator[tuple[int, str]]:
    """Lines of a UTF-8 text file with their numbers from 1, without blank ones."""
    fs, inner = storage.filesystem(path)
    with fs.open_input_stream(inner) as stream:
        # a byte that is not UTF-8 becomes U+FFFD, for which its caption is rejected
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline=None)
        for number, line in enumerate(text, start=1):
            if line.strip():
                yield number, line.rstrip("\n")


def stem(name: str) -> str:
    """File name without folder and suffix."""
    return PurePosixPath(name).stem


class Grouped:
    """Captions by image name, in order of first appearance: text files have one line a caption."""

    def __init__(self) -> None:
        self.captions: dict[str, list[Any]] = {}
        self.problems: dict[str, list[str]] = {}

    def add(self, name: str, caption: Any) -> None:
        """One more caption of an image."""
        self.captions.setdefault(name, []).append(caption)

    def add_problem(self, name: str, problem: str) -> None:
        """A line of an image that cannot be used."""
        self.captions.setdefault(name, [])
        self.problems.setdefault(name, []).append(problem)

    def record(self, name: str, *, split: str, images: str) -> RawRecord:
        """The record of an image; one without captions where the name is unknown."""
        path = storage.join(images, *name.split("/"))
        return RawRecord(
            stem(name), split, path, self.captions.get(name, []), problems=self.problems.get(name, [])
        )


def numbered_captions(path: str) -> Grouped:
    """Flickr's own text layout: `1000268201.jpg#0<TAB>A child in a pink dress ...`."""
    grouped = Grouped()
    for number, line in read_lines(path):
        label, tab, caption = line.partition("\t")
        name = label.rpartition("#")[0] or label
        if tab:
            grouped.add(name, caption)
        else:
            grouped.add_problem(name, f"line {number} of {stem(path)} has no tab before its caption")
    return grouped


def karpathy_records(
    path: str, *, folder: str, candidates: tuple[str, ...], setting: str
) -> Iterator[RawRecord]:
    """Karpathy's JSON layout, of Flickr8k, Flickr30k and COCO: images with `split` and `sentences[].raw`.

    Raises:
        ConfigError: not that layout, or no image folder.
    """
    content = storage.read_json(path)
    entries = content.get("images") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise ConfigError(f"{path} is not in Karpathy's layout: it has no list of 'images'")
    names = (_karpathy_name(entry) for entry in entries if isinstance(entry, dict) and "filename" in entry)
    place = find_images(folder, names, candidates=candidates, setting=setting)
    for number, entry in enumerate(entries):
        match entry:
            case {"filename": str(), "split": str(split), "sentences": list(sentences)} if (
                split in SPLIT_NAMES
            ):
                captions = [s.get("raw") if isinstance(s, dict) else s for s in sentences]
                name = _karpathy_name(entry)
                image_id = str(entry.get("cocoid", stem(name)))
                file = storage.join(place, *name.split("/"))
                yield RawRecord(image_id, SPLIT_NAMES[split], file, captions)
            case _:
                yield bad_line(stem(path), number, "image without filename, known split or list of sentences")


def _karpathy_name(entry: dict[str, Any]) -> str:
    folder = entry.get("filepath", "")  # COCO keeps its photos in train2014/ and val2014/
    return f"{folder}/{entry['filename']}" if folder else str(entry["filename"])
