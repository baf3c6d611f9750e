"""What of prepared rows a person should see: captions and photos that say or look the same, and a sheet of samples."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import numpy as np

from raycap.explore.contents import Contents
from raycap.explore.similar import NearPhotos
from raycap.explore.survey import shrink
from raycap.pages import table, thumbnail

SHOWN_TEXTS, SHOWN_PAIRS, SHOWN_PHOTOS = 15, 25, 24


def shown_photos(contents: Contents) -> set[int]:
    """Places of the photos that the page shows."""
    pairs = pairs_to_show(contents)
    return {*sample_places(contents), *(place for pair in pairs for place in (pair.first, pair.second))}


def sample_places(contents: Contents) -> list[int]:
    """Photos drawn with the seed, in the order of the rows."""
    images = len(contents.survey.image_ids)
    random = np.random.default_rng(contents.options["seed"])
    chosen = random.choice(images, min(contents.options["samples"], images), replace=False)
    return sorted(chosen.tolist())


def pairs_to_show(contents: Contents) -> list[NearPhotos]:
    """Pairs of photos that lie in two splits first."""
    splits = contents.survey.splits
    ordered = sorted(contents.near_photos, key=lambda pair: splits[pair.first] == splits[pair.second])
    return ordered[:SHOWN_PHOTOS]


def near_caption_section(contents: Contents) -> str:
    """Texts that several images have, and pairs that nearly say the same."""
    own, texts = contents.survey, contents.texts
    shared = [(len(set(images)), place) for place, images in enumerate(texts.images) if len(set(images)) > 1]
    captions = sum(len(texts.images[place]) for _, place in shared)
    top = sorted(shared, key=lambda item: (-item[0], item[1]))[:SHOWN_TEXTS]
    exact = [(own.captions[texts.example[place]], count) for count, place in top]
    pairs = [
        (
            f"{pair.alike:.2f}",
            *(f"{own.captions[texts.example[place]]}" for place in (pair.first, pair.second)),
        )
        for pair in contents.near_captions[:SHOWN_PAIRS]
    ]
    return (
        "<h2>Captions of different photos that say the same</h2>"
        f"<p>{captions:,} captions ({captions / max(len(own.captions), 1):.1%}) have the very words of another photo's "
        f"caption, punctuation and capitals aside; {len(contents.near_captions):,} pairs nearly so "
        "<small>(0.7 or more of their words and pairs of words shared)</small>.</p>"
        + (table(("the same words", "photos"), exact) if exact else "")
        + (table(("alike", "one", "the other"), pairs, text=(1, 2)) if pairs else "")
    )


def near_photo_section(contents: Contents, photos: Mapping[int, bytes]) -> str:
    """Pairs of photos that look the same."""
    own = contents.survey
    cards = []
    for pair in pairs_to_show(contents):
        places = (pair.first, pair.second)
        images = "".join(f'<img src="{thumbnail(shrink(photos[place]))}" alt="">' for place in places)
        splits = [own.splits[place] for place in places]
        how = (
            "the same file"
            if pair.same_file
            else f"{pair.bits} of 128 bits and {pair.grey:.1f} grey levels apart"
        )
        leak = f"<p class=bad>in {splits[0]} and in {splits[1]}</p>" if splits[0] != splits[1] else ""
        lines = "".join(f"<li>{escape(text)}</li>" for place in places for text in own.captions_of(place)[:1])
        names = " and ".join(escape(own.image_ids[place]) for place in places)
        cards.append(
            f"<article><div class=pair>{images}</div><div class=text>{leak}<ul>{lines}</ul>"
            f"<p class=id>{names}: {how}</p></div></article>"
        )
    shown = f"<div class=cards>{''.join(cards)}</div>" if cards else "<p>None found.</p>"
    more = len(contents.near_photos) - len(cards)
    return (
        "<h2>Photos that look the same</h2><p class=soft>Same files, and photos whose perceptual hashes and small "
        f"grey pictures hardly differ{f'; {more:,} more pairs are not shown' if more else ''}.</p>{shown}"
    )


def sample_section(contents: Contents, photos: Mapping[int, bytes]) -> str:
    """Photos with all that people wrote about them."""
    own = contents.survey
    cards = "".join(
        f'<article><img src="{thumbnail(shrink(photos[place]))}" alt=""><div class=text><ul>'
        + "".join(f"<li>{escape(text)}</li>" for text in own.captions_of(place))
        + f"</ul><p class=id>{escape(own.image_ids[place])}, {escape(own.splits[place])}, "
        f"{own.looks[place].width} x {own.looks[place].height}</p></div></article>"
        for place in sample_places(contents)
    )
    seed = contents.options["seed"]
    return (
        f"<h2>A sheet of samples</h2><p class=soft>Drawn with seed {seed}.</p><div class=cards>{cards}</div>"
    )
