"""Two checkpoints' captions of the same photos as one HTML file: photo, both captions, what people wrote.

The page asks for nothing outside itself. Which photos and captions it gets is runs/photos.py's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from raycap.pages import page, table
from raycap.score.report import comparison_rows

LEADING = "cider_d"  # the metric whose sentence stands first


@dataclass(frozen=True)
class Card:
    """A photo with what both said."""

    image_id: str
    photo: str  # a data URI
    captions: tuple[str, str]
    cider_d: tuple[float, float] | None
    """Of each caption by itself, where there are references."""
    references: Sequence[str]


def compare_page(
    names: tuple[str, str],
    cards: Sequence[Card],
    *,
    overview: Sequence[tuple[str, str, str]],
    comparison: Mapping[str, Any],
    sentences: Sequence[str],
    conditions: str,
    note: str,
) -> str:
    """The page; everything is escaped here.

    Args:
        names: of the two.
        cards: in the order shown.
        overview: rows of a label and both values, the first of them the head.
        comparison: metrics as `raycap score --compare` reports them; empty where there is none.
        sentences: what the comparison says, or why there is none.
        conditions: on what the captions are compared.
        note: which photos these are and where the captions come from.
    """
    one, other = names
    body = (
        f"{_lead(comparison, sentences)}<h2>What they are</h2>{_overview(overview)}{_comparison(names, comparison)}"
        f"{_in_words(sentences) if comparison else ''}<h2>Photos</h2><p class=soft>{escape(note)}</p>"
        f"<p class=legend><span class=one>{escape(one)}</span> <span class=other>{escape(other)}</span></p>"
        f"<div class=cards>{''.join(map(_card, cards))}</div>"
    )
    return page(f"{one} against {other}", subtitle=conditions, body=body, style=STYLE)


def _lead(comparison: Mapping[str, Any], sentences: Sequence[str]) -> str:
    """What the metric that decides says; without a comparison, why there is none."""
    said = comparison[LEADING]["sentence"] if LEADING in comparison else " ".join(sentences)
    return f"<p class=lead>{escape(said)}</p>"


def _overview(rows: Sequence[tuple[str, str, str]]) -> str:
    head, *body = rows
    return f"<div class=overview>{table(head, body, text=(0, 1, 2))}</div>"


def _comparison(names: tuple[str, str], comparison: Mapping[str, Any]) -> str:
    if not comparison:
        return ""
    head = ("metric", *names, "difference", "95 % interval", "p")
    return f"<h2>Is one really better?</h2>{table(head, comparison_rows(comparison))}"


def _in_words(sentences: Sequence[str]) -> str:
    lines = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f"<details><summary>in words</summary><ul>{lines}</ul></details>"


def _card(card: Card) -> str:
    scores = [f" <small>{value:.2f}</small>" for value in card.cider_d] if card.cider_d else ["", ""]
    said = "".join(
        f"<p class={kind}>{escape(caption) or '(nothing)'}{score}</p>"
        for kind, caption, score in zip(("one", "other"), card.captions, scores, strict=True)
    )
    references = "".join(f"<li>{escape(text)}</li>" for text in card.references)
    name = escape(card.image_id)
    return (
        f'<article><img src="{escape(card.photo)}" alt="{name}" loading="lazy"><div class=text>{said}'
        f"<ul>{references}</ul><p class=id>{name}</p></div></article>"
    )


STYLE = """
:root { --one: #1f5fa8; --other: #b4491a; }
@media (prefers-color-scheme: dark) { :root { --one: #7fb2ee; --other: #f0a06c; } }
.lead { font-size: 18px; margin: 18px 0 0; max-width: 80ch; }
.one { color: var(--one); } .other { color: var(--other); }
.legend { position: sticky; top: 0; margin: 0 0 4px; padding: 8px 0; background: var(--page); font-weight: 600; }
.legend span { margin-right: 20px; }
.overview td { overflow-wrap: anywhere; } .overview td:first-child { color: var(--soft); }
.cards { grid-template-columns: repeat(auto-fill, minmax(min(330px, 100%), 1fr)); }
article img { height: 240px; }
.text .one, .text .other { margin: 0 0 8px; font-size: 16px; font-weight: 600; } .text small { font-weight: 400; }
article li { color: var(--soft); }
"""
