"""Captions and references of any maker from JSON, JSON lines or CSV; what is wrong is one sentence that names it.

Forms: COCO results `[{image_id, caption}]`; COCO annotations `{images, annotations}`; lists with everything
`[{image_id, references, candidate}]`, as JSON or one object a line; CSV with the columns image_id and caption (a row
for each reference), or image_id, candidate, reference_1, reference_2, ... Knows nothing of metrics.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from raycap.score.files import SAID, Row, ScoreInputError, listed, read_content

ImageId: TypeAlias = "int | str"
WANTED = ("references", "captions")


@dataclass(frozen=True)
class Candidates:
    """One caption an image, and what people said where the file holds that too."""

    path: str
    captions: dict[ImageId, str]
    references: References | None


@dataclass(frozen=True)
class References:
    """What people said of each image."""

    path: str
    captions: dict[ImageId, list[str]]


def read_candidates(path: str) -> Candidates:
    """Captions to score.

    Raises:
        ScoreInputError: not readable as one of the forms, a duplicate, a caption that is not a string.
    """
    captions: dict[ImageId, str] = {}
    references: dict[ImageId, list[str]] = {}
    rows = listed(path, read_content(path))
    for row in rows:
        image = _image_id(row)
        if image in captions:
            raise ScoreInputError(f"{path} has two captions of image {image!r}; one is scored")
        captions[image] = _caption(row, image, SAID)
        wanted = _wanted(row, image)
        if wanted is not None:
            references[image] = wanted
    _one_kind(path, captions)
    if references and len(references) < len(captions):
        image = next(image for image in captions if image not in references)
        raise ScoreInputError(f"{path} has references of some images and none of image {image!r}")
    return Candidates(path, captions, References(path, references) if references else None)


def read_references(path: str) -> References:
    """References from COCO annotations, a list or CSV; their order is the file's (COCO: that of its images).

    Raises:
        ScoreInputError: not readable as one of the forms, an image without references, a reference that is no string.
    """
    content = read_content(path)
    captions: dict[ImageId, list[str]] = {}
    if isinstance(content, dict):
        rows: Iterable[Row] = _annotations(path, content, captions)
    else:
        rows = listed(path, content)
    for row in rows:
        image = _image_id(row)
        own = None if isinstance(content, dict) else _wanted(row, image)
        if own is not None and image in captions:
            raise ScoreInputError(f"{path} lists image {image!r} twice")
        if own is not None:
            captions[image] = own
        elif isinstance(content, dict) and image not in captions:
            raise ScoreInputError(f"{row.where}: image {image!r} is not among the file's images")
        else:
            captions.setdefault(image, []).append(_caption(row, image, ("caption", "reference")))
    for image, found in captions.items():
        if not found:
            raise ScoreInputError(
                f"{path} has no reference caption of image {image!r}; give at least one, or leave the image out"
            )
    _one_kind(path, captions)
    return References(path, captions)


def pair(candidates: Candidates, references: References) -> dict[ImageId, str]:
    """The captions in the references' order, by the references' ids.

    Raises:
        ScoreInputError: an image of one file that is not in the other, or ids of another kind.
    """
    said = _same_kind(candidates, references)
    here, there = candidates.path, references.path
    unknown = [image for image in said if image not in references.captions]
    if unknown:
        raise ScoreInputError(
            f"{here} has a caption of image {unknown[0]!r}, which is not in {there}{_more(unknown)}"
        )
    missing = [image for image in references.captions if image not in said]
    if missing:
        raise ScoreInputError(
            f"{here} has no caption of image {missing[0]!r}, which {there} has{_more(missing)}; every image is scored"
        )
    return {image: said[image] for image in references.captions}


def _more(images: list[ImageId]) -> str:
    return f" (and {len(images) - 1:,} more)" if len(images) > 1 else ""


def _same_kind(candidates: Candidates, references: References) -> Mapping[ImageId, str]:
    """The captions by ids of the references' kind: CSV knows only text, so its whole numbers become numbers."""
    said, known = candidates.captions, references.captions
    ours, theirs = next(iter(said)), next(iter(known))
    if type(ours) is type(theirs):
        return said
    csvs = [path for path in (candidates.path, references.path) if path.lower().endswith(".csv")]
    if candidates.path in csvs and all(_is_number(image) for image in said):
        return {int(image): caption for image, caption in said.items()}
    if references.path in csvs and all(_is_number(image) for image in known):
        return {str(image): caption for image, caption in said.items()}
    raise ScoreInputError(
        f"image ids are {_kind(ours)} in {candidates.path} and {_kind(theirs)} in {references.path}; "
        "write them the same way"
    )


