"""Evaluations that lie beside a run: those of one checkpoint, and two of the same images to hold side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raycap import storage
from raycap.checkpoint import CheckpointError, Manifest
from raycap.evaluate.report import CAPTIONS, REPORT, evaluations_folder


@dataclass(frozen=True)
class Answers:
    """What a model said of each image, and what people said, by image id in the evaluation's order."""

    captions: dict[str, str]
    references: dict[str, list[str]]


@dataclass(frozen=True)
class Evaluation:
    """An evaluation's folder and its report."""

    path: str
    report: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Of the checkpoint's manifest."""
        return str(self.report["checkpoint"]["digest"])

    @property
    def images(self) -> tuple[Any, ...]:
        """What must be the same for two evaluations to be of the same images."""
        data = self.report["data"]
        return data["fingerprint"], data["limit"], self.report["split"], self.report["num_images"]

    @property
    def speed(self) -> float:
        """Images captioned a second, the models' loading included."""
        return float(self.report["num_images"] / max(self.report["captioning_s"], 1e-9))

    @property
    def conditions(self) -> str:
        """On what, and how, the captions were made."""
        return (
            f"{self.report['device']}, {self.report['precision']}, beams {self.report['decoding']['beams']}"
        )

    def read_answers(self) -> Answers:
        """Captions and references of every image.

        Raises:
            CheckpointError: captions.jsonl is absent or damaged.
        """
        path = storage.join(self.path, CAPTIONS)
        try:
            lines = storage.read_bytes(path).decode().split("\n")
            rows = [json.loads(line) for line in lines if line]
            return Answers(
                {row["image_id"]: row["caption"] for row in rows},
                {row["image_id"]: row["references"] for row in rows},
            )
        except (FileNotFoundError, ValueError, LookupError, TypeError):
            raise CheckpointError(f"{path} is missing or damaged; evaluate that checkpoint again") from None


def find_evaluations(folder: str, manifest: Manifest) -> list[Evaluation]:
    """Evaluations beside a checkpoint, or in its run, that are of this very checkpoint, the newest first."""
    place = evaluations_folder(folder)
    found = [_read(storage.join(place, name)) for name in storage.list_names(place)]
    own = [one for one in found if one and one.digest == manifest.digest]
    return sorted(own, key=lambda one: str(one.report.get("created")), reverse=True)


def _read(path: str) -> Evaluation | None:
    """None where an evaluation has not finished, or is no report of raycap's."""
    try:
        found = Evaluation(path, storage.read_json(storage.join(path, REPORT)))
        is_whole = found.digest and found.images and found.speed and found.conditions
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return found if is_whole else None


def pair(one: list[Evaluation], other: list[Evaluation]) -> tuple[Evaluation, Evaluation] | None:
    """Two evaluations of the same images: decoded the same way where there are such, and the newest."""
    pairs = [(ours, theirs) for ours in one for theirs in other if ours.images == theirs.images]
    alike = [found for found in pairs if _decoding(found[0]) == _decoding(found[1])]
    return next(iter(alike or pairs), None)


def _decoding(evaluation: Evaluation) -> tuple[Any, ...]:
    return tuple(evaluation.report.get(key) for key in ("decoding", "precision", "vocabulary"))
