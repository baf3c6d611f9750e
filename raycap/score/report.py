"""Captions and references to one report: scores, intervals, what stands beside them, and the table on screen.

`raycap score` and `raycap evaluate` both report this; evaluate adds the checkpoint. Knows nothing of files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table

from raycap.metrics import DocumentFrequency, PreparedReferences, baselines, bootstrap, ptb
from raycap.metrics.diversity import diversity, normalised
from raycap.metrics.measure import ChosenMeteor, Measured, measure
from raycap.score.config import ScoringOptions

LABELS = {
    "bleu_1": "BLEU-1",
    "bleu_2": "BLEU-2",
    "bleu_3": "BLEU-3",
    "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "cider_d": "CIDEr-D",
    "meteor": "METEOR",
    "spice": "SPICE",
    "clip_score": "CLIPScore",
    "ref_clip_score": "RefCLIPScore",
}
CONSTANT, NEAREST = "constant", "nearest"
COLUMNS = {CONSTANT: "one caption for all", NEAREST: "nearest training photo"}
NEAREST_RULE = "the first caption of the training image of the highest cosine of mean features"


@dataclass(frozen=True)
class Beside:
    """What is known beside captions and references."""

    training: Sequence[Sequence[str]] = ()
    """Captions of the training images; empty where they are not known."""
    nearest: Sequence[str] = ()
    """The caption of each image's nearest training image; empty where it is not known."""
    omitted: Mapping[str, str] = field(default_factory=dict)
    """Why something is not here."""


class Scorer(Protocol):
    """References that captions are measured against, wherever the work is done."""

    @property
    def document_frequency(self) -> DocumentFrequency:
        """What CIDEr-D weighs by."""

    def measure(self, captions: Sequence[str]) -> Measured:
        """One caption an image, measured."""


@dataclass(frozen=True)
class LocalScorer:
    """References in this process."""

    prepared: PreparedReferences
    meteor: ChosenMeteor | None = None

    @property
    def document_frequency(self) -> DocumentFrequency:
        """What CIDEr-D weighs by."""
        return self.prepared.document_frequency

    def measure(self, captions: Sequence[str]) -> Measured:
        """One caption an image, measured."""
        return measure(captions, self.prepared, meteor=self.meteor)


def describe(
    measured: Measured,
    scorer: Scorer,
    *,
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    options: ScoringOptions,
    beside: Beside | None = None,
) -> dict[str, Any]:
    """The report of measured captions."""
    beside = beside or Beside()
    report: dict[str, Any] = {"num_images": len(measured), "metrics": measured.scores()}
    if options.bootstrap:
        report["intervals"] = bootstrap.intervals(measured, num_samples=options.bootstrap, seed=options.seed)
        report["bootstrap"] = {
            "samples": options.bootstrap,
            "seed": options.seed,
            "level": bootstrap.LEVEL,
            "method": "percentile",
        }
    report["metric_versions"] = dict(measured.versions)
    report["tokenizer"] = ptb.VERSION
    frequency = scorer.document_frequency
    report["document_frequency"] = {"source": frequency.source, "num_images": frequency.num_images}
    seen = normalised(text for image in beside.training for text in image) if beside.training else None
    report["diversity"] = diversity(captions, tokens=measured.tokens, training=seen)
    if options.baselines:
        given = frequency if options.document_frequency else None
        report["baselines"] = baseline_scores(
            scorer, references, beside=beside, seed=options.seed, document_frequency=given
        )
    report["omitted"] = {**measured.omitted, **beside.omitted}
    return report


def baseline_scores(
    scorer: Scorer,
    references: Sequence[Sequence[str]],
    *,
    beside: Beside,
    seed: int,
    document_frequency: DocumentFrequency | None,
) -> dict[str, Any]:
    """What doing nothing gives: by baseline its rule, its captions and its scores."""
    if beside.training:
        chosen = [baselines.constant_of(beside.training, seed=seed)] * len(references)
    else:
        chosen = baselines.constants_left_out(references, seed=seed, document_frequency=document_frequency)
    found = {
        CONSTANT: {
            "rule": constant_rule(references, training=beside.training),
            "caption": Counter(chosen).most_common(1)[0][0],
            "metrics": scorer.measure(chosen).scores(),
        }
    }
    if beside.nearest:
        scores = scorer.measure(beside.nearest).scores()
        found[NEAREST] = {"rule": NEAREST_RULE, "metrics": scores}
    return found


def constant_rule(references: Sequence[Sequence[str]], *, training: Sequence[Sequence[str]]) -> str:
    """How the one caption for all was chosen, with the numbers that were really drawn."""
    candidates, images = baselines.num_drawn(training or references)
    if training:
        return f"of {candidates} training captions the one of the best CIDEr-D on {images:,} training images"
    if images < 2:
        return "none, for it is chosen by the other images, and there is one image"
    return (
        f"of {candidates} evaluated references the one of the best CIDEr-D on the others of {images:,} images"
    )


