"""Reports as one HTML file: the frame and its style, verdicts of checks, thumbnails, histograms and curves as SVG.

A page asks for nothing outside itself, runs no script, and follows the reader's light or dark setting. Whoever
builds a body escapes what people wrote (`escape`). Knows nothing of what a page is about.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import numpy as np

PHOTO_SIDE = 320  # pixels, longest side of a thumbnail
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 360, 170, 44, 22, 8  # of a chart, in SVG units
WIDEST_BAR = 48  # likewise: where all values are one, its bar is no wall

Level = Literal["bad", "warn", "good"]
LEVELS: tuple[Level, ...] = ("bad", "warn", "good")
SIGNS = {"bad": "✗", "warn": "!", "good": "✓"}


@dataclass(frozen=True)
class Verdict:
    """What a check found, and what to do about it where something is wrong."""

    level: Level
    title: str
    found: str
    advice: str = ""


def verdict(title: str, found: str, *, bad: bool = False, warn: bool = False, advice: str) -> Verdict:
    """One with the advice only where there is something to advise."""
    level: Level = "bad" if bad else "warn" if warn else "good"
    return Verdict(level, title, found, "" if level == "good" else advice)


def worst_first(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """In the order in which they should be read."""
    return sorted(verdicts, key=lambda one: LEVELS.index(one.level))


def checklist(verdicts: Sequence[Verdict]) -> str:
    """Every check with its sign and what it found."""
    items = "".join(
        f"<li class={one.level}><b>{SIGNS[one.level]}</b><div><strong>{escape(one.title)}</strong> "
        f"<span>{escape(one.found)}</span>{f'<p>{escape(one.advice)}</p>' if one.advice else ''}</div></li>"
        for one in verdicts
    )
    return f"<ul class=checks>{items}</ul>"


def page(title: str, *, subtitle: str, body: str, style: str = "") -> str:
    """A whole page; title and subtitle are escaped here, body and style are taken as they are.

    What UTF-8 cannot hold (half a surrogate pair in a caption, a file name's odd byte) stands there as \\udcff.
    """
    whole = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head><body>\n"
        f"<h1>{escape(title)}</h1><p class=soft>{escape(subtitle)}</p>\n{body}\n</body></html>\n"
    )
    return whole.encode(errors="backslashreplace").decode()


def thumbnail(image: np.ndarray[Any, Any], *, side: int = PHOTO_SIDE) -> str:
    """A photo (height, width, 3) uint8 as a small JPEG data URI, its longest side `side` pixels."""
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def png(image: np.ndarray[Any, Any]) -> str:
    """An image as Pillow's `fromarray` takes it, as a PNG data URI: every pixel as it is."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def table(head: Sequence[str], rows: Sequence[Sequence[object]], *, text: Sequence[int] = (0,)) -> str:
    """A table whose cells are escaped; columns in `text` are set left, the others are numbers set right."""

    def line(tag: str, cells: Sequence[object]) -> str:
        kinds = [" class=t" if index in text else "" for index in range(len(cells))]
        made = [f"<{tag}{kind}>{_cell(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True)]
        return f"<tr>{''.join(made)}</tr>"

    body = "".join(line("td", row) for row in rows)
    return f"<div class=scroll><table><thead>{line('th', head)}</thead><tbody>{body}</tbody></table></div>"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return _number(value)
    return f"{value:,}" if isinstance(value, int) else escape(str(value))


def _number(value: float) -> str:
    """Three or four digits that matter, never an exponent for large numbers."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _span(low: float, high: float, *, whole: bool) -> str:
    """What a bar counts."""
    return f"{round((low + high) / 2)}" if whole else f"{_number(low)} to {_number(high)}"


def histogram(values: Sequence[float] | np.ndarray[Any, Any], *, label: str, bins: int = 30) -> str:
    """Bars of how often values occur, whole numbers each in a bar of their own where there are few."""
    array = np.asarray(values, dtype=float)
    if not array.size:
        return ""
    low, high = float(array.min()), float(array.max())
    whole = bool((array == np.round(array)).all()) and high - low < 2 * bins
    edges = (
        np.arange(low - 0.5, high + 1)
        if whole
        else np.linspace(low, high if high > low else low + 1, bins + 1)
    )
    counts, edges = np.histogram(array, bins=edges)
    left, right, top = float(edges[0]), float(edges[-1]), int(counts.max())
    width = (WIDTH - LEFT - 4) / len(counts)
    drawn = min(max(width - 1, 0.5), WIDEST_BAR)
    bars = "".join(
        f"<rect x={LEFT + (index + 0.5) * width - drawn / 2:.1f} y={_y(count / top):.1f} width={drawn:.1f} "
        f"height={_y(0) - _y(count / top):.1f}><title>{_span(edges[index], edges[index + 1], whole=whole)}: {count:,}"
        "</title></rect>"
        for index, count in enumerate(counts.tolist())
        if count
    )
    return _chart(bars, label=label, x=(low, high), ends=(left, right), top=top)


def curve(xs: Sequence[float], ys: Sequence[float], *, label: str) -> str:
    """A line through points, from zero."""
    if not xs:
        return ""
    right, top = max(*xs, 1e-9), max(*ys, 1e-9)
    points = " ".join(
        f"{LEFT + x / right * (WIDTH - LEFT - 4):.1f},{_y(y / top):.1f}"
        for x, y in zip((0, *xs), (0, *ys), strict=True)
    )
    line = f'<polyline points="{points}"/>'
    return _chart(line, label=label, x=(0, right), ends=(0, right), top=top)


def _chart(marks: str, *, label: str, x: tuple[float, float], ends: tuple[float, float], top: float) -> str:
    base = _y(0)
    marked = [(x[0], "start"), (x[1], "end")] if x[0] < x[1] else [(x[0], "middle")]
    ticks = "".join(
        f"<text x={LEFT + (value - ends[0]) / (ends[1] - ends[0]) * (WIDTH - LEFT - 4):.0f} y={HEIGHT - 6} "
        f"text-anchor={anchor}>{_number(value)}</text>"
        for value, anchor in marked
    )
    return (
        f'<figure class=chart><figcaption>{escape(label)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{escape(label)}"><line x1={LEFT} x2={WIDTH} y1={base} y2={base} />'
        f"<line x1={LEFT} x2={WIDTH} y1={TOP} y2={TOP} class=faint />{marks}{ticks}"
        f"<text x={LEFT - 6} y={base} text-anchor=end>0</text>"
        f"<text x={LEFT - 6} y={TOP + 8} text-anchor=end>{_number(top)}</text></svg></figure>"
    )


def _y(share: float) -> float:
    """Height in a chart of a share of its largest value."""
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #667085; --line: #e3e6ec; --card: #fff; --page: #f5f6f8;
  --mark: #1f5fa8; --good: #2e7d4f; --warn: #a86400; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ebf1; --soft: #98a2b3; --line: #2d3543; --card: #1a202b;
  --page: #11151c; --mark: #7fb2ee; --good: #6fcf97; --warn: #f0b454; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 32px 20px 64px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 24px; margin: 0; } h2 { font-size: 18px; margin: 36px 0 4px; }
h3 { font-size: 15px; margin: 18px 0 4px; } p { margin: 4px 0 12px; }
.soft, small { color: var(--soft); } .good { color: var(--good); } .warn { color: var(--warn); }
.bad { color: var(--bad); }
.scroll { overflow-x: auto; margin: 8px 0 12px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: 5px 18px 5px 0; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 500; } th, td { white-space: nowrap; }
th.t, td.t { text-align: left; white-space: normal; overflow-wrap: break-word; min-width: 7ch; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(330px, 100%), 1fr)); gap: 16px;
  margin: 10px 0; }
.chart { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 10px 14px; }
.chart figcaption { font-size: 13px; color: var(--soft); } .chart svg { display: block; width: 100%; }
.chart rect { fill: var(--mark); } .chart polyline { fill: none; stroke: var(--mark); stroke-width: 2; }
.chart line { stroke: var(--soft); } .chart .faint { stroke: var(--line); }
.chart text { font-size: 11px; fill: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(270px, 100%), 1fr)); gap: 18px;
  margin: 10px 0; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 12px; overflow: hidden; }
article img { display: block; width: 100%; height: 220px; object-fit: contain; background: var(--line); }
article .text { padding: 12px 14px; font-size: 14px; } article ul { margin: 0; padding: 0; list-style: none; }
article li { padding: 2px 0 2px 10px; border-left: 2px solid var(--line); margin-bottom: 3px; }
.checks { list-style: none; padding: 0; margin: 8px 0; display: grid; gap: 8px 24px; font-size: 14px;
  grid-template-columns: repeat(auto-fill, minmax(min(340px, 100%), 1fr)); }
.checks li { display: flex; gap: 10px; color: var(--ink); }
.checks li > b { width: 14px; flex: none; text-align: center; }
.checks span { color: var(--soft); } .checks p { margin: 0; }
.checks .bad b, .checks .bad strong { color: var(--bad); }
.checks .warn b, .checks .warn strong { color: var(--warn); } .checks .good b { color: var(--good); }
.id { margin: 8px 0 0; font-size: 12px; color: var(--soft); }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 2px; } .pair img { height: 150px; }
"""
