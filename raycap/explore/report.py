"""The report of prepared rows as one HTML page: what was found in, a page out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from raycap.explore.oddities import Oddity
from raycap.explore.similar import NearCaptions, NearPhotos, Texts
from raycap.explore.survey import Survey, shrink
from raycap.explore.words import Counts, Vocabulary
from raycap.pages import Verdict, checklist, curve, histogram, page, table, thumbnail

SHOWN_WORDS, SHOWN_RARE = 60, 30
SHOWN_TEXTS, SHOWN_PAIRS, SHOWN_PHOTOS = 15, 25, 24


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


def explore_page(contents: Contents, verdicts: Sequence[Verdict], photos: Mapping[int, bytes]) -> str:
    """The whole report; `photos` are those of `shown_photos`, encoded."""
    own = contents.survey
    images, captions = len(own.image_ids), len(own.captions)
    only = f", the first {contents.limit:,} of each split" if contents.limit else ""
    body = [
        "<h2>First of all</h2>" + checklist(verdicts),
        split_section(contents),
        length_section(contents),
        vocabulary_section(contents.vocabulary),
        size_section(own),
        oddity_section(contents.oddities),
        near_caption_section(contents),
        near_photo_section(contents, photos),
        sample_section(contents, photos),
    ]
    return page(
        "The data before training",
        subtitle=f"{images:,} photos with {captions:,} captions{only}; {contents.path}",
        body="\n".join(body),
    )


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


def split_section(contents: Contents) -> str:
    """Photos and captions by split, and what `prepare` left out."""
    own = contents.survey
    images, captions = Counter(own.splits), Counter(own.splits[owner] for owner in own.owner.tolist())
    rows = [
        (name, images[name], captions[name], captions[name] / images[name], _megabytes(own, name))
        for name in images
    ]
    rejected = contents.manifest.get("rejected") or {}
    left_out = (
        f"<p class=soft><code>raycap prepare</code> left out {rejected.get('images', 0):,} photos and "
        f"{rejected.get('captions', 0):,} captions{escape(_reasons(rejected))}.</p>"
        if rejected
        else ""
    )
    return "<h2>Splits</h2>" + table(("split", "photos", "captions", "a photo", "MB"), rows) + left_out


def _megabytes(own: Survey, split: str) -> float:
    return (
        sum(look.num_bytes for look, name in zip(own.looks, own.splits, strict=True) if name == split) / 1e6
    )


def _reasons(rejected: Mapping[str, Any]) -> str:
    reasons = rejected.get("reasons") or {}
    return f" ({', '.join(f'{reason}: {count:,}' for reason, count in reasons.items())})" if reasons else ""


def length_section(contents: Contents) -> str:
    """Captions an image, words and tokens a caption."""
    own = contents.survey
    a_photo = np.bincount(own.owner, minlength=len(own.image_ids))
    charts = histogram(a_photo, label="captions a photo") + histogram(
        contents.vocabulary.lengths, label="words a caption"
    )
    numbers = [_summary("words", contents.vocabulary.lengths)]
    if contents.tokens is not None:
        charts += histogram(contents.tokens, label=f"tokens a caption, by {contents.options['tokenizer']}")
        numbers.append(_summary("tokens", contents.tokens))
    missing = (
        f"<p class=soft>Tokens: {escape(contents.without_tokens)}</p>" if contents.without_tokens else ""
    )
    head = ("a caption's", "mean", "least", "5 %", "median", "95 %", "99 %", "most")
    return f"<h2>Lengths</h2><div class=charts>{charts}</div>{table(head, numbers)}{missing}"


def _summary(name: str, values: Counts | np.ndarray[Any, Any]) -> tuple[object, ...]:
    if not len(values):
        return (name, *[""] * 7)
    marks = np.percentile(values, [0, 5, 50, 95, 99, 100], method="inverted_cdf")
    return (
        name,
        float(values.mean()),
        *(int(mark) if float(mark).is_integer() else float(mark) for mark in marks),
    )


def vocabulary_section(vocabulary: Vocabulary) -> str:
    """Size, growth, the most and the least frequent."""
    counts = vocabulary.counts
    said = sum(counts.values())
    numbers = [
        ("different words", len(counts)),
        ("words said", said),
        ("said once (hapax)", f"{vocabulary.hapax:,}, {vocabulary.hapax / max(len(counts), 1):.0%} of the vocabulary"),
        ("said five times or more", f"{sum(count >= 5 for count in counts.values()):,}, which are "
         f"{vocabulary.covered(at_least=5):.1%} of all words said"),
    ]  # fmt: skip
    xs, ys = zip(*vocabulary.growth, strict=True) if vocabulary.growth else ((), ())
    often = ", ".join(
        f"{escape(word)} <small>{count:,}</small>" for word, count in counts.most_common(SHOWN_WORDS)
    )
    once = [word for word, count in counts.items() if count == 1]
    rare = ", ".join(map(escape, once[:: max(1, len(once) // SHOWN_RARE)][:SHOWN_RARE]))
    return (
        "<h2>Vocabulary</h2><p class=soft>Words as the caption metrics split them: PTB, lower case, without "
        f"punctuation.</p><div class=charts>{curve(xs, ys, label='different words, over captions read')}</div>"
        + table(("", ""), numbers, text=(0, 1))
        + f"<h3>Most frequent</h3><p>{often}</p><h3>Some that are said once</h3><p>{rare or 'none'}</p>"
    )


def size_section(own: Survey) -> str:
    """Widths, heights, proportions and bytes."""
    readable = [look for look in own.looks if not look.problem]
    sizes = np.array([(look.width, look.height) for look in readable]).reshape(-1, 2)
    kilobytes = np.array([look.num_bytes for look in own.looks]) / 1e3
    aspect = sizes[:, 0] / np.maximum(sizes[:, 1], 1)
    charts = "".join(
        [
            histogram(
                sizes.min(axis=1, initial=1 << 30) if len(sizes) else [], label="shorter side (pixels)"
            ),
            histogram(aspect, label="width over height"),
            histogram(kilobytes, label="kilobytes"),
        ]
    )
    common = Counter(map(tuple, sizes.tolist())).most_common(5)
    named = ", ".join(f"{width} x {height} <small>{count:,}</small>" for (width, height), count in common)
    summary = [
        _summary("width", sizes[:, 0]),
        _summary("height", sizes[:, 1]),
        _summary("width / height", aspect),
        _summary("kilobytes", kilobytes),
    ]
    head = ("a photo's", "mean", "least", "5 %", "median", "95 %", "99 %", "most")
    return f"<h2>Photos</h2><div class=charts>{charts}</div>{table(head, summary)}<p>Most common sizes: {named}</p>"


def oddity_section(oddities: Sequence[Oddity]) -> str:
    """Every kind of odd caption with examples."""
    kinds = [(oddity.name, oddity.count, oddity.why) for oddity in oddities]
    parts = ["<h2>Odd captions</h2>", table(("kind", "captions", "why it matters"), kinds, text=(0, 2))]
    for oddity in oddities:
        if oddity.count:
            lines = "".join(
                f"<li>{escape(caption[:300])} <small>{escape(name)}</small></li>"
                for name, caption in oddity.examples
            )
            parts.append(
                f"<details><summary>{escape(oddity.name)}: {len(oddity.examples)} of {oddity.count:,}</summary>"
                f"<ul>{lines}</ul></details>"
            )
    return "".join(parts)


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