def compare(
    one: Measured, other: Measured, *, names: tuple[str, str], options: ScoringOptions
) -> dict[str, Any]:
    """Whether the first captions are better than the second, metric by metric."""
    found = bootstrap.compare(one, other, num_samples=options.bootstrap, seed=options.seed)
    theirs = other.scores()
    return {
        "other": names[1],
        "samples": options.bootstrap,
        "seed": options.seed,
        "level": bootstrap.LEVEL,
        "method": "paired bootstrap, percentile",
        "metrics": {
            name: {
                "other": theirs[name],
                "difference": difference.difference,
                "interval": (difference.low, difference.high),
                "p_value": difference.p_value,
                "sentence": sentence(name, difference, names=names, num_images=len(one)),
            }
            for name, difference in found.items()
        },
    }


def sentence(name: str, difference: bootstrap.Difference, *, names: tuple[str, str], num_images: int) -> str:
    """What a comparison says, in words."""
    label, size = LABELS[name], abs(difference.difference)
    if difference.low == difference.high == 0:
        return f"{label}: no difference at all."
    low, high, p = difference.low, difference.high, f"p = {_p(difference.p_value)}"
    if not difference.is_real:
        return (
            f"{label}: {num_images:,} images do not show which is better (difference "
            f"{difference.difference:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}, {p})."
        )
    better, worse = names
    if high < 0:
        better, worse, low, high = worse, better, -high, -low
    return f"{label}: {better} is better than {worse} by {size:.4f} (95 % interval {low:.4f} to {high:.4f}, {p})."


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "below 0.001"


def print_report(report: Mapping[str, Any], *, title: str) -> None:
    """The report on screen (stderr: stdout is for what a program reads)."""
    screen = Console(stderr=True, highlight=False)
    screen.print(title, markup=False, soft_wrap=True)
    screen.print(score_table(report))
    for line in notes(report):
        # captions may hold half a surrogate pair, which no screen takes
        screen.print(line.encode(errors="backslashreplace").decode(), markup=False, soft_wrap=True)
    if "comparison" in report:
        screen.print(comparison_table(report))
        for compared in report["comparison"]["metrics"].values():
            screen.print(compared["sentence"], markup=False, soft_wrap=True)


def score_table(report: Mapping[str, Any]) -> Table:
    """Scores with their intervals, and what doing nothing gives beside them."""
    table = Table("metric", "score", "95 % interval")
    beside = {name: found["metrics"] for name, found in report.get("baselines", {}).items()}
    for name in beside:
        table.add_column(COLUMNS[name])
    for name, value in report["metrics"].items():
        low_high = report.get("intervals", {}).get(name)
        shown = f"{low_high[0]:.4f} to {low_high[1]:.4f}" if low_high else ""
        others = [f"{scores[name]:.4f}" if name in scores else "" for scores in beside.values()]
        table.add_row(LABELS[name], f"{value:.4f}", shown, *others)
    return table


def notes(report: Mapping[str, Any]) -> list[str]:
    """The lines below the table."""
    found = report["diversity"]
    most = found["most_repeated"]
    unseen = f", {found['unseen']:.1%} not among the training captions" if "unseen" in found else ""
    lines = [
        f"captions: {found['words']:.1f} words, {found['vocabulary']:,} different ones, distinct-1 "
        f"{found['distinct_1']:.3f}, distinct-2 {found['distinct_2']:.3f}, {found['distinct_captions']:.1%} of "
        f"captions different{unseen}",
        f"most repeated ({most['count']:,} times): {most['caption']}",
    ]
    if constant := report.get("baselines", {}).get(CONSTANT):
        lines.append(f"one caption for all: {constant['caption']} ({constant['rule']})")
    frequency = report["document_frequency"]
    lines.append(f"document frequencies of {frequency['num_images']:,} images: {frequency['source']}")
    lines.append(f"tokenizer: {report['tokenizer']}")
    labels = {**LABELS, NEAREST: "nearest training photo"}
    lines += [f"no {labels[name]}: {why}" for name, why in report["omitted"].items()]
    return lines


def comparison_table(report: Mapping[str, Any]) -> Table:
    """Two sets of captions side by side."""
    table = Table("metric", "score", "other", "difference", "95 % interval", "p")
    for row in comparison_rows(report["comparison"]["metrics"]):
        table.add_row(*row)
    return table


def comparison_rows(compared: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Metric, score, the other's, difference, interval and p, as `comparison_table` shows them."""
    return [
        (
            LABELS[name],
            f"{found['other'] + found['difference']:.4f}",
            f"{found['other']:.4f}",
            f"{found['difference']:+.4f}",
            f"{found['interval'][0]:+.4f} to {found['interval'][1]:+.4f}",
            _p(found["p_value"]),
        )
        for name, found in compared.items()
    ]
