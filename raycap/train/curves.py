"""What is not in the loss figure, as small plots over the run: rates, speed, metrics, what the family wants watched.

Rows of metrics.jsonl in, a PNG out.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from raycap.metrics.measure import ALL_NAMES

Series = tuple[list[int], list[float]]  # optimizer steps, values
STEP_PANELS = {
    "learning rate": ("lr",),
    "gradient norm": ("gradient_norm",),
    "images a second": ("images_per_s",),
    "tokens a second": ("tokens_per_s",),
}
EPOCH_PANELS = {"validation": ALL_NAMES, "GPU memory, peak (GiB)": ("gpu_memory_gib",)}
FROM_ZERO = {"images a second", "tokens a second", "GPU memory, peak (GiB)"}
COLUMNS, MOST_POINTS = 2, 1000


def panels(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Series]]:
    """By panel, by name: what there is to draw.

    `lr` stands for all learning rates (lr_lora); what is watched has a panel for each name before a slash.
    """
    found: dict[str, dict[str, Series]] = {}
    for row in rows:
        layout = STEP_PANELS if row["kind"] == "step" else EPOCH_PANELS
        for panel, names in layout.items():
            for name in names:
                if name in row:
                    _add(found, panel, name, row["step"], row[name])
        for name in row if row["kind"] == "step" else ():
            if name.startswith("lr_"):
                _add(found, "learning rate", name, row["step"], row[name])
        for name, value in row.get("watched", {}).items():
            _add(found, name.partition("/")[0], name, row["step"], value)
    return found


def curves_figure(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A PNG with a small plot for every panel."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    drawn = panels(rows)
    lines = max(1, -(-len(drawn) // COLUMNS))
    height = 2.2 * lines + 0.3  # inches
    figure = Figure(figsize=(11, height), dpi=90)
    # Fixed places: matplotlib's own layouts draw everything twice or more, and this is drawn after every epoch.
    figure.subplots_adjust(
        left=0.08, right=0.9, bottom=0.6 / height, top=1 - 0.35 / height, wspace=0.45, hspace=0.4
    )
    for place, (panel, series) in enumerate(drawn.items(), start=1):
        axes = figure.add_subplot(lines, COLUMNS, place)
        _draw(axes, series)
        axes.set_title(panel, fontsize=10, loc="left")
        axes.set_xlim(0, rows[-1]["step"] * 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if panel in FROM_ZERO:
            axes.set_ylim(bottom=0)
    figure.supxlabel("optimizer step", fontsize=10, y=0.1 / height)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def thinned(series: Series) -> Series:
    """The lowest and the highest point of every stretch, so that few are left and no peak is lost; and the last."""
    steps, values = series
    last = len(values) - 1
    if last < MOST_POINTS:
        return series
    stride = -(-2 * len(values) // MOST_POINTS)
    kept = {last}
    for start in range(0, len(values), stride):
        stretch = range(start, min(start + stride, len(values)))
        kept |= {min(stretch, key=values.__getitem__), max(stretch, key=values.__getitem__)}
    return [steps[i] for i in sorted(kept)], [values[i] for i in sorted(kept)]


def _draw(axes: Any, series: Mapping[str, Series]) -> None:
    from matplotlib import colormaps

    many = len(series) > 8  # layers, say: in the order of a colour map, the first and last in the legend
    for number, (name, points) in enumerate(series.items()):
        colour = colormaps["viridis"](number / (len(series) - 1)) if many else f"C{number}"
        labelled = not many or number in {0, len(series) - 1}
        x, y = thinned(points)
        marker = "." if len(x) < 30 else ""
        axes.plot(
            x,
            y,
            color=colour,
            linewidth=1.2 if len(x) < 200 else 0.8,
            marker=marker,
            label=name if labelled else None,
        )
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _add(found: dict[str, dict[str, Series]], panel: str, name: str, step: int, value: float) -> None:
    steps, values = found.setdefault(panel, {}).setdefault(name, ([], []))
    steps.append(step)
    values.append(value)
