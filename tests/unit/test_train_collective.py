"""What the ranks exchange, where the backend takes it."""

import pytest
import torch

from raycap.train import collective


@pytest.mark.parametrize(("backend", "expected"), [("nccl", "cuda:3"), ("gloo", "cpu")])
def test_the_sum_lies_where_the_backend_takes_it(
    backend: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation's sums are on the CPU and stayed there under NCCL, which failed from two GPU workers on."""
    monkeypatch.setattr("torch.distributed.get_backend", lambda: backend)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 3)
    assert collective.device_of_group() == torch.device(expected)

    moved: list[torch.device] = []

    def to(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        moved.append(device)  # there is no GPU to move it to
        return tensor.double()

    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda tensor: tensor.mul_(2))
    monkeypatch.setattr(collective, "world_size", lambda: 2)
    assert collective.sum_over_ranks(torch.tensor([1.0, 2.0])) == [2.0, 4.0]
    assert moved == [torch.device(expected)]
