"""How much GPU memory training takes; nothing on other devices."""

from __future__ import annotations

import torch

from raycap.train.collective import gather

GIB = 2**30


def begin_peak(device: torch.device) -> None:
    """Measure the peak from here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> dict[str, float]:
    """gpu_memory_gib: the most that any rank's tensors took since `begin_peak`. Every rank must call it."""
    if device.type != "cuda":
        return {}
    return {"gpu_memory_gib": max(gather(torch.cuda.max_memory_allocated(device) / GIB))}
