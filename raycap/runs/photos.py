"""Which photos two checkpoints are shown on, and their captions of them: an evaluation's, or made now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raycap import storage
from raycap.config import ConfigError
from raycap.engine import CaptionEngine
from raycap.pages import thumbnail
from raycap.runs.comparing import CompareOptions, Comparison, Pair, conditions, overview, sentences
from raycap.runs.page import Card, compare_page
from raycap.vision import BadImageError, decode_image

SUFFIXES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def write_page(comparison: Comparison, options: CompareOptions) -> str:
    """Write the page of photos with both captions; returns its path.

    Photos that the two evaluations have captioned are shown with those captions, where the captions differ most first.
    Where none of the folder's photos is among them, both models caption the folder's photos now.

    Raises:
        ConfigError: no photo in the folder.
        BadImageError: a photo that cannot be read.
    """
    photos = find_photos(options.images)
    evaluated = match(photos, comparison.pair.answers[0].captions) if comparison.pair else {}
    if comparison.pair and evaluated:
        cards = evaluated_cards(comparison.pair, evaluated, limit=options.num_images)
        note = (
            f"{len(cards)} of the {len(evaluated)} photos that both evaluations captioned, those first where the "
            "captions' own CIDEr-D (small numbers) differ most"
        )
    else:
        cards = captioned_cards(comparison, photos, options)
        note = f"{len(cards)} of {len(photos)} photos of {options.images}, captioned for this page"
    page = compare_page(
        (comparison.sides[0].name, comparison.sides[1].name),
        cards,
        overview=overview(comparison),
        comparison=comparison.pair.comparison["metrics"] if comparison.pair else {},
        sentences=sentences(comparison),
        conditions=conditions(comparison.pair) if comparison.pair else "",
        note=note,
    )
    output = storage.absolute(options.output)
    storage.write_bytes(output, page.encode())
    return output


def find_photos(folder: str) -> dict[str, str]:
    """Paths of the photos below a folder or URI by their path there, in order.

    Raises:
        ConfigError: there is none.
    """
    folder = storage.absolute(folder)
    names = [name for name in storage.list_files(folder) if name.lower().endswith(SUFFIXES)]
    if not names:
        raise ConfigError(f"no photo below {folder} (looked for {', '.join(SUFFIXES)})")
    return {name: storage.join(folder, *name.split("/")) for name in names}


def match(photos: Mapping[str, str], image_ids: Mapping[str, object]) -> dict[str, str]:
    """Paths of the photos that have these image ids: their path in the folder, or its last part, less its suffix."""
    known: dict[str, str] = {}
    for name, path in photos.items():
        last = name.rpartition("/")[2]
        for key in (name, name.rpartition(".")[0], last, last.rpartition(".")[0]):
            known.setdefault(key, path)
    return {image_id: known[image_id] for image_id in image_ids if image_id in known}


def evaluated_cards(pair: Pair, photos: Mapping[str, str], *, limit: int) -> list[Card]:
    """Photos with both evaluations' captions, the largest difference in CIDEr-D first."""
    scores = pair.cider_d()
    chosen = sorted(photos, key=lambda image_id: -abs(scores[image_id][0] - scores[image_id][1]))[:limit]
    one, other = pair.answers
    return [
        Card(
            image_id,
            read_thumbnail(photos[image_id]),
            (one.captions[image_id], other.captions[image_id]),
            scores[image_id],
            one.references[image_id],
        )
        for image_id in chosen
    ]


def captioned_cards(comparison: Comparison, photos: Mapping[str, str], options: CompareOptions) -> list[Card]:
    """The first photos of the folder, captioned by both models now."""
    names = list(photos)[: options.num_images]
    thumbnails = [read_thumbnail(photos[name]) for name in names]  # before any model is loaded
    images = [storage.read_bytes(photos[name]) for name in names]
    one, other = (caption_all(side.path, images, options) for side in comparison.sides)
    return [
        Card(name, photo, (ours, theirs), None, [])
        for name, photo, ours, theirs in zip(names, thumbnails, one, other, strict=True)
    ]


def read_thumbnail(path: str) -> str:
    """A photo as a small data URI.

    Raises:
        BadImageError: it cannot be read; names it.
    """
    try:
        return thumbnail(decode_image(storage.read_bytes(path)))
    except BadImageError as error:
        raise BadImageError(f"{path}: {error}; take it out of the folder") from None


def caption_all(path: str, images: Sequence[bytes], options: CompareOptions) -> list[str]:
    """One checkpoint's captions."""
    engine = CaptionEngine.load(path, **options.of_engine())
    return [caption.text for caption in engine.caption(list(images))]
