"""Linear layers for decoding: few rows, the same weights again and again.

`linear` chooses the layout: plain matrices anywhere, oneDNN's packed ones on x86 (an unpacked bfloat16 matrix is
re-ordered at every call), and int8. A layer takes (rows, in) and gives (rows, out).
"""

from __future__ import annotations

import functools
import math
import platform
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from raycap.config import ConfigError

Precision = Literal["float32", "bfloat16", "int8"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8")


class Linear(Protocol):
    """weight @ x + bias, then perhaps GELU; the result has the layer's own dtype."""

    def __call__(self, x: Tensor) -> Tensor: ...


def linear(
    weight: Tensor, bias: Tensor, *, precision: Precision, device: torch.device, gelu: bool = False
) -> Linear:
    """A layer of weight (out, in) float32 and bias (out,), with GELU (tanh form) behind it on demand.

    Raises:
        ConfigError: int8 where this machine has no kernel for it.
    """
    weight, bias = weight.detach().to(device), bias.detach().to(device)
    if precision == "int8":
        return Int8Linear(weight, bias, gelu=gelu)
    weight, bias = weight.to(DTYPES[precision]), bias.to(DTYPES[precision])
    return (PackedLinear if packs(device, weight.dtype) else PlainLinear)(weight, bias, gelu=gelu)


class Head:
    """Logits, float32 whatever the precision, from a final state.

    GPT-2's logits are large numbers that differ little (-100 to -80, say), which bfloat16 and int8 would round
    away: there the mean row of the weight is taken out, and its part is added back in float32.
    """

    def __init__(self, weight: Tensor, *, precision: Precision, device: torch.device) -> None:
        weight = weight.detach().to(device)
        self.mean = weight.mean(dim=0)[:, None]  # (in, 1)
        nothing = torch.zeros(len(weight), device=device)
        self.exact = precision == "float32"
        part = weight if self.exact else weight - self.mean.T
        self.layer = linear(part, nothing, precision=precision, device=device)

    def __call__(self, x: Tensor) -> Tensor:
        """Final states (rows, in) float32 -> (rows, out) float32."""
        if self.exact:
            return self.layer(x)
        offset = x @ self.mean  # (rows, 1)
        if isinstance(self.layer, Int8Linear):
            peak = self.layer.peak(x)
            product = self.layer.unscaled(x, peak)
            return torch.addcmul(offset, product, peak, out=product)
        return torch.add(offset, self.layer(x))


class PlainLinear:
    """A matrix as torch multiplies by it, on any device."""

    def __init__(self, weight: Tensor, bias: Tensor, *, gelu: bool = False) -> None:
        self.weight, self.bias, self.gelu = weight, bias, gelu

    def __call__(self, x: Tensor) -> Tensor:
        product = functional.linear(x.to(self.weight.dtype), self.weight, self.bias)
        return gelu_(product) if self.gelu else product


class PackedLinear:
    """A matrix in oneDNN's own layout, of the weight's dtype.

    Packed for one row: then on Intel's processors (AVX-512, with and without AMX) the kernel adds up in the same
    order whatever the number of rows. On AMD's it does not, so that logits depend on the batch within rounding.
    """

    def __init__(self, weight: Tensor, bias: Tensor, *, gelu: bool = False) -> None:
        self.dtype = weight.dtype
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 1)
        self.bias = bias
        self.after: tuple[str, list[float], str] = ("gelu", [], "tanh") if gelu else ("none", [], "")

    def __call__(self, x: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            x.to(self.dtype), self.weight, self.bias, *self.after
        )
        return product


class Int8Linear:
    """int8 weights with a scale for each output, uint8 inputs with a scale for each row.

    A scale for the whole input, as dynamic quantization has it, would make a caption depend on the other rows of
    its batch; with one for each row, and exact integer sums, it cannot. Uses the plain-tensor kernels that
    torch.export's quantization runs on; FBGEMM's need tensors of the deprecated quantized dtypes
    (https://github.com/pytorch/pytorch/issues/184982).
    """

    def __init__(self, weight: Tensor, bias: Tensor, *, gelu: bool = False) -> None:
        self.gelu = gelu
        levels = int8_levels(weight.device.type)
        self.levels = torch.tensor(float(levels))
        self.middle = levels + 1  # where zero lies among unsigned rows
        peak = weight.abs().amax(dim=1).clamp_min(1e-12)  # (out,)
        # Packing takes rows as they lie in memory: a transposed weight must be laid out first.
        quantized = (weight * (127 / peak[:, None])).round().to(torch.int8).contiguous()  # (out, in)
        self.weight = torch.ops.onednn.qlinear_prepack(quantized, None)
        self.scales = peak / (127 * levels)
        self.zero_points = torch.zeros(len(weight), dtype=torch.int64)
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        peak = self.peak(x)
        product = torch.addcmul(self.bias, self.unscaled(x, peak), peak)
        return gelu_(product) if self.gelu else product

    @staticmethod
    def peak(x: Tensor) -> Tensor:
        """Largest magnitude of every row, (rows, 1)."""
        return x.abs().amax(dim=1, keepdim=True)

    def unscaled(self, x: Tensor, peak: Tensor) -> Tensor:
        """weight @ (x / peak), peak (rows, 1) being the rows' largest magnitudes."""
        signed = (x * torch.div(self.levels, peak)).round_().to(torch.int8)
        # Every x86 kernel takes unsigned rows, only AMX signed ones. Float to uint8 directly is 3x slower.
        rows = signed.view(torch.uint8).add_(self.middle)  # wraps: -levels becomes 1
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            rows, 1.0, self.middle, self.weight, self.scales, self.zero_points, None,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return product  # (rows, out)


def gelu_(x: Tensor) -> Tensor:
    """GELU in its tanh form, in place. Written as x * sigmoid(...): 1.7x faster on CPU than torch's kernel."""
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return functional.gelu(x, approximate="tanh")
    slope = 2 * (2 / math.pi) ** 0.5
    inner = x * x
    return x.mul_(inner.mul_(0.044715 * slope).add_(slope).mul_(x).sigmoid_())


@functools.cache
def packs(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN has packed matrices of this dtype here."""
    if device.type != "cpu" or not has_onednn():
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def has_onednn() -> bool:
    """Whether this is an x86 machine whose torch was built with oneDNN."""
    built: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return built and platform.machine().lower() in {"x86_64", "amd64"}


@functools.cache
def int8_levels(device: str) -> int:
    """Steps on each side of zero that inputs may take: 127, or 63 where 127 overflows (AVX2 without VNNI).

    Raises:
        ConfigError: no int8 kernel here.
    """
    if device != "cpu" or not has_onednn():
        place = f"a CPU of kind {platform.machine()}" if device == "cpu" else device
        raise ConfigError(
            f"int8 decoding needs oneDNN on an x86 CPU, and this is {place}; use bfloat16 or float32"
        )
    weight = torch.ops.onednn.qlinear_prepack(torch.full((16, 64), 127, dtype=torch.int8), None)
    ones, zeros = torch.ones(16), torch.zeros(16, dtype=torch.int64)
    rows = torch.full((1, 64), 255, dtype=torch.uint8)
    sums = torch.ops.onednn.qlinear_pointwise(
        rows, 1.0, 0, weight, ones, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return 127 if bool((sums == 64 * 255 * 127).all()) else 63
