"""`raycap score`: captions of any maker against references, without Ray, torch or network.

Reads files, measures, reports; what is computed lies in raycap.metrics.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raycap import __version__
from raycap.config import ConfigError
from raycap.metrics import PreparedReferences, bootstrap
from raycap.metrics.measure import Measured, load_meteor, with_spice
from raycap.score import report as reporting
from raycap.score.config import FrequencyOptions, ScoreOptions, ScoringOptions
from raycap.score.files import ScoreInputError
from raycap.score.reading import Candidates, ImageId, References, pair, read_candidates, read_references
from raycap.score.sources import read_captions, read_frequency, write_frequency

__all__ = [
    "FrequencyOptions",
    "ScoreInputError",
    "ScoreOptions",
    "ScoringOptions",
    "read_frequency",
    "score_file",
    "write_frequency",
]


def score_file(path: str, options: ScoreOptions) -> dict[str, Any]:
    """Score a file of captions, print tables on stderr, write what was asked for; returns the report.

    Raises:
        ScoreInputError: a file that cannot be scored; the message names the file and the image or line.
        ConfigError: options that do not go together.
    """
    if options.compare and options.bootstrap < bootstrap.MIN_COMPARED:
        raise ConfigError(
            f"--compare judges by resampling, and --bootstrap is {options.bootstrap}; give at least "
            f"{bootstrap.MIN_COMPARED}"
        )
    if options.per_image:
        check_output(options.per_image)
    meteor = load_meteor(*options.meteor_choice)
    candidates, references = read_pair(path, options.references)
    said = pair(candidates, references)
    wanted = list(references.captions.values())
    frequency = read_frequency(options.document_frequency) if options.document_frequency else None
    prepared = PreparedReferences(wanted, ids=list(said), document_frequency=frequency)
    captions = list(said.values())
    scorer = reporting.LocalScorer(prepared, meteor)
    measured = measured_with(scorer, captions, options)
    training = list(read_captions(options.training).values()) if options.training else []
    report = {
        "captions": path,
        "references": references.path,
        **reporting.describe(
            measured,
            scorer,
            captions=captions,
            references=wanted,
            options=options,
            beside=reporting.Beside(training=training),
        ),
        "raycap": __version__,
    }
    if options.compare:
        other = pair(read_candidates(options.compare), references)
        theirs = measured_with(scorer, list(other.values()), options)
        names = short_names(path, options.compare)
        report["comparison"] = reporting.compare(measured, theirs, names=names, options=options)
    if options.per_image:
        write_each(options.per_image, list(said), captions, measured)
    reporting.print_report(report, title=f"{path}: {len(said):,} images against {references.path}")
    return report


def measured_with(
    scorer: reporting.LocalScorer, captions: Sequence[str], options: ScoringOptions
) -> Measured:
    """Captions measured, with SPICE where it is asked for."""
    measured = scorer.measure(captions)
    return with_spice(measured, scorer.prepared.all_tokens()) if options.spice else measured


def read_pair(path: str, references: str) -> tuple[Candidates, References]:
    """Captions, and the references in their own file or beside them.

    Raises:
        ConfigError: no references in either place.
        ScoreInputError: as `read_candidates`.
    """
    candidates = read_candidates(path)
    if references:
        return candidates, read_references(references)
    if candidates.references is None:
        raise ConfigError(f"{path} holds no references; give them with --references annotations.json")
    return candidates, candidates.references


def short_names(one: str, other: str) -> tuple[str, str]:
    """File names to tell two files apart in a sentence: whole paths where the names are the same."""
    names = (Path(one).name, Path(other).name)
    return names if names[0] != names[1] else (one, other)


def check_output(path: str) -> None:
    """Raise ConfigError where no file can be written on this machine, before work is done for it."""
    if "://" in path:
        return
    if os.path.isdir(path):
        raise ConfigError(f"--per-image {path} is a folder; name a file to write")
    # Absent folders will be made, and a file is replaced, so its folder is what must be writable.
    there = next(str(found) for found in Path(path).absolute().parents if os.path.exists(found))
    if not os.path.isdir(there):
        raise ConfigError(f"--per-image {path} cannot be written: {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"--per-image {path} cannot be written: no permission to write into {there}")


def write_each(path: str, images: Sequence[ImageId], captions: Sequence[str], measured: Measured) -> None:
    """Every image's own scores: CSV, or JSON lines."""
    from raycap import storage  # loads PyArrow

    each = {name: values.tolist() for name, values in measured.each().items()}
    rows = [
        {"image_id": image, "caption": caption, **{name: values[row] for name, values in each.items()}}
        for row, (image, caption) in enumerate(zip(images, captions, strict=True))
    ]
    if path.lower().endswith(".csv"):
        stream = io.StringIO(newline="")
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        text = stream.getvalue()
    else:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    storage.write_bytes(path, text.encode(errors="backslashreplace"))  # half a surrogate pair
