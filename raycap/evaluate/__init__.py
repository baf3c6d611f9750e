"""A checkpoint over a split: captions by a pool of engines, metrics with intervals, and a report.

Ray is imported inside functions: a command sets its environment first.
"""

from __future__ import annotations

import time

from raycap import checkpoint
from raycap.checkpoint import Manifest
from raycap.data.manifest import read_data_manifest
from raycap.decoding import DecodingConfig
from raycap.engine import merge_decoding
from raycap.evaluate.captioning import caption_split, choose_engines
from raycap.evaluate.config import EvaluateConfig, EvaluateOptions
from raycap.evaluate.report import (
    Answer,
    default_output,
    describe,
    print_table,
    score_answers,
    write_report,
)

__all__ = ["Answer", "EvaluateConfig", "EvaluateOptions", "evaluate"]


def evaluate(config: EvaluateConfig) -> str:
    """Caption a split, score the captions, print a table; returns the path of report.json.

    Raises:
        CheckpointError: absent or damaged.
        ConfigError: no such split, an empty one, or another setting that does not fit.
    """
    folder = checkpoint.resolve(config.checkpoint)
    manifest = checkpoint.verify(folder)
    decoding = choose_decoding(manifest, config.decoding)
    data = read_data_manifest(config.data.path)
    references = load_references(config)
    begin = time.perf_counter()
    engines = choose_engines(config.evaluate)
    said = caption_split(config, folder, manifest, decoding, engines=engines, num_images=len(references))
    seconds = time.perf_counter() - begin
    answers = join(said, references)
    report = {
        **describe(config, folder, manifest, data, decoding, device=engines.device),
        "num_images": len(answers),
        **score_answers(answers, num_samples=config.evaluate.bootstrap, seed=config.evaluate.seed),
        "captioning_s": round(seconds, 3),
    }
    path = write_report(config.evaluate.output or default_output(folder, report), report, answers)
    print_table(report)
    return path


def choose_decoding(manifest: Manifest, given: DecodingConfig) -> DecodingConfig:
    """The checkpoint's decoding settings with those in their place that were given; one caption an image."""
    return merge_decoding(manifest.decoding, {**given.model_dump(exclude_unset=True), "n": 1})


def load_references(config: EvaluateConfig) -> dict[str, list[str]]:
    """What people said of each image of the split, in a fixed order.

    Raises:
        ConfigError: no such split, or nothing in it.
    """
    from raycap.data.splits import read_references

    found = read_references(config.data.path, config.evaluate.split, limit=config.data.limit)
    return {reference.image_id: list(reference.captions) for reference in found.values()}


def join(said: dict[str, tuple[str, float]], references: dict[str, list[str]]) -> list[Answer]:
    """Captions with their references, in the references' order."""
    assert said.keys() == references.keys(), "every image is captioned once"
    return [Answer(image_id, *said[image_id], captions) for image_id, captions in references.items()]
