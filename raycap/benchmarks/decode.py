"""Captions a second of raycap's decoder against its peers and against what the machine allows.

GPT-2 124M with full-width cross-attention over 50 x 768 features, random weights, 20 tokens a caption: what is
measured is the work, not the captions. What lower precision does to real captions is in precision.py.
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import Any

import torch
from torch import Tensor

from raycap.benchmarks.decoders import CUT, TOKENS, Contestant, contestants
from raycap.benchmarks.featurize import interleaved, median_ratio
from raycap.benchmarks.synthetic import PATCHES, VISION_DIM, VOCAB
from raycap.models.kernels import Precision, has_onednn, linear

SIZES = [(1, 1), (8, 1), (32, 1), (1, 3), (8, 3), (32, 3)]  # batch, beams
FULL = "generate() float32"
BYTES: dict[Precision, int] = {"float32": 4, "bfloat16": 2, "int8": 1}
PEERS = {
    "raycap float32": FULL,
    "raycap bfloat16": "generate() bfloat16",
    "raycap bfloat16, cut": "generate() bfloat16",
    "raycap int8": "generate() int8",
    "raycap int8, cut": "generate() int8",
}
AIMS = {("raycap float32", 3): ">= 1.2", ("raycap bfloat16", 1): ">= 1.25", ("raycap bfloat16", 3): ">= 1.5"}


def decode_rows(*, quick: bool = False) -> list[dict[str, Any]]:
    """Rows for `jobs/benchmark.py decode`."""
    layers = 2 if quick else 12
    everyone = contestants(layers=layers)
    rates = machine_rates()
    rows = [same_tokens(everyone)]
    for batch, beams in [SIZES[0], SIZES[4]] if quick else SIZES:
        features = torch.randn(batch, PATCHES, VISION_DIM, generator=torch.Generator().manual_seed(batch))
        taken = interleaved(
            {name: partial(seconds, one, features, beams) for name, one in everyone.items()},
            rounds=1 if quick else 5,
        )
        sizes = f"batch {batch}, beams {beams}, {TOKENS} tokens, {layers} layers, cpu"
        floors = floor_seconds(rates, layers=layers, batch=batch, beams=beams)
        rows += size_rows(taken, floors, batch=batch, beams=beams, sizes=sizes)
    if "CTranslate2 int8" not in everyone:
        missing = "skipped: not installed (pip install raycap[bench])"
        rows.append(row("CTranslate2 int8", None, sizes=missing))
    return rows


def size_rows(
    taken: dict[str, list[float]],
    floors: dict[str, float],
    *,
    batch: int,
    beams: int,
    sizes: str,
) -> list[dict[str, Any]]:
    """One row a contestant, then raycap's fastest against generate() in float32."""
    middle = {name: statistics.median(times) for name, times in taken.items()}
    rows = []
    for name, times in taken.items():
        peer = PEERS.get(name, FULL)
        rows.append(
            row(
                name,
                batch / middle[name],
                ratio=median_ratio(taken[peer], times),
                ratio_to=peer,
                aim=AIMS.get((name, beams), ""),
                floor_gap=middle[name] / floors[name] if name in floors else None,
                sizes=sizes,
            )
        )
    best = min((name for name in taken if name.startswith("raycap")), key=middle.__getitem__)
    rows.append(
        row(
            f"raycap's fastest: {best.removeprefix('raycap ')}",
            batch / middle[best],
            ratio=median_ratio(taken[FULL], taken[best]),
            ratio_to=FULL,
            aim=">= 4",
            floor_gap=middle[best] / floors[best],
            sizes=sizes,
        )
    )
    return rows


def row(
    name: str, value: float | None, *, sizes: str, unit: str = "captions/s", **rest: Any
) -> dict[str, Any]:
    """A row of the table with what it does not have left empty."""
    empty = {"ratio": None, "ratio_to": "", "aim": "", "floor_gap": None}
    threads = torch.get_num_threads()
    return {"row": name, "value": value, "unit": unit, **empty, **rest, "threads": threads, "sizes": sizes}


def same_tokens(everyone: dict[str, Contestant]) -> dict[str, Any]:
    """Share of captions on which raycap in float32 and generate() agree token by token."""
    features = torch.randn(4, PATCHES, VISION_DIM, generator=torch.Generator().manual_seed(1))
    same = [
        ours == theirs
        for beams in (1, 3)
        for ours, theirs in zip(
            everyone["raycap float32"](features, beams=beams),
            everyone[FULL](features, beams=beams),
            strict=True,
        )
    ]
    sizes = "4 images, beams 1 and 3"
    return row(
        "float32: same tokens as generate()", sum(same) / len(same), unit="share", aim="1", sizes=sizes
    )


def seconds(contestant: Contestant, features: Tensor, beams: int) -> float:
    """Wall time of captioning the features once."""
    started = time.perf_counter()
    contestant(features, beams=beams)
    return time.perf_counter() - started


def machine_rates() -> dict[str, float]:
    """Bytes a second when reading memory, and operations a second of a large product in each precision."""
    memory = torch.ones(1 << 27)  # 512 MB, past any cache of its own core
    rates = {"bytes": memory.numel() * 4 / best_of(memory.sum)}
    size = 2048
    weight, rows = torch.randn(size, size), torch.randn(size, size)
    for precision in BYTES:
        if precision == "int8" and not has_onednn():
            continue
        layer = linear(weight, torch.zeros(size), precision=precision, device=torch.device("cpu"))
        rates[precision] = 2 * size**3 / best_of(partial(layer, rows))
    return rates


def best_of(call: Any, *, times: int = 10) -> float:
    """Shortest wall time of a call, in seconds."""
    with torch.inference_mode():
        found = []
        for _ in range(times):
            started = time.perf_counter()
            call()
            found.append(time.perf_counter() - started)
    return min(found)


def floor_seconds(rates: dict[str, float], *, layers: int, batch: int, beams: int) -> dict[str, float]:
    """What no decoder can undercut: weights read once a token, or its matrix products, whichever takes longer.

    A block has 14 squares of the width: 4 of self-attention, 2 of cross-attention (queries, output), 8 of the MLP;
    cross-attention's keys and values are 2 more, once an image. Attention's own products are left out.
    """
    square = VISION_DIM**2
    rows = batch * (1 + (TOKENS - 1) * beams)
    floors = {}
    for name in PEERS:
        precision: Precision = next(known for known in BYTES if known in name)
        if precision not in rates:
            continue
        weights = layers * 14 * square + (CUT if "cut" in name else VOCAB) * VISION_DIM
        image = layers * 2 * square
        reading = (TOKENS * weights + image) * BYTES[precision] / rates["bytes"]
        computing = 2 * (rows * weights + batch * PATCHES * image) / rates[precision]
        floors[name] = max(reading, computing)
        floors.setdefault(PEERS[name], floors[name])
    return floors
