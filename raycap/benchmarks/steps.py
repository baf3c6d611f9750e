"""Contestants of the train-step benchmark: raycap's own step, and the loop one would write first."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from raycap.benchmarks.synthetic import IMAGES, VISION_DIM, caption_batch, tokenizer
from raycap.models.gpt2_cross import Gpt2CrossConfig
from raycap.models.gpt2_cross.model import Gpt2Cross
from raycap.schema import IGNORE_INDEX, CaptionBatch
from raycap.text import unpack
from raycap.train.config import OptimConfig
from raycap.train.optim import build_optimizer
from raycap.train.step import autocast

HEAD_DIM = 64  # transformers' GPT-2 knows no other, so all contestants have it
CAPTIONS = 5 * IMAGES


class Raycap:
    """raycap's own step: what `train` does between two batches, without Ray."""

    def __init__(
        self,
        folder: Path,
        *,
        device: torch.device,
        precision: str = "bfloat16",
        packed: bool = True,
        encoder: bool = False,
        head_dim: int = HEAD_DIM,
    ) -> None:
        self.device, self.precision, self.packed = device, precision, packed
        self.config = Gpt2CrossConfig.model_validate(
            {"language_model": str(folder), "head_dim": head_dim, "lora": {"rank": 16}, "dropout": 0.1}
        )
        model = self.config.build(tokenizer=tokenizer(), vision_dim=VISION_DIM)
        assert isinstance(model, Gpt2Cross)
        model.prepare_training(precision)
        self.model = model.to(device).train()
        self.encoder = clip().to(device, torch.bfloat16) if encoder else None
        self.optimizer = build_optimizer(self.model, OptimConfig(), device=device)
        self.round = 0

    def measure(self) -> float:
        """Seconds of a step on the next batch."""
        batch = on_device(caption_batch(self.round, packed=self.packed), self.device)
        self.round += 1
        pixels = torch.randn(IMAGES, 3, 224, 224, device=self.device, dtype=torch.bfloat16)
        return seconds(lambda: self.encode_and_step(batch, pixels), device=self.device)

    def encode_and_step(self, batch: CaptionBatch, pixels: Tensor) -> None:
        """A step over cached features, or over what the encoder makes now."""
        if self.encoder is not None:
            with torch.no_grad():
                batch["features"] = self.encoder(pixels).last_hidden_state.half()
        self.step(batch)

    def step(self, batch: CaptionBatch) -> None:
        """Forward, backward, clip, update."""
        with autocast(self.device, self.precision):
            output = self.model(batch)
        (output.loss_sum / output.count).backward()
        torch.nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


class Naive:
    """A loop as one would write it: transformers' GPT-2 with cross-attention and PEFT, the frozen encoder inside."""

    def __init__(self, *, device: torch.device, layers: int, share_images: bool) -> None:
        import peft
        from transformers import GPT2Config, GPT2LMHeadModel

        self.device, self.share_images, self.round = device, share_images, 0
        model = GPT2LMHeadModel(GPT2Config(n_layer=layers, add_cross_attention=True))
        lora = peft.LoraConfig(r=16, target_modules=r".*\.attn\.(c_attn|c_proj)", fan_in_fan_out=True)
        self.model = peft.inject_adapter_in_model(lora, model).to(device).train()
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_("lora_" in name or "crossattention" in name or "ln_cross" in name)
        self.encoder = clip().to(device)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-3)

    def measure(self) -> float:
        """Seconds of a step on the next batch, one row a caption, padded to the longest."""
        rows = unpack(caption_batch(self.round), fill_id=0)
        self.round += 1
        ids, labels = rows.input_ids.to(self.device), rows.labels.to(self.device)
        images = IMAGES if self.share_images else CAPTIONS
        pixels = torch.randn(images, 3, 224, 224, device=self.device)
        return seconds(lambda: self.step(ids, labels, pixels), device=self.device)

    def step(self, ids: Tensor, labels: Tensor, pixels: Tensor) -> None:
        """Encode, forward, backward, clip, update."""
        with torch.no_grad():
            features = self.encoder(pixels).last_hidden_state
        features = features.repeat_interleave(len(ids) // len(features), dim=0)
        logits = self.model(
            input_ids=ids,
            attention_mask=(labels != IGNORE_INDEX).long(),
            encoder_hidden_states=features,
            use_cache=False,
        ).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def clip() -> Any:
    """The frozen CLIP ViT-B/32 image tower, random weights."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    return CLIPVisionModel(CLIPVisionConfig(patch_size=32)).eval().requires_grad_(False)


def seconds(call: Callable[[], object], *, device: torch.device) -> float:
    """Wall time of a call, the device's work included."""
    wait_for(device)
    started = time.perf_counter()
    call()
    wait_for(device)
    return time.perf_counter() - started


def wait_for(device: torch.device) -> None:
    """Until all work given to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def on_device(batch: CaptionBatch, device: torch.device) -> CaptionBatch:
    """The batch, moved."""
    return cast(
        CaptionBatch, {name: tensor.to(device) for name, tensor in cast(dict[str, Tensor], batch).items()}
    )
