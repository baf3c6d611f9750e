"""A family in a few lines, for tests of what is around a model: it names the brightest feature.

Its frozen base is a vector in a file (it stands for a language model), its trained weights are few.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import torch
from fakes import make_tokenizer
from torch import Tensor, nn

from raycap.checkpoint import EncoderInfo
from raycap.decoding import DecodingConfig
from raycap.models import CaptionModel, FamilyConfig, register
from raycap.schema import Caption, CaptionBatch, StepOutput
from raycap.text import CaptionTokenizer
from raycap.vision import EncoderConfig

WORDS = ("red", "green", "blue", "yellow")


class ToyConfig(FamilyConfig):
    """Settings of the toy."""

    family: Literal["toy"] = "toy"
    language_model: str

    def load_tokenizer(self) -> CaptionTokenizer:
        """Read the tokenizer beside the base."""
        return CaptionTokenizer.load(self.language_model)

    def build(self, *, tokenizer: CaptionTokenizer, vision_dim: int) -> Toy:
        """Make the toy, with its base from the file."""
        return Toy(json.loads(Path(self.language_model, "base.json").read_text()), vision_dim=vision_dim)


class Toy(CaptionModel):
    """Scores words by the mean feature plus a trained bias plus a frozen one."""

    def __init__(self, base: list[float], *, vision_dim: int) -> None:
        super().__init__()
        self.base = nn.Parameter(torch.tensor(base), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(len(WORDS)))
        self.project = nn.Linear(vision_dim, len(WORDS), bias=False)

    def forward(self, batch: CaptionBatch) -> StepOutput:
        """A loss that depends on all that is trained."""
        scores = self.scores(batch["features"])
        return StepOutput(scores.square().sum(), torch.tensor(float(scores.numel())))

    def caption(self, features: Tensor, decoding: DecodingConfig) -> list[list[Caption]]:
        """The n best words of each image; the number of beams shows in the text."""
        best = self.scores(features).topk(decoding.n)
        return [
            [Caption(f"{WORDS[i]} x{decoding.beams}", v) for v, i in zip(*row, strict=True)]
            for row in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def scores(self, features: Tensor) -> Tensor:
        """One score for each word: (batch, words)."""
        return self.project(features.float().mean(dim=1)) + self.bias + self.base


register("toy", ToyConfig)


def make_base(folder: Path, *, values: tuple[float, ...] = (0.5, -0.25, 0.125, 1.0)) -> ToyConfig:
    """A toy language model on disk, and the config that names it."""
    make_tokenizer(folder)
    (folder / "base.json").write_text(json.dumps(values))
    return ToyConfig(language_model=str(folder))


def make_toy(config: ToyConfig, *, vision_dim: int = 24, seed: int = 0) -> Toy:
    """A toy with trained weights that differ by seed."""
    model = config.build(tokenizer=config.load_tokenizer(), vision_dim=vision_dim)
    torch.manual_seed(seed)
    nn.init.normal_(model.bias, std=0.1)
    nn.init.normal_(model.project.weight)
    return model


ENCODER = EncoderInfo(config=EncoderConfig(name="encoder"), fingerprint="f" * 64, vision_dim=24, patches=17)
