"""Captions to token ids and back, and the packing of an image's captions into one row.

The format is the one that GPT-2-like models were trained on, `<|endoftext|>A man rides.<|endoftext|>`: no
space before the first word, the capital kept. (The small GPT-2 of the Flickr30k captions has perplexity 24 on
the validation captions so, 30 without counting the end token; 93 with a leading space, 86 in lower case.)
Knows nothing of images or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from raycap.config import ConfigError
from raycap.schema import IGNORE_INDEX, CaptionBatch


class CaptionTokenizer:
    """A Hugging Face tokenizer with the few calls that captioning needs."""

    def __init__(self, tokenizer: Any) -> None:
        """Wrap a tokenizer.

        Raises:
            ConfigError: it has no end-of-text token, so captions could not end.
        """
        if tokenizer.eos_token_id is None:
            raise ConfigError(f"tokenizer {tokenizer.name_or_path!r} has no eos_token; set one in its folder")
        self.tokenizer = tokenizer
        self.end_id: int = tokenizer.eos_token_id
        self.start_id: int = self.end_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        self.vocab_size: int = len(tokenizer)

    @classmethod
    def load(cls, name_or_path: str) -> CaptionTokenizer:
        """Load by hub name or from a folder.

        Raises:
            ConfigError: not there, or not a tokenizer.
        """
        from transformers import AutoTokenizer  # slow to import

        name_or_path = folder_or_hub_name(name_or_path)
        try:
            tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
        except (OSError, ValueError) as error:
            reason = str(error).strip().split("\n")[0]
            raise ConfigError(
                f"cannot load a tokenizer from {name_or_path!r} ({reason}); give a folder with one, or a "
                "hub name while online (offline: download it first, or set HF_HOME to where it lies)"
            ) from error
        return cls(tokenizer)

    def encode(self, captions: list[str], *, max_tokens: int) -> list[list[int]]:
        """Token ids of each caption, without start and end, cut to `max_tokens`."""
        if not captions:
            return []
        texts = [" ".join(caption.split()) for caption in captions]
        # A caption that spells "<|endoftext|>" must not end itself: special tokens in it are plain text.
        ids = self.tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [row[:max_tokens] for row in ids]

    def targets(self, captions: list[str], *, max_tokens: int) -> list[list[int]]:
        """What a model is to say: each caption's token ids and the end token, which a caption that is cut lacks."""
        ids = self.encode(captions, max_tokens=max_tokens + 1)
        return [[*row, self.end_id][: max_tokens + 1] for row in ids]

    def vocabulary(self, captions: list[str], *, max_tokens: int) -> list[int]:
        """The token ids that captions use, the end token too."""
        targets = self.targets(captions, max_tokens=max_tokens)
        return sorted({self.end_id, *(token for row in targets for token in row)})

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids (without the start token), up to the first end token, stripped."""
        kept = [int(token) for token in ids]
        if self.end_id in kept:
            kept = kept[: kept.index(self.end_id)]
        text: str = self.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text.strip()

    def save(self, folder: Path) -> None:
        """Write the files that `load` reads."""
        self.tokenizer.save_pretrained(str(folder))


def folder_or_hub_name(name: str) -> str:
    """The name with ~ expanded; a missing folder is told from a hub name by how it begins.

    Raises:
        ConfigError: it begins like a path and is not a folder.
    """
    if not name.startswith(("/", ".", "~")):
        return name
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"no such folder: {name}; give a folder that holds the model, or a name on the hub")
    return str(folder)


def pack(targets: list[list[list[int]]], *, start_id: int, end_id: int) -> dict[str, np.ndarray]:
    """Pack each image's captions into one row; see schema.CaptionBatch for what the arrays hold.

    Args:
        targets: what each caption is to be, its end token too (CaptionTokenizer.targets), by image and caption.
        start_id: put before each caption.
        end_id: what fills the padding.

    Returns:
        input_ids, labels, position_ids, caption_index: int64 (batch, tokens), tokens being the longest row's.
    """
    width = max((sum(map(len, image)) for image in targets), default=0)
    shape = (len(targets), width)
    fills = {"input_ids": end_id, "labels": IGNORE_INDEX, "position_ids": 0, "caption_index": -1}
    arrays = {name: np.full(shape, fill, dtype=np.int64) for name, fill in fills.items()}
    for row, image in enumerate(targets):
        begin = 0
        for index, labels in enumerate(image):
            span = slice(begin, begin + len(labels))
            arrays["input_ids"][row, span] = [start_id, *labels[:-1]]
            arrays["labels"][row, span] = labels
            arrays["position_ids"][row, span] = np.arange(len(labels))
            arrays["caption_index"][row, span] = index
            begin = span.stop
    return arrays


class Unpacked(NamedTuple):
    """A packed batch with one row a caption, padded on the right."""

    input_ids: Tensor  # (captions, tokens) int64
    labels: Tensor  # (captions, tokens) int64, IGNORE_INDEX in the padding
    image_index: Tensor  # (captions,) int64: the row of batch["features"] that a caption belongs to


def unpack(batch: CaptionBatch, *, fill_id: int) -> Unpacked:
    """One row a caption, for families without packing; `fill_id` stands in the padding of input_ids."""
    index, positions = batch["caption_index"], batch["position_ids"]  # (batch, tokens)
    per_image = index.amax(dim=1) + 1  # (batch,)
    first = per_image.cumsum(0) - per_image  # (batch,) row of each image's first caption
    real = index >= 0
    rows, columns = (first[:, None] + index)[real], positions[real]  # (real tokens,)
    shape = (int(per_image.sum()), int(positions.max()) + 1)
    input_ids = index.new_full(shape, fill_id)
    labels = index.new_full(shape, IGNORE_INDEX)
    input_ids[rows, columns] = batch["input_ids"][real]
    labels[rows, columns] = batch["labels"][real]
    images = torch.arange(len(index), device=index.device)
    return Unpacked(input_ids, labels, torch.repeat_interleave(images, per_image))
