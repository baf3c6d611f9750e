"""The decoder's matrix kernels against plain torch."""

import pytest
import torch

from raycap.models import kernels


@pytest.mark.parametrize("rows", [1, 6])
def test_int8_takes_a_transposed_weight(rows: int) -> None:
    """GPT-2's Conv1D weights arrive transposed; packed as they lay in memory, every int8 caption was garbage."""
    if not kernels.has_onednn():
        pytest.skip("no int8 kernel on this machine")
    torch.manual_seed(0)
    weight, bias, x = torch.randn(64, 192).T, torch.randn(192), torch.randn(rows, 64)  # weight (192, 64)
    expected = torch.nn.functional.linear(x, weight, bias)
    found = kernels.Int8Linear(weight, bias)(x)
    assert ((found - expected).norm() / expected.norm()).item() < 0.02
