"""Featurizing against its peers: preprocessing beside transformers' processor, the Ray Data graph beside a bare loop.

CLIP ViT-B/32 at full size with random weights; photos of about 500 x 375 (real ones where `../shared` has them).
"""

from __future__ import annotations

import io
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from raycap.config import DataConfig
from raycap.data import start_ray
from raycap.data.featurize import (
    FeaturizeConfig,
    FeaturizeOptions,
    choose_encoders,
    chunk_rows_of,
    plan,
    run_graph,
)
from raycap.data.resources import Pool
from raycap.schema import IMAGE_SCHEMA
from raycap.vision import EncoderConfig, Preprocessor, VisionEncoder, decode_image, encoder_fingerprint

PHOTOS = Path(__file__).resolve().parents[3] / "shared/flickr8k-sample/Images"
MODEL = "CLIP ViT-B/32, random weights"
BATCH = 32
Dtype = Literal["float32", "bfloat16"]


def featurize_rows(*, quick: bool = False) -> list[dict[str, Any]]:
    """Rows for `jobs/benchmark.py featurize`: preprocessing on one core, then the graph in float32 and bfloat16."""
    photos = sample_photos(16 if quick else 100)
    with tempfile.TemporaryDirectory(prefix="raycap-bench-") as temporary:
        folder = Path(temporary)
        model = save_clip(folder / "clip")
        rows = preprocessing_rows(photos, model, rounds=3 if quick else 9)
        start_ray()
        encoders = choose_encoders(FeaturizeOptions())
        kinds: tuple[Dtype, ...] = ("bfloat16",) if quick else ("float32", "bfloat16")
        for dtype in kinds:
            rows += graph_rows(photos, model, folder / dtype, dtype=dtype, encoders=encoders, quick=quick)
    return rows


def sample_photos(count: int) -> list[bytes]:
    """Encoded photos: Flickr8k's where they lie beside the project, else smooth noise with grain, as large."""
    files = sorted(PHOTOS.glob("*.jpg"))[:count]
    if files:
        return [file.read_bytes() for file in files]
    generator = np.random.default_rng(0)
    made = []
    for _ in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)).astype(np.float32)
        grainy = np.clip(pixels + generator.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(grainy).save(buffer, "JPEG", quality=92)
        made.append(buffer.getvalue())
    return made


def save_clip(folder: Path) -> Path:
    """A full-size CLIP ViT-B/32 image tower of random weights, with CLIP's preprocessing."""
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    CLIPVisionModel(CLIPVisionConfig(patch_size=32)).save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)
    return folder


