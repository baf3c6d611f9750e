"""Two checkpoints' captions of the same photos as one HTML file: photo, both captions, what people wrote.

The page asks for nothing outside itself. Which photos and captions it gets is runs/photos.py's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from raycap.score.report import LABELS


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
    note: str,
) -> str:
    """The page; everything is escaped here.

    Args:
        names: of the two.
        cards: in the order shown.
        overview: rows of a label and both values, the first of them the head.
        comparison: metrics as `raycap score --compare` reports them; empty where there is none.
        sentences: what the comparison says.
        note: which photos these are and where the captions come from.
    """
    one, other = (escape(name) for name in names)
    return PAGE.format(
        title=f"{one} against {other}",
        legend=f"<span class=one>{one}</span> <span class=other>{other}</span>",
        overview=_table(overview),
        comparison=_comparison(names, comparison),
        sentences=_sentences(sentences, folded=bool(comparison)),
        note=escape(note),
        cards="\n".join(_card(card) for card in cards),
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    lines = "".join(f"<tr>{line}</tr>" for line in body)
    return f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"


def _comparison(names: tuple[str, str], comparison: Mapping[str, Any]) -> str:
    if not comparison:
        return ""
    rows = [["metric", *names, "difference", "95 % interval", "p"]]
    for name, found in comparison.items():
        low, high = found["interval"]
        score = found["other"] + found["difference"]
        rows.append(
            [
                LABELS[name],
                f"{score:.4f}",
                f"{found['other']:.4f}",
                f"{found['difference']:+.4f}",
                f"{low:+.4f} to {high:+.4f}",
                f"{found['p_value']:.3f}",
            ]
        )
    return _table(rows)


def _sentences(sentences: Sequence[str], *, folded: bool) -> str:
    lines = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    if folded:  # they say what the table above them says
        return f"<details class=sentences><summary>in words</summary><ul>{lines}</ul></details>"
    return f"<ul class=sentences>{lines}</ul>"


def _card(card: Card) -> str:
    scores = [f" <b>{value:.2f}</b>" for value in card.cider_d] if card.cider_d else ["", ""]
    said = "".join(
        f"<p class={kind}>{escape(caption) or '(nothing)'}{score}</p>"
        for kind, caption, score in zip(("one", "other"), card.captions, scores, strict=True)
    )
    references = "".join(f"<li>{escape(text)}</li>" for text in card.references)
    name = escape(card.image_id)
    return (
        f'<article><figure><img src="{escape(card.photo)}" alt="{name}" loading="lazy"></figure><div class=text>{said}'
        f"<ul>{references}</ul><p class=id>{name}</p></div></article>"
    )


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
:root {{ color-scheme: light dark; --ink: #1c2430; --soft: #667085; --line: #e3e6ec; --card: #fff;
  --page: #f5f6f8; --one: #1f5fa8; --other: #b4491a; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e8ebf1; --soft: #98a2b3; --line: #2d3543;
  --card: #1a202b; --page: #11151c; --one: #7fb2ee; --other: #f0a06c; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 1180px; padding: 32px 20px 64px; background: var(--page);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 24px; margin: 0 0 16px; overflow-wrap: anywhere; }}
.legend span {{ margin-right: 20px; font-weight: 600; overflow-wrap: anywhere; }}
.one {{ color: var(--one); }} .other {{ color: var(--other); }}
.scroll {{ overflow-x: auto; margin-bottom: 20px; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }}
td {{ padding: 5px 20px 5px 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }}
td:first-child {{ text-align: left; }} thead td, td:first-child {{ color: var(--soft); }}
.sentences {{ margin-bottom: 28px; }} .soft, .id {{ color: var(--soft); }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(330px, 100%), 1fr)); gap: 20px; }}
article {{ background: var(--card); border: 1px solid var(--line); border-radius: 12px; overflow: hidden; }}
figure {{ margin: 0; background: var(--line); }}
img {{ display: block; width: 100%; height: 240px; object-fit: contain; }}
.text {{ padding: 14px 16px 12px; overflow-wrap: anywhere; }}
.text p {{ margin: 0 0 8px; }} .text .one, .text .other {{ font-size: 16px; font-weight: 600; }}
.text b {{ font-size: 12px; font-weight: 500; color: var(--soft); font-variant-numeric: tabular-nums; }}
ul {{ margin: 0; padding: 0; list-style: none; }}
article li {{ padding: 3px 0 3px 12px; border-left: 2px solid var(--line); color: var(--soft); font-size: 14px; }}
.text .id {{ margin: 10px 0 0; font-size: 12px; }}
</style></head><body>
<h1>{title}</h1>
{overview}
{comparison}
{sentences}
<p class=legend>{legend}</p>
<p class=soft>{note}</p>
<main>
{cards}
</main>
</body></html>
"""
