"""`raycap debug photo.jpg`: what a checkpoint sees in a photo and does with it, as one HTML report.

The photo goes through the engine like any other; what stands behind its caption comes from the family, where it
tells (CaptionModel.explain), and the rest from what every family has.
"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from pydantic import Field

from raycap import storage
from raycap.debug.checks import judge
from raycap.debug.report import debug_page
from raycap.debug.study import Study, study_photo
from raycap.decoding import DecodingConfig
from raycap.engine import CaptionEngine, EngineOptions, GivenDecoding, read_image
from raycap.pages import Verdict

N_BEST = 5  # captions shown where none were asked for

__all__ = ["DebugConfig", "Study", "Verdict", "debug", "debug_page", "judge", "study_photo"]


class DebugConfig(EngineOptions):
    """With which checkpoint to look at a photo, and where the report goes."""

    checkpoint: str
    """Run folder, RUN/best-metric, RUN/best-loss, RUN/last, or a checkpoint folder."""
    # as plain flags (--beams 5) whose defaults are the checkpoint's and not these
    decoding: Annotated[GivenDecoding, Parameter(name="*", show_default=False)] = GivenDecoding()
    """Only the settings given here replace the checkpoint's own."""
    output: str = "debug.html"
    """File (or URI) of the report."""
    alternatives: int = Field(default=5, ge=1, le=50)
    """Most likely tokens to show at each place."""


def debug(photo: str, config: DebugConfig) -> tuple[str, Study, list[Verdict]]:
    """Write the report of one photo.

    Returns:
        Where it lies, what is in it, and the verdicts, worst first.

    Raises:
        BadImageError: the photo cannot be read.
        CheckpointError: absent or damaged.
        ConfigError: a setting that does not fit the checkpoint or this machine.
    """
    pixels = read_image(photo)
    engine = CaptionEngine.load(config.checkpoint, **config.of_engine())
    study = study_photo(
        engine,
        pixels,
        n_best(engine, config.decoding),
        precision=config.precision,
        vocabulary_cut=config.vocabulary == "captions",
    )
    verdicts = judge(study)
    page = debug_page(study, verdicts, photo=photo, path=engine.path, alternatives=config.alternatives)
    output = storage.absolute(config.output)
    storage.write_bytes(output, page.encode())
    return output, study, verdicts


def n_best(engine: CaptionEngine, given: GivenDecoding) -> DecodingConfig:
    """The checkpoint's decoding with what was given, and as many captions as the search has beams, at most N_BEST.

    More captions from the same beams do not change the best one.
    """
    overrides = given.model_dump(exclude_unset=True)
    own = engine.decoding(**overrides)
    if "n" in overrides or own.sample:
        return own
    return engine.decoding(**overrides, n=max(own.n, min(own.beams, N_BEST)))