def _kind(image: ImageId) -> str:
    return f"{'numbers' if isinstance(image, int) else 'text'} ({image!r:.80})"


def _is_number(image: ImageId) -> bool:
    text = str(image)
    return len(text) < 19 and text.isascii() and text.isdigit() and str(int(text)) == text


def _one_kind(path: str, images: Iterable[ImageId]) -> None:
    first: dict[type, ImageId] = {}
    for image in images:
        first.setdefault(type(image), image)
    if not first:
        raise ScoreInputError(f"{path} holds no captions")
    if len(first) > 1:
        one, other = first.values()
        raise ScoreInputError(
            f"{path} mixes image ids that are {_kind(one)} and {_kind(other)}; write all of them the same way"
        )


def _image_id(row: Row) -> ImageId:
    if "image_id" not in row.content:
        raise ScoreInputError(f"{row.where} has no image_id")
    image = row.content["image_id"]
    if isinstance(image, bool) or not isinstance(image, (int, str)) or image == "":
        raise ScoreInputError(f"{row.where}: image_id must be a whole number or text and is {image!r}")
    return image


def _caption(row: Row, image: ImageId, names: tuple[str, ...]) -> str:
    found = [name for name in names if name in row.content]
    if len(found) != 1:
        wanted = " or ".join(names)
        problem = f"has no {wanted}" if not found else f"has both {' and '.join(found)}"
        raise ScoreInputError(f"{row.where} (image {image!r}) {problem}")
    caption = row.content[found[0]]
    if not isinstance(caption, str):
        raise ScoreInputError(
            f"the caption of image {image!r} ({row.where}) must be a string and is {caption!r}"
        )
    return caption


def _wanted(row: Row, image: ImageId) -> list[str] | None:
    """The references that stand in the row itself; None where it has no place for them."""
    name = next((name for name in WANTED if name in row.content), None)
    if name is None:
        return None
    captions = row.content[name]
    if not isinstance(captions, list):
        raise ScoreInputError(
            f"{name} of image {image!r} ({row.where}) must be a list of captions and are {captions!r}"
        )
    if not captions:
        raise ScoreInputError(f"image {image!r} ({row.where}) has no reference caption; give at least one")
    for caption in captions:
        if not isinstance(caption, str):
            raise ScoreInputError(
                f"a reference of image {image!r} ({row.where}) must be a string and is {caption!r}"
            )
    return captions


def _annotations(path: str, content: dict[str, Any], captions: dict[ImageId, list[str]]) -> Iterator[Row]:
    """Rows of COCO annotations; `captions` gets an empty list for each of its images first, in their order."""
    images, annotations = content.get("images"), content.get("annotations")
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise ScoreInputError(f"{path} is no COCO caption file: it needs lists 'images' and 'annotations'")
    for number, image in enumerate(images):
        where = f"{path}, image entry {number}"
        if not isinstance(image, dict) or "id" not in image:
            raise ScoreInputError(f"{where} has no id")
        key = _image_id(Row(where, {"image_id": image["id"]}))
        if key in captions:
            raise ScoreInputError(f"{path} lists image {key!r} twice")
        captions[key] = []
    for number, annotation in enumerate(annotations):
        where = f"{path}, annotation {number}"
        if not isinstance(annotation, dict):
            raise ScoreInputError(f"{where} must be an object and is {annotation!r}")
        yield Row(where, annotation)
