"""One training step against its peers, and `train` against a plain loop over the same tensors (Ray's cost).

The peers: the encoder inside the step, float32, captions unpacked, and the loop one would write first. GPT-2 124M
and CLIP ViT-B/32 at full size with random weights; captions as long as Flickr30k's are.
"""

from __future__ import annotations

import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

from raycap.benchmarks.featurize import interleaved, median_ratio
from raycap.benchmarks.loop_overhead import loop_rows
from raycap.benchmarks.steps import HEAD_DIM, Naive, Raycap, seconds
from raycap.benchmarks.synthetic import BATCHES, IMAGES, PATCHES, VISION_DIM, VOCAB, caption_batch, save_gpt2
from raycap.vision import choose_device

STEPS = {
    "cached": "step over cached features, bfloat16, packed",
    "heads of 16": "the same with heads of 16 (the default)",
    "encoder": "the same with the encoder in it (bfloat16, an image once)",
    "float32": "the same in float32",
    "unpacked": "the same with one caption a row",
    "naive, image once": "naive step: encoder in it, float32, padded to the longest; an image once",
    "naive": "naive step over (image, caption) pairs: an image once for each caption",
}


def train_step_rows(*, quick: bool = False) -> list[dict[str, Any]]:
    """Rows for `jobs/benchmark.py train-step`."""
    layers = 2 if quick else 12
    device = torch.device(choose_device("auto"))
    with tempfile.TemporaryDirectory(prefix="raycap-bench-") as temporary:
        folder = save_gpt2(Path(temporary) / "gpt2", layers=layers)
        rows = step_rows(folder, device=device, layers=layers, rounds=1 if quick else 7)
        return rows + loop_rows(folder, device=device, layers=layers, quick=quick)


def step_rows(folder: Path, *, device: torch.device, layers: int, rounds: int) -> list[dict[str, Any]]:
    """Every contestant's step on the same batches, one after another in every round."""
    ours = partial(Raycap, folder, device=device)
    contestants: dict[str, Raycap | Naive] = {
        "cached": ours(),
        "heads of 16": ours(head_dim=16),
        "encoder": ours(encoder=True),
        "float32": ours(precision="float32"),
        "unpacked": ours(packed=False),
        "naive, image once": Naive(device=device, layers=layers, share_images=True),
        "naive": Naive(device=device, layers=layers, share_images=False),
    }
    taken = interleaved({name: each.measure for name, each in contestants.items()}, rounds=rounds)
    sizes = f"{IMAGES} images x 5 captions, GPT-2 of {layers} layers, LoRA 16, heads of {HEAD_DIM}, {device}"
    milliseconds = {name: statistics.median(values) * 1e3 for name, values in taken.items()}
    gap = milliseconds["cached"] / floor_ms(layers=layers, device=device)
    return [
        {
            "row": label,
            "value": milliseconds[name],
            "unit": "ms",
            "ratio": median_ratio(taken[name], taken["cached"]),
            "ratio_to": "first row",
            "aim": ">= 4" if name == "naive" else "",
            "floor_gap": gap if name == "cached" else None,
            "threads": torch.get_num_threads(),
            "sizes": sizes,
        }
        for name, label in STEPS.items()
    ]


def floor_ms(*, layers: int, device: torch.device) -> float:
    """Matrix products a step cannot do without, at the rate measured for large ones in bfloat16.

    A frozen weight is met twice (forward, and the gradient of its input), a trained one three times. Attention's
    own products, a hundredth of these, are left out.
    """
    tokens = statistics.mean(int((caption_batch(n)["labels"] >= 0).sum()) for n in range(BATCHES))
    width = 768
    frozen = tokens * (layers * 12 * width**2 + VOCAB * width)
    adapters = tokens * layers * 16 * (2 * width + 4 * width)
    cross = layers * 2 * (tokens * width**2 + IMAGES * PATCHES * VISION_DIM * width)
    operations = 2 * (2 * frozen + 3 * (adapters + cross))
    return operations / matrix_rate(device) * 1e3


def matrix_rate(device: torch.device) -> float:
    """Operations a second of a large bfloat16 product: the best of ten."""
    left, right = (torch.randn(2048, 2048, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = min(seconds(lambda: torch.matmul(left, right), device=device) for _ in range(10))
    return 2 * 2048**3 / best
