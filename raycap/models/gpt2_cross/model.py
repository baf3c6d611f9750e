"""GPT-2 with cross-attention to the image between self-attention and MLP of every block.

The frozen GPT-2 is transformers' own, its sub-modules called from here, so that an image's captions can be
packed into one row: its keys and values are computed once, and linear layers see real tokens only. The order
of operations is that of transformers' GPT-2 with `add_cross_attention` (see export.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from raycap.config import ConfigError
from raycap.decoding import DecodingConfig
from raycap.models.base import CaptionGroup, CaptionModel, Explanation
from raycap.models.gpt2_cross.config import Gpt2CrossConfig
from raycap.models.gpt2_cross.cross_attention import CrossAttention
from raycap.models.gpt2_cross.group import SearchGroup, as_captions
from raycap.models.gpt2_cross.language_model import load_language_model, share_frozen
from raycap.models.layers import (
    PackedTokens,
    attend,
    compute_dtype,
    frozen_head_loss,
    keep_some_patches,
    merge_heads,
    split_heads,
)
from raycap.schema import IGNORE_INDEX, Caption, CaptionBatch, StepOutput
from raycap.text import CaptionTokenizer

if TYPE_CHECKING:
    from raycap.models.gpt2_cross.decoder import Decoder

DIGEST = "language_model_digest"  # name of the frozen weights' digest in a checkpoint


class Gpt2Cross(CaptionModel):
    """See the module. `gpt2` is frozen but for its LoRA adapters; `cross` and `feature_norm` train fully."""

    def __init__(self, config: Gpt2CrossConfig, *, tokenizer: CaptionTokenizer, vision_dim: int) -> None:
        """Load the language model and start the new layers.

        Raises:
            ConfigError: the language model cannot be used, or does not know all of the tokenizer's tokens.
        """
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.vision_dim = vision_dim
        self.gpt2, self.digest = load_language_model(config)
        sizes = self.gpt2.config
        if tokenizer.vocab_size > sizes.vocab_size:
            raise ConfigError(
                f"the tokenizer has {tokenizer.vocab_size} tokens and {config.language_model} embeds "
                f"{sizes.vocab_size}; use the language model's own tokenizer"
            )
        self.feature_norm = nn.LayerNorm(vision_dim)
        self.cross = nn.ModuleList(
            CrossAttention(
                model_dim=sizes.n_embd,
                vision_dim=vision_dim,
                heads=sizes.n_head if config.heads == "as_language_model" else config.heads,
                head_dim=config.head_dim,
                start=config.start,
                norm_epsilon=sizes.layer_norm_epsilon,
            )
            for _ in range(sizes.n_layer)
        )
        self._autocast: torch.dtype | None = None
        self._decoder: Decoder | None = None
        self._inference: dict[str, Any] = {}  # settings of the decoder

    def forward(self, batch: CaptionBatch) -> StepOutput:
        """Cross-entropy over the real tokens, with label smoothing while training."""
        with self._precision(batch["input_ids"].device):
            layout = PackedTokens(batch)
            labels = layout.images.collect(batch["labels"])  # (real,)
            wanted = (labels != IGNORE_INDEX).nonzero().squeeze(1)  # (count,)
            hidden = self.hidden_states(batch, layout).index_select(0, wanted)  # (count, model_dim)
            smoothing = self.config.label_smoothing if self.training else 0.0
            loss_sum, plain = frozen_head_loss(
                self.gpt2.transformer.ln_f(hidden),
                self.gpt2.lm_head.weight,
                labels[wanted],
                smoothing=smoothing,
            )
        count = torch.tensor(len(wanted), device=loss_sum.device)
        return StepOutput(loss_sum, count, self._logs(plain, count, smoothed=bool(smoothing)))

    def hidden_states(self, batch: CaptionBatch, layout: PackedTokens) -> Tensor:
        """States after the last block, before the final norm: (real, model_dim) float32."""
        gpt2 = self.gpt2.transformer
        ids = layout.images.collect(batch["input_ids"])  # (real,)
        positions = layout.images.collect(batch["position_ids"])  # (real,)
        features = batch["features"]
        if self.training and self.config.feature_dropout:
            features = keep_some_patches(features, drop=self.config.feature_dropout)
        features = self.normalise(features)
        features = features.to(compute_dtype(features))  # once, not in each of 2 x layers projections
        # The residual stream is float32 also where the embeddings are held in bfloat16.
        hidden: Tensor = gpt2.drop(gpt2.wte(ids).float() + gpt2.wpe(positions).float())  # (real, model_dim)
        for block, cross in zip(gpt2.h, self.cross, strict=True):
            hidden = hidden + self._self_attention(block, hidden, layout)
            hidden = hidden + block.attn.resid_dropout(cross(hidden, features, layout))
            hidden = hidden + block.mlp(block.ln_2(hidden))
        return hidden

    def _self_attention(self, block: Any, hidden: Tensor, layout: PackedTokens) -> Tensor:
        heads = self.gpt2.config.n_head
        normed = block.ln_1(hidden)
        joint = block.attn.c_attn(normed.to(compute_dtype(normed)))  # (real, 3 * model_dim)
        joint = layout.captions.spread(joint)  # (captions, tokens, 3 * model_dim)
        queries, keys, values = (split_heads(part, heads) for part in joint.chunk(3, dim=-1))
        attended = merge_heads(attend(queries, keys, values, causal=True))  # (captions, tokens, model_dim)
        added: Tensor = block.attn.resid_dropout(block.attn.c_proj(layout.captions.collect(attended)))
        return added  # (real, model_dim)

    def logits(self, batch: CaptionBatch) -> Tensor:
        """Logits of every real token, (real, vocab): for checks, since training never makes them whole."""
        with self._precision(batch["input_ids"].device):
            hidden = self.hidden_states(batch, PackedTokens(batch))
            logits: Tensor = self.gpt2.lm_head(self.gpt2.transformer.ln_f(hidden))
        return logits

    def normalise(self, features: Tensor) -> Tensor:
        """Image tokens of any dtype as cross-attention takes them: float32 after the trained norm."""
        normed: Tensor = self.feature_norm(features.float())
        return normed

    def caption(self, features: Tensor, decoding: DecodingConfig) -> list[list[Caption]]:
        """See CaptionModel.caption; Decoder.caption says what it refuses."""
        found = self._ready_decoder().caption(features, decoding)
        return [as_captions(of_image, self.tokenizer) for of_image in found]

    def explain(self, features: Tensor, decoding: DecodingConfig) -> list[Explanation]:
        """See CaptionModel.explain; the plain forward says why, whatever precision the decoder runs in."""
        from raycap.models.gpt2_cross.explain import explain_hypotheses

        (found,) = self._ready_decoder().caption(features, decoding)
        return explain_hypotheses(self, features, found, max_tokens=decoding.max_tokens)

    def start(self, features: Tensor, decoding: DecodingConfig) -> SearchGroup:
        """See CaptionModel.start."""
        decoder = self._ready_decoder()
        return SearchGroup(decoder, decoder.start(features, decoding), self.tokenizer)

    def step(self, groups: Sequence[CaptionGroup]) -> None:
        """See CaptionModel.step."""
        own = [group for group in groups if isinstance(group, SearchGroup)]
        finished = self._ready_decoder().step([group.search for group in own])
        for group, images in zip(own, finished, strict=True):
            group.finished += images

    def _ready_decoder(self) -> Decoder:
        from raycap.models.gpt2_cross.decoder import Decoder

        if self._decoder is None:
            self._decoder = Decoder.from_model(self, **self._inference)
        return self._decoder

    def train(self, mode: bool = True) -> Gpt2Cross:
        """As nn.Module; the decoder's copy of the weights goes, since they are about to change."""
        if mode:
            self._decoder = None
        super().train(mode)
        return self

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Gpt2Cross:
        """What .to() and the like go through: the decoder's copy stays where it was, and so goes."""
        self._decoder = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def prepare_training(self, precision: str) -> None:
        """In bfloat16 the frozen matrices are held so: autocast would cast them again at every step."""
        if precision == "float32":
            return
        self._autocast = torch.bfloat16
        for parameter in self.gpt2.parameters():
            if not parameter.requires_grad and parameter.ndim > 1 and parameter.is_floating_point():
                parameter.data = parameter.data.to(torch.bfloat16)
        for module in self.gpt2.modules():
            if hasattr(module, "cast_input_dtype_enabled"):  # PEFT: to float32, and autocast casts it back
                module.cast_input_dtype_enabled = False

    def prepare_inference(
        self, precision: str, *, vocabulary: Sequence[int] = (), beside: CaptionModel | None = None
    ) -> None:
        """See CaptionModel.prepare_inference."""
        self.eval()
        self._inference = {"precision": precision, "vocabulary": vocabulary or None}
        if isinstance(beside, Gpt2Cross) and torch.equal(beside.digest, self.digest):
            share_frozen(self.gpt2, beside.gpt2)
            self._inference["beside"] = beside._ready_decoder()
        self._decoder = None
        self._ready_decoder()

    def to_transformers(self) -> Any:
        """See CaptionModel.to_transformers."""
        from raycap.models.gpt2_cross.export import to_transformers

        return to_transformers(self)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """'new': cross-attention and feature norm; 'lora': GPT-2's adapters, where there are any."""
        new = [*self.feature_norm.parameters(), *self.cross.parameters()]
        lora = [parameter for parameter in self.gpt2.parameters() if parameter.requires_grad]
        return {"new": new, "lora": lora} if lora else {"new": new}

    def watched(self) -> dict[str, Tensor]:
        """How far each layer has opened to the image; see CrossAttention.opening."""
        opened = (cross.opening() for cross in self.cross)  # type: ignore[operator]
        return {f"{name}/{number:02d}": value for number, (name, value) in enumerate(opened)}

    def saved_state(self) -> dict[str, Tensor]:
        """What trained, and the digest of the language model it was trained over."""
        return {**super().saved_state(), DIGEST: self.digest}

    def load_saved_state(self, state: dict[str, Tensor]) -> None:
        """Put back what saved_state gave.

        Raises:
            ValueError: trained over another language model, or names or shapes differ.
        """
        weights = dict(state)
        digest = weights.pop(DIGEST, None)
        if digest is not None and not torch.equal(digest.cpu(), self.digest):
            raise ValueError(
                f"the checkpoint was trained over another language model than {self.config.language_model}; "
                "give the folder or name of the one it was trained with"
            )
        super().load_saved_state(weights)
        self._decoder = None

    def _precision(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        if self._autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(device.type, self._autocast)

    def _logs(self, plain: Tensor, count: Tensor, *, smoothed: bool) -> dict[str, Tensor]:
        logs: dict[str, Tensor] = {}
        if smoothed:
            logs["loss_without_smoothing"] = plain / count.clamp(min=1)
        return logs
