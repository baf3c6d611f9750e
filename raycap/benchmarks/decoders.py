"""Who captions in the `decode` benchmark: transformers' generate(), the same in dynamic int8, CTranslate2, raycap.

All decode the same random GPT-2 for the same number of tokens; the end token is banned before the last.
"""

from __future__ import annotations

import copy
import importlib.util
import tempfile
import warnings
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from raycap.benchmarks.synthetic import END, save_gpt2
from raycap.decoding import DecodingConfig
from raycap.models.gpt2_cross.decoder import Decoder
from raycap.models.kernels import has_onednn

TOKENS = 20
CUT = 12_000  # Flickr30k's captions use about this many of GPT-2's tokens


class Contestant(Protocol):
    """Token ids of one caption for each image of features (batch, patches, model_dim)."""

    def __call__(self, features: Tensor, *, beams: int) -> list[list[int]]: ...


class Generate:
    """transformers' generate() with cross-attention."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, features: Tensor, *, beams: int) -> list[list[int]]:
        prompt = torch.full((len(features), 1), END)
        made = self.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            encoder_hidden_states=features.to(self.model.dtype),
            num_beams=beams,
            do_sample=False,
            min_new_tokens=TOKENS - 1,
            max_new_tokens=TOKENS,
            eos_token_id=END,
            pad_token_id=END,
            use_cache=True,
        )
        tokens: list[list[int]] = made[:, 1:].tolist()
        return tokens


class Raycap:
    """raycap's decoder."""

    def __init__(self, model: Any, **settings: Any) -> None:
        self.decoder = Decoder.from_transformers(model, start_id=END, end_id=END, **settings)

    def __call__(self, features: Tensor, *, beams: int) -> list[list[int]]:
        decoding = DecodingConfig(beams=beams, max_tokens=TOKENS, min_tokens=TOKENS - 1)
        return [found[0].token_ids for found in self.decoder.caption(features, decoding)]


class CTranslate2:
    """CTranslate2's int8 GPT-2. It has no cross-attention: a seventh of the work is not done."""

    def __init__(self, folder: Path, *, layers: int) -> None:
        import ctranslate2
        from ctranslate2.converters import TransformersConverter

        source = save_gpt2(folder / "gpt2", layers=layers)
        converted = TransformersConverter(str(source)).convert(str(folder / "converted"), quantization="int8")
        self.generator = ctranslate2.Generator(
            converted,
            device="cpu",
            compute_type="int8",
            inter_threads=1,
            intra_threads=torch.get_num_threads(),
        )

    def __call__(self, features: Tensor, *, beams: int) -> list[list[int]]:
        found = self.generator.generate_batch(
            [["<|endoftext|>"]] * len(features),
            beam_size=beams,
            sampling_topk=1,
            min_length=TOKENS,
            max_length=TOKENS,
            include_prompt_in_result=False,
        )
        return [result.sequences_ids[0] for result in found]


class DynamicInt8(nn.Module):
    """torch's dynamic int8 linear layer (FBGEMM), what `quantize_dynamic` puts in place of nn.Linear."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        scales = weight.abs().amax(dim=1).double() / 127
        with warnings.catch_warnings():  # the dtype is deprecated from torch 2.13, and the peer needs it
            warnings.filterwarnings("ignore", message="torch.quantize_per_tensor", category=UserWarning)
            quantized = torch.quantize_per_channel(
                weight.contiguous(), scales, torch.zeros(len(weight), dtype=torch.int64), 0, torch.qint8
            )
            self.packed = torch.ops.quantized.linear_prepack(quantized, bias)

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = torch.ops.quantized.linear_dynamic(x, self.packed, False)
        return product


@torch.no_grad()
def dynamic_int8(model: Any) -> Any:
    """A copy of the model with every linear layer, the head too, in dynamic int8."""
    from transformers.pytorch_utils import Conv1D

    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, Conv1D):
                setattr(parent, name, DynamicInt8(layer.weight.T, layer.bias))
            elif isinstance(layer, nn.Linear):
                setattr(parent, name, DynamicInt8(layer.weight, layer.bias))
    return model


def random_gpt2(*, layers: int) -> Any:
    """GPT-2 (124M with 12 layers) with cross-attention of full width in every block, random."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_layer=layers, add_cross_attention=True)).eval()


def contestants(*, layers: int) -> dict[str, Contestant]:
    """All that this machine can run, by name."""
    model = random_gpt2(layers=layers)
    cut = range(CUT)
    found: dict[str, Contestant] = {
        "generate() float32": Generate(model),
        "generate() bfloat16": Generate(copy.deepcopy(model).bfloat16()),
        "raycap float32": Raycap(model),
        "raycap bfloat16": Raycap(model, precision="bfloat16"),
        "raycap bfloat16, cut": Raycap(model, precision="bfloat16", vocabulary=cut),
    }
    if has_onednn():
        found["generate() int8"] = Generate(dynamic_int8(model))
        found["raycap int8"] = Raycap(model, precision="int8")
        found["raycap int8, cut"] = Raycap(model, precision="int8", vocabulary=cut)
    if importlib.util.find_spec("ctranslate2"):
        with tempfile.TemporaryDirectory(prefix="raycap-bench-") as folder:
            found["CTranslate2 int8"] = CTranslate2(Path(folder), layers=layers)
    return found
