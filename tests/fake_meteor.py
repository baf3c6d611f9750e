"""A METEOR of the real one's shape, whose score is a tenth of a caption's words, for tests of what is around it."""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from raycap.metrics.measure import load_meteor

Tokens = Sequence[Sequence[str]]


@dataclass(frozen=True)
class FakeStatistics:
    lengths: npt.NDArray[np.int64]

    @classmethod
    def concatenate(cls, parts: Sequence[FakeStatistics]) -> FakeStatistics:
        return cls(np.concatenate([part.lengths for part in parts]))

    def resampled(self, counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return counts @ self.lengths / counts.sum(axis=1) / 10

    def score(self) -> float:
        return float(self.lengths.sum()) / len(self.lengths) / 10

    def each(self) -> npt.NDArray[np.float64]:
        return self.lengths / 10


class FakeMeteor:
    VERSION = "fake METEOR"

    def statistics(self, predictions: Tokens, references: Sequence[Tokens]) -> FakeStatistics:
        assert all(references)
        assert len(predictions) == len(references)
        return FakeStatistics(np.array([len(tokens) for tokens in predictions], dtype=np.int64))


class FakeJavaMeteor(FakeMeteor):
    VERSION = "fake Java METEOR"


def install_meteor(monkeypatch: pytest.MonkeyPatch, *, available: bool) -> None:
    """Put a module in raycap.metrics.meteor's place."""

    class MeteorUnavailableError(ValueError):
        pass

    def load(source: str = "") -> Any:
        raise MeteorUnavailableError("the word lists are not here")

    module: Any = types.ModuleType("raycap.metrics.meteor")
    module.MeteorUnavailableError = MeteorUnavailableError
    for name, kind in {"Meteor": FakeMeteor, "JavaMeteor": FakeJavaMeteor}.items():
        loaded = type(name, (kind,), {"load": staticmethod(lambda source="", kind=kind: kind())})
        missing = type(name, (kind,), {"load": staticmethod(load)})
        setattr(module, name, loaded if available else missing)
    monkeypatch.setattr("raycap.metrics.measure.meteor_tool", module)
    load_meteor.cache_clear()
