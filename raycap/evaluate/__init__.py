"""A checkpoint over a split: captions by a pool of engines, metrics with intervals, baselines beside them, a report.

Ray is imported inside functions: a command sets its environment first.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raycap import checkpoint
from raycap.checkpoint import Manifest
from raycap.config import ConfigError
from raycap.data.featurize import FeaturizeConfig
from raycap.data.manifest import read_data_manifest
from raycap.decoding import DecodingConfig
from raycap.engine import merge_decoding, moved_encoder
from raycap.evaluate.captioning import Also, Said, caption_split, choose_engines
from raycap.evaluate.config import EvaluateConfig, EvaluateOptions
from raycap.evaluate.report import Answer, default_output, describe, title, write_report
from raycap.evaluate.training import find_training, nearest_captions, training_captions, training_features
from raycap.evaluate.workers import WorkerScorer, choose_parts
from raycap.metrics import DocumentFrequency, PreparedReferences
from raycap.metrics.measure import CLIP_SCORE, REF_CLIP_SCORE, load_meteor, with_spice
from raycap.score import read_frequency
from raycap.score import report as reporting

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
    ask = plan(config, folder, manifest)
    begin = time.perf_counter()
    engines = choose_engines(config.evaluate)
    said = caption_split(
        config,
        folder,
        manifest,
        decoding,
        engines=engines,
        num_images=len(references),
        also=Also(clip=CLIP_SCORE not in ask.omitted and config.evaluate.clip_score, mean=bool(ask.features)),
    )
    seconds = time.perf_counter() - begin
    answers = join(said, references)
    report = {
        **describe(config, folder, manifest, data, decoding, device=engines.device),
        **score_answers(answers, [said[answer.image_id] for answer in answers], config.evaluate, ask),
        "captioning_s": round(seconds, 3),
    }
    path = write_report(config.evaluate.output or default_output(folder, report), report, answers)
    reporting.print_report(report, title=title(report))
    return path


@dataclass(frozen=True)
class Plan:
    """What can stand beside the captions, and why something cannot."""

    training: Sequence[Sequence[str]] = ()
    features: FeaturizeConfig | None = None
    frequency: DocumentFrequency | None = None
    """Given, where it is not to be counted in the evaluated references."""
    omitted: dict[str, str] = field(default_factory=dict)


def plan(config: EvaluateConfig, folder: str, manifest: Manifest) -> Plan:
    """Look for training captions, their photos' features and a whole CLIP; what is absent is said, not raised.

    Raises:
        ConfigError, ValueError: a metric asked for by name that cannot be had.
    """
    options = config.evaluate
    # what is asked for and missing is said before an hour of captioning
    load_meteor(*options.meteor_choice)
    frequency = read_frequency(options.document_frequency) if options.document_frequency else None
    omitted: dict[str, str] = {}
    if options.clip_score:
        from raycap.vision.clip import ClipUnavailableError, find_clip

        try:
            find_clip(moved_encoder(manifest.encoder.config, options.encoder))
        except ClipUnavailableError as error:
            omitted[CLIP_SCORE] = str(error)
    training = find_training(folder, config.data)
    features = None
    if options.baselines and options.split == "train":
        omitted[reporting.NEAREST] = "the evaluated photos are the training photos"
    elif options.baselines:
        try:
            features = training_features(training, manifest.encoder, moved_to=options.encoder)
        except ConfigError as error:
            omitted[reporting.NEAREST] = str(error)
    return Plan(training_captions(training), features, frequency, omitted)


def score_answers(
    answers: Sequence[Answer], said: Sequence[Said], options: EvaluateOptions, ask: Plan
) -> dict[str, Any]:
    """The report of answers: scores with intervals and what stands beside them, on workers where there are many."""
    captions = [answer.caption for answer in answers]
    references = [answer.references for answer in answers]
    scorer = make_scorer(answers, options, frequency=ask.frequency)
    measured = scorer.measure(captions)
    if options.spice:
        measured = with_spice(measured, reference_tokens(scorer))
    nearest: list[str] = []
    if ask.features is not None:
        queries = np.array([one.mean for one in said], dtype=np.float32)  # (images, vision_dim)
        nearest = nearest_captions(ask.features, queries)
    return reporting.describe(
        measured.with_means(clip_means(said), {}),
        scorer,
        captions=captions,
        references=references,
        options=options,
        beside=reporting.Beside(training=ask.training, nearest=nearest, omitted=ask.omitted),
    )


def make_scorer(
    answers: Sequence[Answer], options: EvaluateOptions, *, frequency: DocumentFrequency | None
) -> WorkerScorer | reporting.LocalScorer:
    """References to measure against, in this process or spread over workers."""
    references = [answer.references for answer in answers]
    ids = [answer.image_id for answer in answers]
    parts = choose_parts(options.scoring_tasks, num_images=len(answers))
    if parts > 1:
        return WorkerScorer(
            references, ids=ids, num_parts=parts, document_frequency=frequency, meteor=options.meteor_choice
        )
    prepared = PreparedReferences(references, ids=ids, document_frequency=frequency)
    return reporting.LocalScorer(prepared, load_meteor(*options.meteor_choice))


def reference_tokens(scorer: WorkerScorer | reporting.LocalScorer) -> list[list[list[str]]]:
    """Tokens of each image's references."""
    return scorer.reference_tokens() if isinstance(scorer, WorkerScorer) else scorer.prepared.all_tokens()


def clip_means(said: Sequence[Said]) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """CLIPScores of the images, where the engines were asked for them."""
    values = {name: [getattr(one, name) for one in said] for name in (CLIP_SCORE, REF_CLIP_SCORE)}
    return {name: np.array(found, dtype=np.float64) for name, found in values.items() if None not in found}


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


def join(said: dict[str, Said], references: dict[str, list[str]]) -> list[Answer]:
    """Captions with their references, in the references' order."""
    assert said.keys() == references.keys(), "every image is captioned once"
    return [
        Answer(image_id, said[image_id].caption, said[image_id].score, captions)
        for image_id, captions in references.items()
    ]
