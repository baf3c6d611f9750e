"""sweep.html: a sweep as one file that asks for nothing outside itself. The report's numbers in, HTML out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from raycap.data.progress import clock_time
from raycap.tune.drawing import Trial, learning_curves, parallel_coordinates, text_of
from raycap.tune.space import Dimension


def sweep_page(report: Mapping[str, Any], dimensions: Sequence[Dimension]) -> str:
    """The page; everything is escaped here."""
    trials = report["trials"]
    metric = report["objective"]["metric"]
    name = escape(report["sweep"].rstrip("/").rsplit("/", 1)[-1])
    over = sum(trial["state"] != "begun" for trial in trials)
    summary = (
        f"{over} trials by {escape(report['algorithm'])}, scheduler {escape(report['scheduler'])}; ranked by "
        f"{escape(report['chosen_by'])}; up to {report['epochs']} epochs each"
    )
    return PAGE.format(
        title=name,
        summary=summary,
        best=_best(report),
        parallel=parallel_coordinates(trials, dimensions, report=report),
        importance=_importance(report["importance"]),
        curves=learning_curves(trials, metric=metric, report=report),
        metric=escape(metric),
        table=_table(report),
        failures=_failures(trials),
        seconds=_seconds(report),
    )


def _best(report: Mapping[str, Any]) -> str:
    if not report["best"]:
        return ""
    best = report["trials"][0]
    return (
        f"<section><p class=best>Best is trial {best['number']}: {escape(report['reason'])}. Its checkpoint is "
        f"<code>{escape(report['best'])}</code>, served by</p><pre>{escape(report['serve'])}</pre></section>"
    )


def _importance(importance: Mapping[str, Any]) -> str:
    if not importance["settings"]:
        return "<p>Too few trials to tell.</p>"
    arrows = {1: "higher is better", -1: "lower is better", 0: ""}
    bars = "".join(
        f"<div class=name>{escape(found['name'])}</div>"
        f"<div class=bar><i style='width:{found['strength']:.1%}'></i></div>"
        f"<div class=value>{found['strength']:.2f}</div><div class=way>{arrows[found['direction']]}</div>"
        for found in importance["settings"]
    )
    return (
        f"<div class=bars>{bars}</div><p class=soft>How far each setting by itself orders the trials after epoch "
        f"{importance['epoch']}, the last that all have: Spearman's rank correlation of numbers, the correlation ratio "
        "of ranks of other values. A dozen trials tell only strong effects from chance.</p>"
    )


def _table(report: Mapping[str, Any]) -> str:
    trials = report["trials"]
    if not trials:
        return ""
    settings = list(trials[0]["settings"])
    first = report["objective"]["metric"]
    others = [metric for metric in trials[0].get("metrics", {}) if metric != first]
    head = ["rank", "trial", "state", "epochs", first, *settings, *others, "training", "else"]
    rows = []
    for trial in trials:
        own = " (preset)" if trial["number"] == report["baseline"] else ""
        seconds = trial["seconds"]
        training = seconds.get("training_s", 0.0)
        cells = [
            str(trial["rank"] or "–"),
            f"{trial['number']}{own}",
            trial["state"],
            str(trial["epochs"]),
            _number(trial, first),
            *(text_of(trial["settings"].get(name, "")) for name in settings),
            *(_number(trial, metric) for metric in others),
            clock_time(training),
            clock_time(max(0.0, seconds.get("total", 0.0) - training)),
        ]
        rows.append(
            f"<tr data-trial='{trial['number']}'>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        )
    heads = "".join(f"<th>{'.<br>'.join(escape(name).rsplit('.', 1))}</th>" for name in head)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _number(trial: Trial, metric: str) -> str:
    value = trial.get("metrics", {}).get(metric)
    return "" if value is None else f"{value:.4f}"


def _failures(trials: Sequence[Trial]) -> str:
    failed = [trial for trial in trials if trial["state"] == "failed"]
    if not failed:
        return ""
    items = "".join(f"<li>trial {trial['number']}: {escape(trial['reason'])}</li>" for trial in failed)
    return f"<h2>Failed</h2><ul>{items}</ul>"


def _seconds(report: Mapping[str, Any]) -> str:
    seconds = report["seconds"]
    labels = {
        "training_s": "training",
        "validation_s": "validating",
        "checkpoint_s": "checkpoints and records",
        "loading_s": "loading models",
        "startup_s": "starting and ending processes",
    }
    total = max(seconds["total_s"], 1e-9)
    bars = "".join(
        f"<div class=name>{label}</div><div class=bar><i style='width:{seconds[name] / total:.1%}'></i></div>"
        f"<div class=value>{clock_time(seconds[name])}</div><div class=way>{seconds[name] / total:.0%}</div>"
        for name, label in labels.items()
    )
    return f"<div class=bars>{bars}</div><p class=soft>Wall-clock time of all trials together, {clock_time(total)}.</p>"


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: sweep</title><style>
:root {{ color-scheme: light dark; --ink: #1c2430; --soft: #667085; --line: #e3e6ec; --card: #fff;
  --page: #f5f6f8; --mark: #1f5fa8; --first: #c4501b; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e8ebf1; --soft: #98a2b3; --line: #2d3543;
  --card: #1a202b; --page: #11151c; --mark: #7fb2ee; --first: #f08a4b; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 1240px; padding: 32px 20px 64px; background: var(--page);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 24px; margin: 0; }} h1 + p {{ margin: 2px 0 20px; color: var(--soft); }}
h2 {{ font-size: 16px; margin: 0 0 10px; }}
section {{ background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 18px 20px;
  margin-bottom: 20px; overflow-x: auto; }}
.best {{ margin: 0 0 6px; }} code, pre {{ font: 13px/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }}
pre {{ margin: 0; padding: 8px 12px; background: var(--page); border-radius: 8px; white-space: pre-wrap; }}
svg {{ display: block; width: 100%; min-width: 760px; height: auto; font: 12px system-ui, sans-serif; }}
.axis {{ stroke: var(--soft); }} .grid {{ stroke: var(--line); }}
.tick {{ fill: var(--soft); font-size: 11px; paint-order: stroke; stroke: var(--card); stroke-width: 3px; }}
.mid, .label {{ text-anchor: middle; }} .end {{ text-anchor: end; }}
.label {{ fill: var(--ink); font-weight: 600; }} .block {{ fill: var(--soft); font-weight: 400; }}
polyline {{ fill: none; stroke: var(--mark); stroke-width: 2; stroke-opacity: var(--strength);
  stroke-linejoin: round; }}
circle {{ fill: var(--mark); fill-opacity: var(--strength); }}
polyline.first {{ stroke: var(--first); stroke-width: 3; }} circle.first {{ fill: var(--first); }}
polyline.own {{ stroke-dasharray: 7 4; }}
.dim .trial:not(.on) {{ opacity: .12; }} polyline.on {{ stroke-width: 4; stroke-opacity: 1; }}
tr.on td {{ background: var(--page); }}
.bars {{ display: grid; grid-template-columns: max-content minmax(120px, 1fr) max-content max-content; gap: 6px 14px;
  align-items: center; font-size: 14px; font-variant-numeric: tabular-nums; }}
.bar {{ background: var(--page); border-radius: 4px; height: 12px; }}
.bar i {{ display: block; height: 100%; border-radius: 4px; background: var(--mark); }}
.value {{ text-align: right; }} .way, .soft {{ color: var(--soft); font-size: 13px; }} .soft {{ margin: 10px 0 0; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13.5px; }}
th, td {{ padding: 5px 14px 5px 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }}
th {{ color: var(--soft); font-weight: 500; vertical-align: bottom; }}
th:nth-child(2), td:nth-child(2) {{ position: sticky; left: -20px; padding-left: 20px; background: var(--card); }}
tbody tr:first-child td {{ font-weight: 600; color: var(--first); }}
@media (max-width: 600px) {{ .bars {{ grid-template-columns: 1fr max-content max-content; }}
  .bars .name {{ grid-column: 1 / -1; }} }}
table + h2 {{ margin-top: 18px; }} ul {{ margin: 0; padding-left: 20px; }}
</style></head><body>
<h1>{title}</h1><p>{summary}</p>
{best}
<section><h2>Settings and {metric}</h2>{parallel}
<p class=soft>A line is a trial; the best is in the warm colour, the stronger the better, the preset's own dashed.
Point at one to follow it.</p></section>
<section><h2>What ordered the trials</h2>{importance}</section>
<section><h2>{metric} over epochs</h2>{curves}</section>
<section><h2>Trials</h2>{table}{failures}</section>
<section><h2>Where the time went</h2>{seconds}</section>
<script>
const all = [...document.querySelectorAll("[data-trial]")];
function follow(number) {{
  document.body.classList.toggle("dim", number !== null);
  for (const part of all) part.classList.toggle("on", part.dataset.trial === number);
}}
for (const part of all) {{
  part.addEventListener("mouseenter", () => follow(part.dataset.trial));
  part.addEventListener("mouseleave", () => follow(null));
}}
</script>
</body></html>
"""
