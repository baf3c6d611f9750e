"""Two checkpoints side by side: what they are, what they score, and whether one is really better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import Field
from rich.table import Table

from raycap import checkpoint
from raycap.checkpoint import Manifest
from raycap.choosing import CAPTION_METRICS, LOSSES
from raycap.config import ConfigError
from raycap.engine import EngineOptions
from raycap.metrics import DocumentFrequency, PreparedReferences, bootstrap
from raycap.metrics.measure import Measured, load_meteor
from raycap.runs.evaluations import Answers, Evaluation, find_evaluations, pair
from raycap.runs.listing import number, plain, readable_size
from raycap.runs.showing import last_part, name_of
from raycap.score import ScoreInputError, ScoringOptions, read_frequency
from raycap.score import report as scoring


class CompareOptions(EngineOptions):
    """What is compared beside the manifests, and with what models run where they must caption."""

    images: str = ""
    """Folder (or URI) of photos: writes a page with the captions of both, side by side."""
    output: str = "compare.html"
    """That page."""
    num_images: int = Field(default=60, ge=1)
    """Photos on the page: where the two differ most in CIDEr-D, if evaluations have captioned them."""
    bootstrap: int = Field(default=1000, ge=bootstrap.MIN_COMPARED)
    """Resamplings of the images for the paired bootstrap."""
    seed: int = Field(default=0, ge=0)
    """Of the resampling."""
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False
    """Print everything as JSON."""


@dataclass(frozen=True)
class Side:
    """One of the two."""

    name: str
    path: str
    manifest: Manifest
    weights: int
    evaluations: list[Evaluation]


@dataclass(frozen=True)
class Pair:
    """Both evaluations of the same images, measured anew and held against each other."""

    evaluations: tuple[Evaluation, Evaluation]
    answers: tuple[Answers, Answers]
    measured: tuple[Measured, Measured]
    comparison: Mapping[str, Any] = field(default_factory=dict)
    """As `raycap score --compare` reports it; differences are the first minus the second."""

    def cider_d(self) -> dict[str, tuple[float, float]]:
        """Both captions' own CIDEr-D by image id."""
        each = [one.each()["cider_d"].tolist() for one in self.measured]
        return dict(zip(self.answers[0].captions, zip(*each, strict=True), strict=True))


@dataclass(frozen=True)
class Comparison:
    """Two checkpoints, and their evaluations of the same images where there are such."""

    sides: tuple[Side, Side]
    pair: Pair | None


def compare(one: str, other: str, *, options: CompareOptions) -> Comparison:
    """Compare two runs (their best checkpoints) or checkpoints.

    Raises:
        CheckpointError: one of them is absent or damaged.
    """
    sides = _named(read_side(one), read_side(other))
    found = pair(sides[0].evaluations, sides[1].evaluations)
    return Comparison(sides, _measure(sides, found, options) if found else None)


def read_side(path: str) -> Side:
    """What is known of a checkpoint."""
    folder = checkpoint.resolve(path)
    manifest = checkpoint.read_manifest(folder)
    return Side(
        name_of(folder, manifest),
        folder,
        manifest,
        checkpoint.count_weights(folder),
        find_evaluations(folder, manifest),
    )


def _named(one: Side, other: Side) -> tuple[Side, Side]:
    """By whole paths where short names do not tell them apart."""
    if one.name != other.name:
        return one, other
    return Side(**{**vars(one), "name": one.path}), Side(**{**vars(other), "name": other.path})


def _measure(sides: tuple[Side, Side], found: tuple[Evaluation, Evaluation], options: CompareOptions) -> Pair:
    """Score both evaluations' captions against the same references, and resample the images."""
    answers = (found[0].read_answers(), found[1].read_answers())
    ids, wanted = list(answers[0].captions), list(answers[0].references.values())
    if answers[0].references != answers[1].references:
        raise ConfigError(
            f"{found[0].path} and {found[1].path} hold other references; evaluate one of them again"
        )
    prepared = PreparedReferences(wanted, ids=ids, document_frequency=_frequency(found))
    scorer = scoring.LocalScorer(prepared, load_meteor())
    measured = (scorer.measure(_in_order(answers[0], ids)), scorer.measure(_in_order(answers[1], ids)))
    comparison = scoring.compare(
        *measured,
        names=(sides[0].name, sides[1].name),
        options=ScoringOptions(bootstrap=options.bootstrap, seed=options.seed),
    )
    return Pair(found, answers, measured, comparison)


def _frequency(found: tuple[Evaluation, Evaluation]) -> DocumentFrequency | None:
    """That of the file that both evaluations were scored with; None (the references' own) where they differ."""
    files = {one.report.get("document_frequency_file", "") for one in found}
    file = files.pop()
    if files or not file:
        return None
    try:
        return read_frequency(file)
    except ScoreInputError as error:
        raise ConfigError(
            f"{found[0].path} was scored with document frequencies that cannot be read ({error}); "
            "put them back, or evaluate both again"
        ) from None


