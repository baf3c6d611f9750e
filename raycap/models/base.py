"""The contract between a model family and everything else.

A family is one config (a subclass of FamilyConfig) and one module (a subclass of CaptionModel). The loop, the
checkpoint and the engine know only what is here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from raycap.config import ConfigError, Frozen
from raycap.decoding import DecodingConfig
from raycap.schema import Caption, CaptionBatch, StepOutput
from raycap.text import CaptionTokenizer


class FamilyConfig(Frozen, ABC):
    """A family's settings. Subclasses narrow `family` to a Literal and add their sizes."""

    family: str

    @abstractmethod
    def load_tokenizer(self) -> CaptionTokenizer:
        """The tokenizer this family trains with; a checkpoint carries its own copy afterwards."""

    @abstractmethod
    def build(self, *, tokenizer: CaptionTokenizer, vision_dim: int) -> CaptionModel:
        """A fresh model on the CPU, ready to train.

        Raises:
            ConfigError: the settings cannot be met (missing base model, precision this machine lacks).
        """


class CaptionGroup(ABC):
    """Captions of images that began together, while they grow; `CaptionModel.step` grows several groups."""

    @property
    @abstractmethod
    def open_images(self) -> int:
        """Images whose captions still grow."""

    @abstractmethod
    def take_done(self) -> list[tuple[int, list[Caption]]]:
        """Images that are done since the last call, by their place in the group, with their captions."""

    @abstractmethod
    def drop(self, image: int) -> None:
        """Give up an image whose captions nobody wants any more."""

    @abstractmethod
    def draft(self, image: int) -> str:
        """The beginning of an open image's best caption, as far as it is certain."""


class WholeCaptions(CaptionGroup):
    """The group of a family that does not caption in steps: everything is done at once."""

    def __init__(self, captions: list[list[Caption]]) -> None:
        self.done = list(enumerate(captions))

    @property
    def open_images(self) -> int:
        return 0

    def take_done(self) -> list[tuple[int, list[Caption]]]:
        done, self.done = self.done, []
        return done

    def drop(self, image: int) -> None:
        """Nothing is left to give up."""

    def draft(self, image: int) -> str:
        return ""


@dataclass(frozen=True)
class Explanation:
    """A caption that a model gave an image, and what stood behind each of its tokens."""

    caption: Caption
    token_ids: list[int]
    """As generated, the end token too where it was said: tokens of them."""
    log_probabilities: Tensor
    """(tokens, vocab) float32: of every token at each place, given the image and the tokens before."""
    attention: Tensor
    """(layers, heads, tokens, patches) float32: how each token's making looked at the image; sums to 1 over patches."""
    image_share: Tensor
    """(layers, tokens) float32: length of what the image added to the state, over the state's own."""
    gates: Tensor
    """(layers,) float32, what the image's part is multiplied by; empty in a model without gates."""


class CaptionModel(nn.Module, ABC):
    """Loss and captions behind one interface."""

    @abstractmethod
    def forward(self, batch: CaptionBatch) -> StepOutput:
        """Loss of a batch, summed. DDP synchronises only what passes through forward."""

    @abstractmethod
    def caption(self, features: Tensor, decoding: DecodingConfig) -> list[list[Caption]]:
        """Captions of features (batch, patches, vision_dim): per image `decoding.n` of them, best first."""

    def start(self, features: Tensor, decoding: DecodingConfig) -> CaptionGroup:
        """Begin the captions that `caption` gives, for a caller that steps them beside others.

        Raises:
            ValueError: settings beyond this model.
        """
        return WholeCaptions(self.caption(features, decoding))

    def step(self, groups: Sequence[CaptionGroup]) -> None:
        """One token further with groups that this model started, together where the family can."""

    def explain(self, features: Tensor, decoding: DecodingConfig) -> list[Explanation]:
        """The captions that `caption` gives one image (1, patches, vision_dim), with what stood behind them.

        Slow, for a person to look at. A family that does not say token by token what it does gives nothing.
        """
        return []

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters by the learning rate they take: 'new' (optim.lr), 'lora' (optim.lora_lr)."""
        return {"new": [parameter for parameter in self.parameters() if parameter.requires_grad]}

    def watched(self) -> dict[str, Tensor]:
        """Scalars of the model's state that are worth a curve while it trains, by name; none by default.

        Names that share what stands before their slash ("gate/00", "gate/01") share a plot.
        """
        return {}

    def finish(self, rows: Iterable[dict[str, Any]]) -> None:
        """Build from the training rows what gradient steps alone do not (a caption bank, say)."""

    def prepare_training(self, precision: str) -> None:
        """Ready a fresh model for training in 'float32' or 'bfloat16', before it is moved or wrapped by DDP.

        Called once; what trains stays in float32 either way.
        """

    def prepare_inference(
        self, precision: str, *, vocabulary: Sequence[int] = (), beside: CaptionModel | None = None
    ) -> None:
        """Ready the model for captioning in 'float32', 'bfloat16' or 'int8'; it does not train afterwards.

        Captions use only tokens of `vocabulary` where there is one: a smaller head is a faster one. Frozen weights
        that `beside`, a model readied in the same way, has too may be shared with it.

        Raises:
            ConfigError: a precision or a cut that this family or machine does not have.
        """
        if precision != "float32" or vocabulary:
            raise ConfigError(
                f"{type(self).__name__} captions in float32 with its whole vocabulary; leave precision and "
                "vocabulary as they are"
            )

    def to_transformers(self) -> Any:
        """The same model as a plain decoder of transformers, for `raycap export`: float32, eval mode, on the CPU.

        It takes features normalised to mean 0 and variance 1 (layer_norm without scale and shift), with zeros after
        them up to its own width, as encoder_hidden_states.

        Raises:
            ConfigError: this family has none.
        """
        raise ConfigError(f"{type(self).__name__} has no form in transformers; take --form adapter")

    def saved_state(self) -> dict[str, Tensor]:
        """What a checkpoint holds: trained parameters. Frozen base weights are found by name again."""
        return {name: p.detach() for name, p in self.named_parameters() if p.requires_grad}

    def load_saved_state(self, state: dict[str, Tensor]) -> None:
        """Put back what saved_state gave.

        Raises:
            ValueError: names or shapes differ from this model's.
        """
        own = dict(self.named_parameters())
        expected = {name for name, p in own.items() if p.requires_grad}
        if expected != set(state):
            odd = sorted(expected ^ set(state))
            raise ValueError(f"checkpoint and model disagree on {len(odd)} weights, first: {odd[0]}")
        for name, tensor in state.items():
            if own[name].shape != tensor.shape:
                raise ValueError(
                    f"weight {name}: checkpoint {tuple(tensor.shape)}, model {tuple(own[name].shape)}"
                )
            own[name].data.copy_(tensor)