def preprocessing_rows(photos: list[bytes], model: Path, *, rounds: int) -> list[dict[str, Any]]:
    """JPEG bytes to encoder input on one core: raycap, transformers, and decoding alone."""
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(model, backend="pil")
    own = Preprocessor.load(model)
    scale, shift = (np.array(v, dtype=np.float32)[:, None, None] for v in (own.scale, own.shift))
    contestants: dict[str, Callable[[bytes], Any]] = {
        "transformers": lambda data: processor(Image.open(io.BytesIO(data)), return_tensors="np")[
            "pixel_values"
        ],
        "raycap": lambda data: own(decode_image(data)),
        "normalised": lambda data: own(decode_image(data)) * scale + shift,
        "decoding": decode_image,
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rates = interleaved({name: per_photo(call, photos) for name, call in contestants.items()}, rounds=rounds)
    torch.set_num_threads(threads)
    sizes = f"{len(photos)} JPEGs of about 500 x 375, {sum(map(len, photos)) // len(photos) // 1000} kB"
    labels = {
        "raycap": "JPEG -> encoder input (uint8; normalising is part of the encoder's step)",
        "normalised": "JPEG -> normalised float32",
        "decoding": "JPEG decoding alone (the floor)",
        "transformers": "JPEG -> normalised float32 by transformers' CLIPImageProcessor",
    }
    return [
        {
            "row": label,
            "value": statistics.median(rates[name]),
            "unit": "images/s of a core",
            "ratio": None if name == "transformers" else median_ratio(rates[name], rates["transformers"]),
            "ratio_to": "" if name == "transformers" else "transformers",
            "aim": ">= 2.5" if name == "raycap" else "",
            "threads": 1,
            "sizes": sizes,
        }
        for name, label in labels.items()
    ]


def graph_rows(
    photos: list[bytes], model: Path, folder: Path, *, dtype: Dtype, encoders: Pool, quick: bool
) -> list[dict[str, Any]]:
    """Images a second through the Ray Data graph with one encoder, and through a loop without Ray."""
    encoder_config = EncoderConfig(name=str(model), dtype=dtype)
    encoder = VisionEncoder(encoder_config, device=encoders.device)
    few, many = (256, 512) if quick else (256, 256 + 768)
    config = FeaturizeConfig(
        data=DataConfig(path=str(write_rows(folder / "rows", photos, many))),
        encoder=encoder_config,
        featurize=FeaturizeOptions(output=str(folder / "features"), batch_size=BATCH),
    )
    torch.set_num_threads(encoders.cpus)
    size = 128 if quick else 256
    bare_loop(encoder, photos, images=size)
    bare, graph, ratios = [bare_loop(encoder, photos, images=size)], [], []
    for attempt in range(1 if quick else 3):
        seconds = [graph_seconds(config, images, encoders, tag=f"{attempt}") for images in (few, many)]
        graph.append(
            (many - few) / (seconds[1] - seconds[0])
        )  # the difference leaves out starting the actors
        bare.append(bare_loop(encoder, photos, images=size))
        ratios.append(graph[-1] / statistics.mean(bare[-2:]))
    sizes = f"{MODEL}, {dtype}, batch {BATCH}, {many - few} images, features written to disk"
    threads = f"{encoders.cpus} to encode"
    shared = {"unit": "images/s", "threads": threads, "sizes": sizes}
    return [
        {
            "row": f"Ray Data graph, {dtype}",
            "value": statistics.median(graph),
            "ratio": statistics.median(ratios),
            "ratio_to": "bare loop before and after",
            "aim": ">= 0.9",
            **shared,
        },
        {"row": f"bare loop with decoding, {dtype}", "value": statistics.median(bare), **shared},
    ]


def write_rows(folder: Path, photos: list[bytes], count: int) -> Path:
    """Prepared rows that repeat the photos."""
    images = itertools.islice(itertools.cycle(photos), count)
    rows = [
        {"image_id": f"{number:06}", "split": "train", "image": image, "captions": ["A photo."]}
        for number, image in enumerate(images)
    ]
    (folder / "train").mkdir(parents=True)
    table = pa.Table.from_pylist(rows, schema=IMAGE_SCHEMA)
    pq.write_table(table, folder / "train" / "part-00000.parquet", row_group_size=64)
    manifest = {"fingerprint": str(folder), "counts": {"train": count}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def bare_loop(encoder: VisionEncoder, photos: list[bytes], *, images: int) -> float:
    """Images a second of decode, preprocess, encode, one batch after another."""
    source = itertools.cycle(photos)
    started = time.perf_counter()
    for _ in range(images // BATCH):
        pixels = np.stack([encoder.preprocess(decode_image(next(source))) for _ in range(BATCH)])
        encoder.encode(pixels).cpu().numpy()
    return images / (time.perf_counter() - started)


def graph_seconds(config: FeaturizeConfig, images: int, encoders: Pool, *, tag: str) -> float:
    """Seconds of the graph over the first so many images, from its start to the last file written."""
    preprocess = Preprocessor.load(Path(config.encoder.name))
    limited = DataConfig(path=config.data.path, limit=images)
    config = FeaturizeConfig(data=limited, encoder=config.encoder, featurize=config.featurize)
    fingerprint = encoder_fingerprint(config.encoder)
    work = plan(
        config,
        f"{config.featurize.output}/{tag}-{images}",
        chunk_rows=chunk_rows_of(preprocess, batch_size=BATCH),
    )
    started = time.perf_counter()
    made = list(run_graph(work, config, preprocess, fingerprint=fingerprint, encoders=encoders))
    seconds = time.perf_counter() - started
    assert sum(item["rows"] for item in made) == images
    return seconds


def per_photo(call: Callable[[bytes], Any], photos: list[bytes]) -> Callable[[], float]:
    """A measurement: images a second of a core in one pass over the photos, by CPU time, not by the clock."""

    def measure() -> float:
        started = time.process_time()
        for photo in photos:
            call(photo)
        return len(photos) / (time.process_time() - started)

    return measure


def interleaved(contestants: dict[str, Callable[[], float]], *, rounds: int) -> dict[str, list[float]]:
    """Each measurement once a round, so that a busy moment of the machine hits all of them."""
    for measure in contestants.values():
        measure()
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, measure in contestants.items():
            taken[name].append(measure())
    return taken


def median_ratio(values: list[float], others: list[float]) -> float:
    """Median over the rounds of the ratio within a round."""
    return statistics.median(value / other for value, other in zip(values, others, strict=True))