def _in_order(answers: Answers, ids: Sequence[str]) -> list[str]:
    return [answers.captions[image_id] for image_id in ids]


def overview(comparison: Comparison) -> list[tuple[str, str, str]]:
    """What the two are: a label and both values, row by row."""
    rows = [("", *(side.name for side in comparison.sides))]
    columns = [_column(side, comparison) for side in comparison.sides]
    one, other = (_settings(side.manifest.model) for side in comparison.sides)
    for name in [name for name in {**one, **other} if one.get(name) != other.get(name)]:
        columns[0][name], columns[1][name] = one.get(name, ""), other.get(name, "")
    rows += [(label, columns[0][label], columns[1][label]) for label in columns[0]]
    return [(label, one, other) for label, one, other in rows if one or other]


def _column(side: Side, comparison: Comparison) -> dict[str, str]:
    manifest = side.manifest
    found = _evaluation_of(side, comparison)
    encoder = manifest.encoder
    return {
        "family": manifest.family,
        "encoder": f"{last_part(encoder.config.name)}, {encoder.patches} x {encoder.vision_dim:,}",
        "epoch": str(manifest.epoch),
        "created": manifest.created[:16].replace("T", " "),
        "trained weights": f"{side.weights:,}",
        "size on disk": readable_size(manifest.size),
        "size to serve": readable_size(manifest.size - manifest.training_size),
        "captioning, as evaluated": f"{found.speed:.1f} images/s ({found.conditions})" if found else "",
        **{
            f"{scoring.LABELS.get(name, name)} in training": number(manifest.metrics.get(name))
            for name in (*LOSSES, *CAPTION_METRICS)
        },
    }


def _settings(model: Mapping[str, Any], *, prefix: str = "model.") -> dict[str, str]:
    """A model's settings as dotted names."""
    found: dict[str, str] = {}
    for name, value in model.items():
        if isinstance(value, Mapping):
            found |= _settings(value, prefix=f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = str(value)
    return found


def _evaluation_of(side: Side, comparison: Comparison) -> Evaluation | None:
    if comparison.pair:
        return comparison.pair.evaluations[comparison.sides.index(side)]
    return side.evaluations[0] if side.evaluations else None


def overview_table(comparison: Comparison) -> Table:
    """`overview` for the screen."""
    head, *rows = overview(comparison)
    table = Table(*head)
    for row in rows:
        table.add_row(*row)
    return table


def sentences(comparison: Comparison) -> list[str]:
    """What the comparison says in words, metric by metric, or why it says nothing."""
    if not comparison.pair:
        return [missing_pair(comparison.sides)]
    return [compared["sentence"] for compared in comparison.pair.comparison["metrics"].values()]


def missing_pair(sides: tuple[Side, Side]) -> str:
    """Why captions were not compared, and what to do."""
    without = [side for side in sides if not side.evaluations]
    if without:
        names = " and ".join(side.path for side in without)
        return (
            f"No evaluation of {names}, so their captions are not compared: run `raycap evaluate CHECKPOINT "
            "--data ...` for both on the same split."
        )
    return (
        "The two were evaluated on other images, so their captions are not compared: run `raycap evaluate` for both on "
        "the same split."
    )


def conditions(found: Pair) -> str:
    """On what the captions are compared, in a line."""
    reports = [one.report for one in found.evaluations]
    keys = ("decoding", "precision", "vocabulary", "document_frequency_file")
    differing = [key.replace("_", " ") for key in keys if reports[0].get(key) != reports[1].get(key)]
    note = f"; they differ in {' and '.join(differing)}" if differing else ""
    samples = found.comparison["samples"]
    images = f"{reports[0]['num_images']:,} {reports[0]['split']} images"
    return f"{images}, paired bootstrap of {samples:,} resamplings{note}"


def as_plain(comparison: Comparison) -> dict[str, Any]:
    """Everything as JSON holds it."""
    sides = [
        {
            "name": side.name,
            "path": side.path,
            "trained_weights": side.weights,
            "size": side.manifest.size,
            "training_size": side.manifest.training_size,
            "metrics": plain(side.manifest.metrics),
            "evaluation": found.path if (found := _evaluation_of(side, comparison)) else "",
            "images_per_s": round(found.speed, 3) if found else None,
        }
        for side in comparison.sides
    ]
    content: dict[str, Any] = {"checkpoints": sides}
    if comparison.pair:
        content["scores"] = [one.scores() for one in comparison.pair.measured]
        content["comparison"] = comparison.pair.comparison
    else:
        content["not_compared"] = missing_pair(comparison.sides)
    return content


def paired_table(comparison: Comparison) -> Table | None:
    """Both scores, their difference and its interval; None where captions are not compared."""
    if not comparison.pair:
        return None
    table = scoring.comparison_table(
        {"metrics": comparison.pair.measured[0].scores(), "comparison": comparison.pair.comparison}
    )
    for place, side in enumerate(comparison.sides, start=1):
        table.columns[place].header = side.name
    return table
