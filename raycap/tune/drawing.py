"""The pictures of a sweep's page: parallel coordinates and learning curves, as SVG. Everything is escaped here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, TypeAlias

from raycap.tune.space import Dimension

WIDTH, HEIGHT, TOP, BOTTOM, SIDE = 1120, 340, 44, 26, 70  # of the parallel coordinates, in SVG units
LETTER = 8  # SVG units that a letter of a label takes at most
CURVES = (1120, 300)
Trial: TypeAlias = Mapping[str, Any]


def parallel_coordinates(
    trials: Sequence[Trial], dimensions: Sequence[Dimension], *, report: Mapping[str, Any]
) -> str:
    """An SVG of one axis a setting and one for the metric; every trial is a line through its values."""
    metric = report["objective"]["metric"]
    shown = [trial for trial in trials if metric in trial.get("metrics", {})]
    if not shown:
        return "<p>no trial has been validated yet</p>"
    axes = [Axis.of_dimension(d, [t["settings"].get(d.name) for t in shown]) for d in dimensions]
    axes.append(Axis.of_numbers(metric, [t["metrics"][metric] for t in shown]))
    room = (
        max(len(axis.label.rpartition(".")[2]) for axis in axes) * LETTER
    )  # so that no label covers the next
    gap = max(room, (WIDTH - 2 * SIDE) / max(1, len(axes) - 1))
    width = round(2 * SIDE + gap * (len(axes) - 1)) if len(axes) > 1 else WIDTH
    places = [SIDE + number * gap for number in range(len(axes))]
    parts = [axis.drawn(x) for axis, x in zip(axes, places, strict=True)]
    for trial in reversed(shown):
        values = [*(trial["settings"].get(d.name) for d in dimensions), trial["metrics"][metric]]
        points = " ".join(
            f"{x:.1f},{axis.y(value):.1f}" for x, axis, value in zip(places, axes, values, strict=True)
        )
        parts.append(
            f"<polyline {marks(trial, len(shown), report)} points='{points}'>{tip(trial, metric)}</polyline>"
        )
    return f"<svg viewBox='0 0 {width} {HEIGHT}' role='img'>{''.join(parts)}</svg>"


class Axis:
    """A vertical axis: where a value lies, and its ticks."""

    def __init__(
        self,
        label: str,
        places: Mapping[str, float],
        ticks: Mapping[str, float],
        *,
        log: bool,
        ends: tuple[float, float],
    ) -> None:
        self.label, self.places, self.ticks, self.log, self.ends = label, places, ticks, log, ends

    @classmethod
    def of_dimension(cls, dimension: Dimension, used: Sequence[Any]) -> Axis:
        """Listed values evenly; ranges by number, or by logarithm. The preset's value, if outside, widens it."""
        listed = dimension.values if dimension.kind in {"choice", "grid"} else ()
        if listed:
            texts = list(dict.fromkeys(text_of(value) for value in (*in_order(listed), *used)))
            places = {text: (n + 0.5) / len(texts) for n, text in enumerate(texts)}
            return cls(dimension.name, places, places, log=False, ends=(0.0, 1.0))
        numbers = [float(v) for v in used if isinstance(v, int | float)]
        low, high = min([dimension.low, *numbers]), max([dimension.high, *numbers])
        return cls._of_range(dimension.name, low, high, log=dimension.is_log and low > 0)

    @classmethod
    def of_numbers(cls, label: str, values: Sequence[float]) -> Axis:
        """From the lowest to the highest."""
        low, high = min(values), max(values)
        return cls._of_range(label, low, high if high > low else low + 1e-6, log=False)

    @classmethod
    def _of_range(cls, label: str, low: float, high: float, *, log: bool) -> Axis:
        shares = (0.0, 0.5, 1.0)
        at = [low * (high / low) ** s if log else low + s * (high - low) for s in shares]
        return cls(
            label,
            {},
            {f"{value:.3g}": s for value, s in zip(at, shares, strict=True)},
            log=log,
            ends=(low, high),
        )

    def y(self, value: Any) -> float:
        """The height of a value."""
        if self.places:
            share = self.places[text_of(value)]
        else:
            low, high = self.ends
            share = math.log(value / low) / math.log(high / low) if self.log else (value - low) / (high - low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def drawn(self, x: float) -> str:
        """The axis as SVG, at a place."""
        ticks = "".join(
            f"<text class='tick' x='{x + 7:.1f}' y='{HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM) + 4:.1f}'>"
            f"{escape(text)}</text>"
            for text, share in self.ticks.items()
        )
        block, dot, last = self.label.rpartition(".")
        head = f"<tspan class='block'>{escape(block + dot)}</tspan>" if block else ""
        return (
            f"<line class='axis' x1='{x:.1f}' x2='{x:.1f}' y1='{TOP}' y2='{HEIGHT - BOTTOM}'/>{ticks}"
            f"<text class='label' x='{x:.1f}' y='14'>{head}</text>"
            f"<text class='label' x='{x:.1f}' y='30'>{escape(last)}</text>"
        )


def learning_curves(trials: Sequence[Trial], *, metric: str, report: Mapping[str, Any]) -> str:
    """An SVG of the metric over epochs, a line a trial."""
    width, height = CURVES
    curves = {
        trial["number"]: sorted(
            (int(epoch), metrics[metric]) for epoch, metrics in trial["curves"].items() if metric in metrics
        )
        for trial in trials
    }
    values = [value for curve in curves.values() for _, value in curve if math.isfinite(value)]
    if not values:
        return "<p>no epoch has been validated yet</p>"
    low, high = min(values), max(values)
    high = high if high > low else low + 1e-6
    epochs = report["epochs"]

    def place(epoch: int, value: float) -> tuple[float, float]:
        x = SIDE + (epoch - 1) / max(1, epochs - 1) * (width - 2 * SIDE)
        return x, height - 30 - (value - low) / (high - low) * (height - 50)

    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        value = low + share * (high - low)
        _, y = place(1, value)
        parts.append(f"<line class='grid' x1='{SIDE}' x2='{width - SIDE}' y1='{y:.1f}' y2='{y:.1f}'/>")
        parts.append(f"<text class='tick end' x='{SIDE - 10}' y='{y + 4:.1f}'>{value:.3f}</text>")
    for epoch in range(1, epochs + 1):
        parts.append(
            f"<text class='tick mid' x='{place(epoch, low)[0]:.1f}' y='{height - 8}'>epoch {epoch}</text>"
        )
    ranked = sum(bool(trial["rank"]) for trial in trials)
    for trial in reversed(trials):
        curve = [place(*point) for point in curves[trial["number"]] if math.isfinite(point[1])]
        if not curve:
            continue
        look, name = marks(trial, ranked, report), tip(trial, metric)
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in curve)
        dots = "".join(f"<circle {look} cx='{x:.1f}' cy='{y:.1f}' r='3.5'>{name}</circle>" for x, y in curve)
        parts.append(f"<polyline {look} points='{line}'>{name}</polyline>{dots}")
    return f"<svg viewBox='0 0 {width} {height}' role='img'>{''.join(parts)}</svg>"


def in_order(values: Sequence[Any]) -> list[Any]:
    numbers = all(isinstance(value, int | float) for value in values)
    return sorted(values) if numbers else list(values)


def text_of(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(list(value)) if isinstance(value, tuple) else str(value)


def marks(trial: Trial, ranked: int, report: Mapping[str, Any]) -> str:
    """Classes by which a trial is drawn and found: the better its rank, the stronger its line."""
    place = trial["rank"] or ranked + 1
    strength = 1.0 - 0.75 * (place - 1) / max(1, ranked)
    kinds = ["trial", "first" if place == 1 else "", "own" if trial["number"] == report["baseline"] else ""]
    return f"class='{' '.join(filter(None, kinds))}' data-trial='{trial['number']}' style='--strength:{strength:.2f}'"


def tip(trial: Trial, metric: str) -> str:
    value = trial.get("metrics", {}).get(metric)
    number = "" if value is None else f", {metric} {value:.4f}"
    settings = "; ".join(f"{name} {text_of(setting)}" for name, setting in trial["settings"].items())
    return f"<title>trial {trial['number']}{escape(number)}: {escape(settings)}</title>"
