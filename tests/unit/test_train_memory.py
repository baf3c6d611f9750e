"""GPU memory: the largest of all ranks' peaks, and no figure at all where there is no GPU."""

import pytest
import torch

from raycap.train import memory


def test_nothing_is_measured_off_the_gpu() -> None:
    memory.begin_peak(torch.device("cpu"))
    assert memory.peak_memory(torch.device("cpu")) == {}


def test_the_largest_peak_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    reset: list[torch.device] = []
    device = torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda of: {device: 3 * 2**30}[of])
    monkeypatch.setattr(memory, "gather", lambda own: [0.5, own, 1.5])
    memory.begin_peak(device)
    assert reset == [device]
    assert memory.peak_memory(device) == {"gpu_memory_gib": 3.0}
