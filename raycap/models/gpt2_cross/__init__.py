"""gpt2_cross: GPT-2 with cross-attention to the image in every block, adapted by LoRA."""

from raycap.models.gpt2_cross.config import Gpt2CrossConfig, LoraConfig

__all__ = ["Gpt2CrossConfig", "LoraConfig"]
