"""The report of prepared rows as one HTML page: what was found in, a page out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from raycap.explore.contents import Contents
from raycap.explore.oddities import Oddity
from raycap.explore.sheets import near_caption_section, near_photo_section, sample_section
from raycap.explore.survey import Survey
from raycap.explore.words import Counts, Vocabulary
from raycap.pages import Verdict, checklist, curve, histogram, page, table

SHOWN_WORDS, SHOWN_RARE = 60, 30


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
