"""What a person looks at: the loss figure and the page of samples. Numbers and captions in, bytes out."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

SMOOTHING = 0.9  # of the drawn training loss
SKIPPED = {"kind", "samples", "sample_scores", "watched", "epoch", "step"}


@dataclass(frozen=True)
class Sample:
    """A validation photo to follow over the epochs."""

    key: int
    image_id: str
    photo: str  # a data URI
    references: list[str]

    def pixels(self) -> Image:
        """The photo, decoded."""
        from PIL import Image

        return Image.open(io.BytesIO(base64.b64decode(self.photo.partition(",")[2])))


@dataclass(frozen=True)
class SampleCaption:
    """What a sample's photo was captioned with after an epoch."""

    epoch: int
    sample: Sample
    text: str
    score: float | None
    """By the run's metric, of this photo alone; None where it is not known."""


def sample_captions(samples: Sequence[Sample], rows: Sequence[Mapping[str, Any]]) -> list[SampleCaption]:
    """The samples' captions of every epoch, oldest first, from the rows of metrics.jsonl."""
    return [
        SampleCaption(row["epoch"], sample, row["samples"][sample.image_id], scores.get(sample.image_id))
        for row in rows
        if row["kind"] == "epoch"
        for scores in [row.get("sample_scores", {})]
        for sample in samples
        if sample.image_id in row["samples"]
    ]


def loss_figure(rows: Sequence[Mapping[str, Any]], *, metric: str) -> bytes:
    """A PNG of training and validation loss per token over optimizer steps, and of the caption metric."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps = [row for row in rows if row["kind"] == "step"]
    epochs = [row for row in rows if row["kind"] == "epoch"]
    scored = [row for row in epochs if metric in row]
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    if steps:
        x, losses = [row["step"] for row in steps], [row["loss"] for row in steps]
        axes.plot(x, losses, color="#9db7d5", linewidth=0.7, label="training, each step")
        axes.plot(x, smoothed(losses), color="#1f5fa8", linewidth=1.8, label="training, smoothed")
    validated = [row for row in epochs if "val_loss" in row]
    if validated:
        x, losses = [row["step"] for row in validated], [row["val_loss"] for row in validated]
        axes.plot(x, losses, "o-", color="#c4501b", linewidth=1.8, markersize=4, label="validation")
    axes.set(xlabel="optimizer step", ylabel="loss per token (nats)")
    axes.grid(alpha=0.25)
    handles, labels = axes.get_legend_handles_labels()
    if scored:
        right = axes.twinx()
        x, scores = [row["step"] for row in scored], [row[metric] for row in scored]
        handles += right.plot(x, scores, "s--", color="#3c8c40", linewidth=1.4, markersize=4)
        labels.append(f"{metric} (right)")
        right.set(ylabel=metric, ylim=(0, max(scores) * 1.15 or 1.0))
        right.spines["top"].set_visible(False)
    figure.legend(handles, labels, frameon=False, loc="outside upper center", ncols=4)
    axes.spines["top"].set_visible(False)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def smoothed(values: Sequence[float]) -> list[float]:
    """An exponential moving average without its start-up bias (as in Adam, https://arxiv.org/abs/1412.6980)."""
    result, average = [], 0.0
    for count, value in enumerate(values, start=1):
        average = SMOOTHING * average + (1 - SMOOTHING) * value
        result.append(average / (1 - SMOOTHING**count))
    return result


def samples_page(samples: Sequence[Sample], rows: Sequence[Mapping[str, Any]], *, title: str) -> str:
    """One self-contained HTML page: the epochs' metrics, then photo, generated caption and references."""
    epochs = [row for row in rows if row["kind"] == "epoch"]
    cards = "\n".join(_card(sample, epochs) for sample in samples)
    state = f"epoch {epochs[-1]['epoch']}, step {epochs[-1]['step']}" if epochs else "no epoch finished yet"
    return PAGE.format(title=html.escape(title), state=state, table=_table(epochs), cards=cards)


def _table(epochs: Sequence[Mapping[str, Any]]) -> str:
    if not epochs:
        return ""
    names = [name for name in epochs[-1] if name not in SKIPPED]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ["epoch", "step", *names])
    body = "".join(
        f"<tr><td>{row['epoch']}</td><td>{row['step']}</td>"
        + "".join(f"<td>{row[name]:.3f}</td>" if name in row else "<td></td>" for name in names)
        + "</tr>"
        for row in epochs
    )
    return f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _card(sample: Sample, epochs: Sequence[Mapping[str, Any]]) -> str:
    captions = [
        (row["epoch"], row["samples"][sample.image_id]) for row in epochs if sample.image_id in row["samples"]
    ]
    newest = html.escape(captions[-1][1]) if captions else "…"
    references = "".join(f"<li>{html.escape(text)}</li>" for text in sample.references)
    earlier = "".join(
        f"<li><b>{epoch}</b> {html.escape(text)}</li>" for epoch, text in reversed(captions[:-1])
    )
    details = (
        f"<details><summary>earlier epochs</summary><ul class=earlier>{earlier}</ul></details>"
        if earlier
        else ""
    )
    name = html.escape(sample.image_id)
    return (
        f'<article><figure><img src="{sample.photo}" alt="{name}"></figure><div class=text>'
        f"<p class=generated>{newest}</p><ul class=references>{references}</ul>{details}"
        f"<p class=id>{name}</p></div></article>"
    )


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: samples</title><style>
:root {{ color-scheme: light dark; --ink: #1c2430; --soft: #667085; --line: #e3e6ec; --card: #fff;
  --page: #f5f6f8;  --mark: #1f5fa8; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e8ebf1; --soft: #98a2b3; --line: #2d3543;
  --card: #1a202b; --page: #11151c; --mark: #7fb2ee; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 1180px; padding: 32px 20px 64px; background: var(--page);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 24px; margin: 0; }} h1 + p {{ margin: 2px 0 20px; color: var(--soft); }}
.scroll {{ overflow-x: auto; margin-bottom: 28px; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }}
th, td {{ padding: 5px 14px 5px 0; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }}
th {{ color: var(--soft); font-weight: 500; }} tbody tr:last-child td {{ font-weight: 600; }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 20px; }}
article {{ background: var(--card); border: 1px solid var(--line); border-radius: 12px; overflow: hidden; }}
figure {{ margin: 0; background: var(--line); }}
img {{ display: block; width: 100%; height: 240px; object-fit: contain; }}
.text {{ padding: 14px 16px 12px; }}
.generated {{ margin: 0 0 10px; font-size: 17px; font-weight: 600; color: var(--mark); }}
ul {{ margin: 0; padding: 0; list-style: none; }}
.references li {{ padding: 3px 0 3px 12px; border-left: 2px solid var(--line); color: var(--soft); font-size: 14px; }}
details {{ margin-top: 10px; font-size: 13px; color: var(--soft); }}
.earlier b {{ display: inline-block; min-width: 22px; }}
.id {{ margin: 10px 0 0; font-size: 12px; color: var(--soft); overflow-wrap: anywhere; }}
</style></head><body>
<h1>{title}</h1><p>{state}; validation photos, the generated caption in colour, what people wrote below it</p>
{table}
<main>
{cards}
</main>
</body></html>
"""
