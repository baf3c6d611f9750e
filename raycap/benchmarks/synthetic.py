"""Full-size models with random weights and captions of real lengths, for figures where only sizes matter."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import torch

from raycap.schema import CaptionBatch, image_key
from raycap.text import CaptionTokenizer, pack

IMAGES, BATCHES = 8, 8  # images of a batch; different batches
PATCHES, VISION_DIM = 50, 768  # of CLIP ViT-B/32
VOCAB, END = 50_257, 50_256  # of GPT-2

# GPT-2 tokens of the five captions of 64 images, at even steps through Flickr30k's training images sorted by
# their total, then shuffled; two lines are a batch. Padded to its longest a batch has 1.82 times its tokens (over
# random batches of the whole split: 1.79).
LENGTHS = """
16 14 13 13 11 | 13 10 4 7 5 | 12 10 7 10 7 | 12 9 9 8 6
16 12 13 12 8 | 12 9 9 9 6 | 14 13 13 12 10 | 20 19 13 14 10
21 14 10 7 8 | 18 12 11 8 6 | 20 17 13 11 10 | 16 17 13 13 10
16 14 15 13 8 | 16 11 12 10 8 | 33 20 12 10 7 | 18 11 12 11 8
20 12 15 10 8 | 19 17 13 11 10 | 14 13 9 9 7 | 13 15 14 13 13
17 15 14 9 9 | 21 11 10 9 7 | 18 15 13 8 10 | 18 19 16 12 13
18 12 9 9 7 | 24 18 16 10 12 | 13 15 13 11 11 | 15 12 10 8 7
17 12 12 10 7 | 22 17 17 16 14 | 11 7 7 8 9 | 15 17 13 14 9
13 11 10 10 9 | 14 12 11 12 8 | 12 15 11 9 9 | 13 14 14 8 9
13 14 10 9 8 | 16 14 11 12 8 | 18 21 13 8 9 | 24 22 17 16 13
13 8 10 10 10 | 22 17 16 9 7 | 17 15 13 11 10 | 19 17 12 14 12
19 15 12 11 8 | 17 14 13 12 11 | 20 13 14 7 5 | 13 19 11 10 7
13 10 9 9 9 | 16 11 10 9 5 | 13 9 10 8 8 | 15 13 13 12 9
16 13 11 9 10 | 17 14 11 11 9 | 18 19 14 13 13 | 16 14 12 8 4
14 12 11 8 8 | 20 12 12 12 7 | 16 12 8 7 6 | 17 15 15 13 13
19 9 7 6 7 | 24 16 12 11 9 | 13 14 9 11 9 | 16 15 17 13 14
"""


def lengths_of(batch: int) -> list[list[int]]:
    """Tokens of each caption of each image of a batch; batches repeat after the last."""
    images = re.split(r"[|\n]", LENGTHS.strip())
    first = batch * IMAGES % len(images)
    return [[int(length) for length in image.split()] for image in images[first : first + IMAGES]]


def caption_batch(number: int, *, packed: bool = True) -> CaptionBatch:
    """A batch of random tokens over random features; unpacked, each caption is a row with its own features."""
    generator = torch.Generator().manual_seed(number)
    tokens = [
        [[*torch.randint(END, (length,), generator=generator).tolist(), END] for length in image]
        for image in lengths_of(number)
    ]
    features = features_of(number)
    if not packed:
        features = features.repeat_interleave(5, dim=0)
        tokens = [[caption] for image in tokens for caption in image]
    arrays = {name: torch.from_numpy(a) for name, a in pack(tokens, start_id=END, end_id=END).items()}
    keys = torch.tensor([image_key(str(row)) for row in range(len(tokens))])
    return cast(CaptionBatch, {"features": features, "image_key": keys, **arrays})


def features_of(number: int) -> torch.Tensor:
    """Features of a batch's images: (8, 50, 768) float16."""
    generator = torch.Generator().manual_seed(number)
    return torch.randn(IMAGES, PATCHES, VISION_DIM, generator=generator).half()


def tokenizer() -> CaptionTokenizer:
    """As many tokens as GPT-2 has: a letter is token 0 to 25, so a caption of n letters has n tokens."""
    from transformers import GPT2Tokenizer

    vocab = {chr(ord("a") + index): index for index in range(26)}
    vocab |= {f"<unused{index}>": index for index in range(26, END)}
    return CaptionTokenizer(GPT2Tokenizer(vocab | {"<|endoftext|>": END}, []))


def save_gpt2(folder: Path, *, layers: int = 12) -> Path:
    """A random GPT-2 (124M with 12 layers) with the tokenizer above."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(n_layer=layers)).save_pretrained(folder)
    tokenizer().save(folder)
    return folder
