"""Tiny random models made offline, batches and captions for every test: real formats, toy sizes."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from raycap.schema import CaptionBatch, image_key
from raycap.text import CaptionTokenizer, pack

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "black", "white")
THINGS = ("circle", "square", "triangle", "star", "dog", "man", "bike", "tree")
CAPTIONS = [
    f"A {colour} {thing} {rest}."
    for colour in COLOURS
    for thing in THINGS
    for rest in ("on a hill", "stands next to a small house", "is here", "looks at two people")
]


def make_tokenizer(folder: Path, *, vocab_size: int = 384) -> Path:
    """A byte-level BPE in GPT-2's format, trained on CAPTIONS; <|endoftext|> is token 0."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        CAPTIONS, vocab_size=vocab_size, special_tokens=["<|endoftext|>"], show_progress=False
    )
    with tempfile.TemporaryDirectory() as parts:
        vocab, merges = trained.save_model(parts)
        GPT2Tokenizer(vocab, merges, model_max_length=64).save_pretrained(str(folder))
    return folder


def make_language_model(
    folder: Path,
    *,
    layers: int = 2,
    model_dim: int = 32,
    heads: int = 2,
    positions: int = 64,
    spread: float = 0.2,
    seed: int = 0,
) -> Path:
    """A GPT-2 of random weights and its tokenizer, as `from_pretrained` reads them.

    The weights are larger than GPT-2's own start, so that its predictions depend on what it reads; so is the
    final norm, or no state could make its frozen head certain of a token.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    make_tokenizer(folder)
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=CaptionTokenizer.load(str(folder)).vocab_size,
        n_positions=positions,
        n_embd=model_dim,
        n_layer=layers,
        n_head=heads,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=spread,
    )
    model = GPT2LMHeadModel(config)
    torch.nn.init.constant_(model.transformer.ln_f.weight, 3.0)
    model.save_pretrained(str(folder))
    return folder


def make_encoder(folder: Path, *, image_size: int = 32, patch_size: int = 8, vision_dim: int = 24) -> Path:
    """A CLIP vision tower of random weights with its preprocessor: (image_size/patch_size)**2 + 1 patches."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=vision_dim,
        intermediate_size=2 * vision_dim,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=image_size,
        patch_size=patch_size,
        initializer_range=0.2,
    )
    folder.mkdir(parents=True, exist_ok=True)
    CLIPVisionModel(config).save_pretrained(str(folder))
    preprocessor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": image_size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": image_size, "width": image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "do_convert_rgb": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def captions_of(num_images: int, *, per_image: int = 3, seed: int = 0) -> list[list[str]]:
    """Captions for each of some images, different between images."""
    order = np.random.default_rng(seed).permutation(len(CAPTIONS))
    return [
        [CAPTIONS[order[(image * per_image + index) % len(order)]] for index in range(per_image)]
        for image in range(num_images)
    ]


def make_batch(
    tokenizer: CaptionTokenizer,
    captions: list[list[str]],
    *,
    patches: int = 5,
    vision_dim: int = 24,
    seed: int = 0,
) -> CaptionBatch:
    """A packed batch over random features, one image for each list of captions."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(len(captions), patches, vision_dim, generator=generator).half()
    targets = [tokenizer.targets(of_image, max_tokens=30) for of_image in captions]
    arrays = pack(targets, start_id=tokenizer.start_id, end_id=tokenizer.end_id)
    return CaptionBatch(
        features=features,
        input_ids=torch.from_numpy(arrays["input_ids"]),
        labels=torch.from_numpy(arrays["labels"]),
        position_ids=torch.from_numpy(arrays["position_ids"]),
        caption_index=torch.from_numpy(arrays["caption_index"]),
        image_key=torch.tensor([image_key(str(index)) for index in range(len(captions))]),
    )


def make_clip(folder: Path, *, image_size: int = 32, patch_size: int = 8, vision_dim: int = 24) -> Path:
    """A whole CLIP of random weights: an image tower like `make_encoder`'s, a text tower, and its tokenizer."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    make_encoder(folder, image_size=image_size, patch_size=patch_size, vision_dim=vision_dim)
    vision = json.loads((folder / "config.json").read_text())
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.normalizer, trained.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    special = ["<|startoftext|>", "<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, end_of_word_suffix="</w>", show_progress=False
    )
    trained.train_from_iterator(["a photo depicts", *CAPTIONS], trainer)
    with tempfile.TemporaryDirectory() as parts:
        vocab, merges = trained.model.save(parts)
        CLIPTokenizer(vocab, merges, model_max_length=16).save_pretrained(str(folder))
    torch.manual_seed(0)
    text = {
        "vocab_size": trained.get_vocab_size(),
        "hidden_size": 20,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
        "bos_token_id": trained.token_to_id(special[0]),
        "eos_token_id": trained.token_to_id(special[1]),
        "pad_token_id": trained.token_to_id(special[1]),
        "initializer_range": 0.3,
    }
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=12, initializer_factor=20.0)
    CLIPModel(config).save_pretrained(str(folder))
    return folder
