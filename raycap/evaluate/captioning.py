"""A split's images to captions with Ray Data: pixels on CPU tasks, engines in an actor pool."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from raycap.checkpoint import Manifest
from raycap.data.progress import progress
from raycap.data.resources import Pool, choose_pool
from raycap.decoding import DecodingConfig
from raycap.engine import CaptionEngine, moved_encoder
from raycap.evaluate.config import EvaluateConfig, EvaluateOptions
from raycap.evaluate.training import list_column
from raycap.metrics.clip_score import PROMPT, clip_score, ref_clip_score
from raycap.metrics.measure import CLIP_SCORE, REF_CLIP_SCORE
from raycap.vision import EncoderConfig, Preprocessor
from raycap.vision.encoder import find_model

if TYPE_CHECKING:
    from ray.data import Dataset

    from raycap.vision.clip import Clip

BATCHES_PER_CHUNK = 4


def caption_split(
    config: EvaluateConfig,
    folder: str,
    manifest: Manifest,
    decoding: DecodingConfig,
    *,
    engines: Pool,
    num_images: int,
    also: Also,
) -> dict[str, Said]:
    """What the engines say of every image of the split, by image id."""
    said: dict[str, Said] = {}
    with progress("caption", total=num_images) as advance, plain_errors():
        graph = caption_graph(config, folder, manifest, decoding, engines, also)
        for batch in graph.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in batch.to_pylist():
                image_id = row.pop("image_id")
                said[image_id] = Said(**row)
            advance(len(batch))
    return said


@dataclass(frozen=True)
class Also:
    """What the engines are asked for beside captions."""

    clip: bool = False
    """CLIPScores."""
    mean: bool = False
    """Each image's mean feature."""


@dataclass(frozen=True)
class Said:
    """What an engine says of an image."""

    caption: str
    score: float
    clip_score: float | None = None
    ref_clip_score: float | None = None
    mean: list[float] | None = None


def caption_graph(
    config: EvaluateConfig,
    folder: str,
    manifest: Manifest,
    decoding: DecodingConfig,
    engines: Pool,
    also: Also,
) -> Dataset:
    """The streaming graph: CPU tasks read and decode chunks of rows, a pool of engines captions them."""
    from ray.data import ActorPoolStrategy

    from raycap.data.chunks import chunk_rows
    from raycap.data.splits import split_chunks
    from raycap.data.stages import decode_chunk

    options = config.evaluate
    encoder = moved_encoder(manifest.encoder.config, options.encoder)
    chunks = split_chunks(
        config.data.path,
        options.split,
        limit=config.data.limit,
        max_rows=BATCHES_PER_CHUNK * options.batch_size,
    )
    num_engines = min(options.num_engines, len(chunks))
    pixels = chunk_rows(
        chunks,
        decode_chunk,
        num_cpus=1,
        # Ray would run decoding inside the engines' actors if there were as many tasks as actors.
        tasks=max(1, len(chunks) - (len(chunks) == num_engines)),
        preprocess=Preprocessor.load(find_model(encoder.name, encoder.revision)),
        names={},
    )
    return pixels.map_batches(
        EngineActor,
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=num_engines),
        num_cpus=engines.cpus,
        num_gpus=engines.gpus or None,
        fn_constructor_kwargs={
            "folder": folder,
            "decoding": decoding.model_dump(mode="json"),
            "batch_size": options.batch_size,
            "threads": engines.cpus,
            "mean": also.mean,
            "clip": encoder.model_dump(mode="json") if also.clip else None,
            "load": {**options.of_engine(), "device": engines.device},
        },
    )


@contextmanager
def plain_errors() -> Iterator[None]:
    """A ValueError of a task, which Ray wraps with its own traces, as it was raised."""
    from ray.exceptions import RayTaskError

    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise ValueError(str(error.cause)) from None
        raise


def choose_engines(options: EvaluateOptions) -> Pool:
    """Device and reservations of the engines.

    Raises:
        ConfigError: more GPUs or CPUs than the cluster has.
    """
    return choose_pool(
        "evaluate",
        "engine",
        device=options.device,
        size=options.num_engines,
        gpus=options.gpus_per_engine,
        cpus=options.cpus_per_engine,
    )


class EngineActor:
    """An engine in Ray Data's actor pool, and a whole CLIP beside it where scores are asked for."""

    def __init__(
        self,
        *,
        folder: str,
        decoding: dict[str, Any],
        batch_size: int,
        threads: int,
        mean: bool,
        clip: dict[str, Any] | None,
        load: dict[str, Any],
    ) -> None:
        torch.set_num_threads(threads)
        self.engine = CaptionEngine.load(folder, **load)
        self.decoding = DecodingConfig.model_validate(decoding)
        self.batch_size = batch_size
        self.mean = mean
        self.clip = None
        if clip is not None:
            from raycap.vision.clip import Clip

            self.clip = Clip.load(EncoderConfig.model_validate(clip), device=self.engine.encoder.device)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """The best caption of each row's pixels, its score, and what else was asked for."""
        from raycap.data.stages import tensor_column

        pixels = np.array(tensor_column(rows, "pixels"))  # a copy: torch warns of Ray's read-only memory
        wanted = rows["captions"].to_pylist()
        parts = [
            self.answer(pixels[begin : begin + self.batch_size], wanted[begin : begin + self.batch_size])
            for begin in range(0, len(pixels), self.batch_size)
        ]
        columns = {name: pa.concat_arrays([part[name] for part in parts]) for name in parts[0]}
        return pa.table({"image_id": rows["image_id"], **columns})

    def answer(self, pixels: np.ndarray[Any, Any], wanted: list[list[str]]) -> dict[str, pa.Array]:
        """Columns of one batch; `wanted` are the references."""
        features = self.engine.encoder.encode(pixels)  # (batch, patches, vision_dim)
        best = [captions[0] for captions in self.engine.caption_features(features, self.decoding)]
        columns = {
            "caption": pa.array([caption.text for caption in best], pa.string()),
            "score": pa.array([caption.score for caption in best], pa.float64()),
        }
        if self.mean:
            columns["mean"] = list_column(features.float().mean(dim=1).cpu().numpy())
        if self.clip is not None:
            scores = clip_scores(self.clip, pixels, [caption.text for caption in best], wanted)
            columns |= {name: pa.array(values, pa.float64()) for name, values in scores.items()}
        return columns


def clip_scores(
    clip: Clip, pixels: np.ndarray[Any, Any], captions: list[str], references: list[list[str]]
) -> dict[str, np.ndarray[Any, Any]]:
    """CLIPScore and RefCLIPScore of captions on their images."""
    said = clip.embed_texts([f"{PROMPT}{caption}" for caption in captions])
    theirs = clip.embed_texts([f"{PROMPT}{caption}" for image in references for caption in image])
    parts = np.split(theirs, np.cumsum([len(image) for image in references])[:-1])
    scores = clip_score(clip.embed_images(pixels), said)
    return {CLIP_SCORE: scores, REF_CLIP_SCORE: ref_clip_score(scores, said, parts)}
