"""Settings of the gpt2_cross family."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field

from raycap.config import Frozen
from raycap.models.base import FamilyConfig
from raycap.text import CaptionTokenizer

if TYPE_CHECKING:
    from raycap.models.gpt2_cross.model import Gpt2Cross


def number(value: object) -> object:
    """Digits as the number they spell: flags and environment variables come as text."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


class LoraConfig(Frozen):
    """Low-rank adapters of GPT-2's own layers (PEFT)."""

    rank: int = Field(default=16, ge=0, le=1024)
    """Rank of the adapters; 0 leaves GPT-2 as it is."""
    alpha: float = Field(default=16.0, gt=0)
    """Adapters are scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before an adapter."""
    mlp: bool = False
    """Adapt the MLP as well as the self-attention."""


class Gpt2CrossConfig(FamilyConfig):
    """GPT-2 with cross-attention to the image in every block."""

    family: Literal["gpt2_cross"] = "gpt2_cross"
    language_model: str
    """A GPT-2-shaped checkpoint: gpt2, gpt2-medium, gpt2-large, distilgpt2, another hub name, or a folder."""
    head_dim: Annotated[Literal[8, 16, 32, 64], BeforeValidator(number)] = 16
    """Width of a cross-attention head."""
    heads: Literal["as_language_model"] | Annotated[int, Field(ge=1)] = "as_language_model"
    """Cross-attention heads; as_language_model takes as many as GPT-2 itself has."""
    start: Literal["projection", "gate"] = "projection"
    """What is zero at the start, where training begins at plain GPT-2: output projection or tanh gate."""
    lora: LoraConfig = LoraConfig()
    quantization: Literal["none", "8bit", "4bit"] = "none"
    """Hold the frozen GPT-2 in 8 or 4 bits (bitsandbytes)."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout of the embeddings and of what every layer adds, in place of the checkpoint's own."""
    feature_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the image tokens left out of each training step."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Of the training loss; the validation loss is without."""

    def load_tokenizer(self) -> CaptionTokenizer:
        """The language model's tokenizer."""
        return CaptionTokenizer.load(self.language_model)

    def build(self, *, tokenizer: CaptionTokenizer, vision_dim: int) -> Gpt2Cross:
        """A fresh model on the CPU; see FamilyConfig.build."""
        from raycap.models.gpt2_cross.model import Gpt2Cross  # imports transformers and PEFT: seconds

        return Gpt2Cross(self, tokenizer=tokenizer, vision_dim=vision_dim)
