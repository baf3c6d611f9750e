"""One step over several ranks equals one over one: whatever the world size, accumulation, or who has run out."""

import copy
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from fakes import captions_of, make_batch, make_tokenizer
from tiny_family import TinyConfig, TinyModel
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raycap.schema import CaptionBatch
from raycap.text import CaptionTokenizer
from raycap.train.batches import empty_batch, regroup
from raycap.train.config import OptimConfig
from raycap.train.optim import build_optimizer
from raycap.train.step import (
    NonFiniteError,
    StepTotals,
    backward_window,
    check_finite,
    scale_and_clip,
    step_seed,
)

STEPS = 3
CPU = torch.device("cpu")
# Scenario: for each rank, which of the eight images are in each batch of its window.
SCENARIOS: dict[str, list[list[list[int]]]] = {
    "halves": [[[0, 1, 2, 3]], [[4, 5, 6, 7]]],
    "accumulated": [[[0, 1], [2, 3]], [[4, 5], [6, 7]]],
    "uneven": [[[0, 1, 2, 3, 4], [5, 6]], [[7]]],
    "one rank has run out": [[[0, 1, 2, 3, 4, 5, 6, 7]], []],
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CaptionTokenizer:
    return CaptionTokenizer.load(str(make_tokenizer(tmp_path_factory.mktemp("tokenizer"))))


def build(tokenizer: CaptionTokenizer) -> tuple[TinyModel, CaptionBatch, CaptionBatch]:
    """A model without dropout, eight images with one to four captions each, and the empty batch."""
    torch.manual_seed(0)
    ids = SimpleNamespace(**{name: getattr(tokenizer, name) for name in ("start_id", "end_id", "vocab_size")})
    model = TinyModel(TinyConfig(tokenizer=""), tokenizer=ids, vision_dim=24)  # type: ignore[arg-type]
    captions = [texts[: 1 + index % 4] for index, texts in enumerate(captions_of(8, per_image=4))]
    empty = empty_batch(patches=5, vision_dim=24, start_id=ids.start_id, end_id=ids.end_id, device=CPU)
    return model, make_batch(tokenizer, captions), empty


def take(batch: CaptionBatch, images: list[int]) -> CaptionBatch:
    return {name: tensor[images] for name, tensor in batch.items()}  # type: ignore[return-value, index]


def train(
    model: TinyModel, parallel: nn.Module, window: list[CaptionBatch], empty: CaptionBatch
) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of a few steps over the same window, and the trained weights after them."""
    config = OptimConfig(lr=1e-2, lora_lr=1e-2, clip_norm=1.0)
    optimizer = build_optimizer(model, config, device=CPU)
    parameters = [p for p in model.parameters() if p.requires_grad]
    losses = []
    for _ in range(STEPS):
        totals = backward_window(parallel, window, empty=empty, precision="float32")
        scale_and_clip(parameters, count=totals.count, clip_norm=config.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(totals.loss_sum / totals.count)
        assert totals.images == 8
    return losses, {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def rank_main(rank: int, start: tuple[TinyModel, CaptionBatch, CaptionBatch], results: Path) -> None:
    """One of two processes: every scenario in turn, from the same start."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{results}/rendezvous", rank=rank, world_size=2)
    model, batch, empty = start
    found = {}
    for name, ranks in SCENARIOS.items():
        fresh = copy.deepcopy(model)
        window = [take(batch, images) for images in ranks[rank]]
        found[name] = train(fresh, DistributedDataParallel(fresh), window, empty)
    dist.destroy_process_group()
    torch.save(found, results / f"{rank}.pt")


def test_two_ranks_equal_one(tokenizer: CaptionTokenizer, tmp_path: Path) -> None:
    model, batch, empty = start = build(tokenizer)
    alone = copy.deepcopy(model)
    losses, weights = train(alone, alone, [batch], empty)
    assert losses[-1] < losses[0] - 0.05
    mp.spawn(rank_main, args=(start, tmp_path), nprocs=2)
    for rank in (0, 1):
        for name, (found_losses, found_weights) in torch.load(tmp_path / f"{rank}.pt").items():
            assert found_losses == pytest.approx(losses, abs=1e-5), name
            for weight, value in weights.items():
                torch.testing.assert_close(
                    found_weights[weight], value, atol=1e-5, rtol=0, msg=f"{name} {weight}"
                )


def test_accumulation_equals_one_batch(tokenizer: CaptionTokenizer) -> None:
    model, batch, empty = build(tokenizer)
    twin = copy.deepcopy(model)
    losses, weights = train(model, model, [batch], empty)
    parts = regroup(batch, size=3, order=random.Random(0))
    found_losses, found_weights = train(twin, twin, parts, empty)
    assert found_losses == pytest.approx(losses, abs=1e-5)
    for weight, value in weights.items():
        torch.testing.assert_close(found_weights[weight], value, atol=1e-5, rtol=0)


def test_an_empty_window_says_that_nobody_has_images(tokenizer: CaptionTokenizer) -> None:
    model, _, empty = build(tokenizer)
    totals = backward_window(model, [], empty=empty, precision="float32")
    assert (totals.images, totals.count, totals.loss_sum) == (0, 0.0, 0.0)


def test_gradient_is_the_mean_over_tokens_and_clipped() -> None:
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([30.0, 40.0])
    assert scale_and_clip([weight], count=10.0, clip_norm=0.0) == pytest.approx(5.0)
    assert weight.grad.tolist() == [3.0, 4.0]
    assert scale_and_clip([weight], count=1.0, clip_norm=1.0) == pytest.approx(5.0)
    assert weight.grad.tolist() == pytest.approx([0.6, 0.8], rel=1e-4)


def test_what_is_not_finite_names_the_step() -> None:
    fine = StepTotals(loss_sum=1.0, count=1.0, images=1)
    check_finite(fine, norm=1.0, step=7)
    with pytest.raises(NonFiniteError, match="loss of step 7 is not finite"):
        check_finite(StepTotals(loss_sum=float("nan"), count=1.0, images=1), norm=1.0, step=7)
    with pytest.raises(NonFiniteError, match="gradient of step 8 is not finite"):
        check_finite(fine, norm=float("inf"), step=8)


def test_dropout_seeds_differ_by_step_and_rank_and_repeat() -> None:
    seeds = {step_seed(0, epoch=e, step=s, rank=r) for e in range(2) for s in range(3) for r in range(2)}
    assert len(seeds) == 12
    assert step_seed(3, epoch=1, step=2, rank=1) == step_seed(3, epoch=1, step=2, rank=1)
