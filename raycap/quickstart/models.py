"""The quickstart's stand-ins for CLIP and GPT-2, trained from scratch in a minute or two on the drawings.

The encoder learns which words people used of a drawing, the language model learns how the captions read; neither
sees how the two belong together, which is what `raycap train` then learns. Both are saved in the Hugging Face
formats, so everything after them runs the code that CLIP and GPT-2 run. Knows nothing of Ray.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn
from torch.nn import functional

from raycap.text import CaptionTokenizer, pack
from raycap.vision import decode_image

IMAGE_SIDE = 64  # pixels; the drawings' own size
ENCODER_DIM = 96
ENCODER_EPOCHS = 8
LANGUAGE_MODEL_EPOCHS = 2
BATCH_SIZE = 32
PEAK_LR = 2e-3
VOCABULARY_SIZE = 400
MIN_PHRASE_COUNT = 10  # images that a phrase must stand for, to be learnt


def train_models(data: str, folder: Path, *, report: Callable[[str], None], seed: int = 0) -> None:
    """Train both on the training split below `data`, into folder/encoder and folder/language_model."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(seed)
    pixels, captions = read_training_split(data)
    train_encoder(pixels, captions, folder / "encoder", report=report)
    train_language_model(
        [text for texts in captions for text in texts], folder / "language_model", report=report
    )


def read_training_split(data: str) -> tuple[Tensor, list[list[str]]]:
    """All training drawings as uint8 (images, 3, side, side), and their captions."""
    table = pq.read_table(f"{data}/train", columns=["image", "captions"])
    images = [decode_image(content.as_py()) for content in table["image"]]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), table["captions"].to_pylist()


def train_encoder(
    pixels: Tensor, captions: list[list[str]], folder: Path, *, report: Callable[[str], None]
) -> None:
    """A small residual network that predicts which words and pairs of words stand in a drawing's captions.

    Pairs such as "red star" make it keep colour and shape together in the features of one patch.
    """
    from transformers import ResNetConfig, ResNetModel

    phrases = phrase_targets(captions)  # (images, phrases)
    config = ResNetConfig(
        embedding_size=32,
        hidden_sizes=[48, ENCODER_DIM],
        depths=[1, 1],
        layer_type="basic",
        downsample_in_first_stage=False,
    )
    encoder = ResNetModel(config)
    head = nn.Linear(ENCODER_DIM * (IMAGE_SIDE // 8) ** 2, phrases.shape[1])
    batches = list(shuffled_batches(len(pixels), ENCODER_EPOCHS))

    def losses() -> Iterator[Tensor]:
        for chosen in batches:
            features = encoder(normalise(pixels[chosen])).last_hidden_state  # (batch, ENCODER_DIM, 8, 8)
            yield functional.binary_cross_entropy_with_logits(head(features.flatten(1)), phrases[chosen])

    fit(
        [*encoder.parameters(), *head.parameters()],
        losses(),
        steps=len(batches),
        what="encoder",
        report=report,
    )
    encoder.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2))


PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": IMAGE_SIDE, "width": IMAGE_SIDE},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def normalise(pixels: Tensor) -> Tensor:
    """uint8 to the range -1 .. 1, as PREPROCESSOR says."""
    return pixels.float() / 127.5 - 1


def phrase_targets(captions: list[list[str]]) -> Tensor:
    """Float (images, phrases): 1 where a word, or two words in a row, stand in one of the image's captions."""
    bags = [{phrase for text in texts for phrase in phrases_of(text)} for texts in captions]
    counts = Counter(phrase for bag in bags for phrase in bag)
    known = sorted(phrase for phrase, count in counts.items() if count >= MIN_PHRASE_COUNT)
    return torch.tensor([[float(phrase in bag) for phrase in known] for bag in bags])


def phrases_of(caption: str) -> Iterator[str]:
    """The words of a caption, and the pairs of neighbours."""
    words = caption.lower().strip(".").split()
    yield from words
    yield from (f"{first} {second}" for first, second in itertools.pairwise(words))


def train_language_model(captions: list[str], folder: Path, *, report: Callable[[str], None]) -> None:
    """A small GPT-2 and its byte-level BPE tokenizer, trained on the captions alone."""
    from transformers import GPT2Config, GPT2LMHeadModel

    save_tokenizer(captions, folder)
    tokenizer = CaptionTokenizer.load(str(folder))
    config = GPT2Config(
        vocab_size=tokenizer.vocab_size,
        n_positions=64,
        n_embd=128,
        n_layer=4,
        n_head=4,
        bos_token_id=tokenizer.start_id,
        eos_token_id=tokenizer.end_id,
    )
    model = GPT2LMHeadModel(config)
    targets = tokenizer.targets(captions, max_tokens=62)
    batches = list(shuffled_batches(len(targets), LANGUAGE_MODEL_EPOCHS, batch_size=4 * BATCH_SIZE))

    def losses() -> Iterator[Tensor]:
        for chosen in batches:
            rows = pack(
                [[targets[row]] for row in chosen], start_id=tokenizer.start_id, end_id=tokenizer.end_id
            )
            logits = model(torch.from_numpy(rows["input_ids"])).logits  # (batch, tokens, vocab)
            yield functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(rows["labels"]).flatten())

    fit(model.parameters(), losses(), steps=len(batches), what="language model", report=report)
    model.save_pretrained(folder)


def save_tokenizer(captions: list[str], folder: Path) -> None:
    """A byte-level BPE learnt from the captions, saved as transformers saves GPT-2's."""
    from tokenizers.implementations import ByteLevelBPETokenizer
    from transformers import GPT2TokenizerFast

    end = "<|endoftext|>"
    learnt = ByteLevelBPETokenizer()
    learnt.train_from_iterator(
        captions, vocab_size=VOCABULARY_SIZE, min_frequency=2, special_tokens=[end], show_progress=False
    )
    folder.mkdir(parents=True, exist_ok=True)
    learnt.save_model(str(folder))
    vocabulary, merges = str(folder / "vocab.json"), str(folder / "merges.txt")
    tokenizer = GPT2TokenizerFast(
        vocab=vocabulary, merges=merges, bos_token=end, eos_token=end, unk_token=end
    )
    tokenizer.save_pretrained(folder)


def shuffled_batches(count: int, epochs: int, *, batch_size: int = BATCH_SIZE) -> Iterator[Tensor]:
    """Row numbers of each full batch, in a new order every epoch."""
    for _ in range(epochs):
        order = torch.randperm(count)
        yield from torch.split(order[: count - count % batch_size], batch_size)


def fit(
    parameters: Iterable[nn.Parameter],
    losses: Iterable[Tensor],
    *,
    steps: int,
    what: str,
    report: Callable[[str], None],
) -> None:
    """One optimizer step for each loss; `losses` computes the next one only when it is asked for."""
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_LR, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=steps)
    for step, loss in enumerate(losses, start=1):
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step % max(1, steps // 10) == 0:
            report(f"{what}: step {step} of {steps}, loss {loss.item():.3f}")
