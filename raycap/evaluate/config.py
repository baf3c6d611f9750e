"""What an evaluation depends on."""

from __future__ import annotations

from pydantic import Field

from raycap.config import DataConfig, Frozen
from raycap.decoding import DecodingConfig
from raycap.engine import EngineOptions
from raycap.score.config import ScoringOptions


class EvaluateOptions(EngineOptions, ScoringOptions):
    """Which images, where the report goes, what the engines run on, and which metrics."""

    split: str = "val"
    """train, val or test."""
    output: str = ""
    """Folder for report.json and captions.jsonl; by default one below the run."""
    batch_size: int = Field(default=16, ge=1)
    """Images that go through a model together."""
    num_engines: int = Field(default=1, ge=1)
    """Engines side by side, each an actor with the models loaded."""
    gpus_per_engine: float = Field(default=1.0, gt=0)
    """GPUs, or a part of one, that an engine on CUDA reserves."""
    cpus_per_engine: int = Field(default=0, ge=0)
    """CPUs an engine reserves and computes with; 0: one on a GPU, else this machine's cores shared out."""
    clip_score: bool = True
    """CLIPScore and RefCLIPScore, where the run's encoder is a whole CLIP with its text tower."""
    scoring_tasks: int = Field(default=0, ge=0)
    """Ray tasks that score captions, a part each; 0: none below 20,000 images, else one a CPU. Figures are the same."""


class EvaluateConfig(Frozen):
    """Everything an evaluation depends on."""

    checkpoint: str
    """Run folder, RUN/best-metric, RUN/best-loss, RUN/last, or a checkpoint folder."""
    data: DataConfig
    decoding: DecodingConfig = DecodingConfig()
    """Only the settings given here replace the checkpoint's own."""
    evaluate: EvaluateOptions = EvaluateOptions()
