"""What scoring depends on; `raycap score` and `raycap evaluate` share the first block."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from pydantic import Field

from raycap.config import ConfigError, Frozen
from raycap.metrics.measure import MeteorMode


class ScoringOptions(Frozen):
    """Which metrics, and what stands beside them."""

    meteor: MeteorMode = "auto"
    """METEOR: in Python, by the reference's Java, off; auto takes Python where its word lists are to be had."""
    meteor_folder: str = ""
    """A METEOR 1.5 folder with the word lists (and the jar); by default those that pycocoevalcap brings."""
    spice: bool = False
    """SPICE by the reference tool (pycocoevalcap), which needs Java and downloads its parser at first use."""
    document_frequency: str = ""
    """File of `raycap document-frequency` that CIDEr-D weighs by; by default the evaluated references are counted."""
    baselines: bool = True
    """Score one caption for all (and in evaluate the nearest training photo's caption) too."""
    bootstrap: int = Field(default=1000, ge=0)
    """Resamplings of the images for the 95 % intervals; 0 leaves the intervals out, `--compare` needs 100."""
    seed: int = Field(default=0, ge=0)
    """Of the resampling, and of the candidates for the constant caption."""

    @property
    def meteor_choice(self) -> tuple[MeteorMode, str]:
        """What `load_meteor` takes.

        Raises:
            ConfigError: a folder for a METEOR that is off.
        """
        if self.meteor == "off" and self.meteor_folder:
            raise ConfigError(
                f"METEOR is off, and its folder {self.meteor_folder} is given; drop --meteor off or --meteor-folder"
            )
        return self.meteor, self.meteor_folder


class ScoreOptions(ScoringOptions):
    """Captions of any maker against references."""

    references: str = ""
    """COCO annotations, a list or CSV; not needed where the file of captions holds references too."""
    compare: str = ""
    """Another file of captions of the same images: is the first really better?"""
    training: str = ""
    """Captions trained on: a folder of prepared rows (its train split) or a file; for unseen captions, baselines."""
    per_image: str = ""
    """File to write with every image's own scores: .csv, else JSON lines."""
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False
    """Print the report as JSON on stdout."""


class FrequencyOptions(Frozen):
    """Where document frequencies are counted, and kept."""

    output: str
    """JSON file to write."""
    split: str = "train"
    """Of prepared rows: train, val or test."""
