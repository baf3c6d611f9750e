"""A training state put away and put back: the run goes on as if nothing had happened."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import captions_of, make_batch, make_language_model
from torch import Tensor

from raycap import checkpoint
from raycap.checkpoint import EncoderInfo
from raycap.decoding import DecodingConfig
from raycap.models.gpt2_cross import Gpt2CrossConfig
from raycap.models.gpt2_cross.model import Gpt2Cross
from raycap.train.config import OptimConfig
from raycap.train.optim import WeightAverage, build_optimizer
from raycap.train.state import Progress, flatten, pack_state, unflatten, unpack_state
from raycap.vision import EncoderConfig

ENCODER = EncoderInfo(config=EncoderConfig(name="encoder"), fingerprint="f" * 64, vision_dim=24, patches=5)


def test_flatten_and_back() -> None:
    tree = {0: {"step": 3, "moment": torch.ones(2), "deep": {"map": torch.zeros(1)}}, 1: {"rate": 0.5}}
    tensors, numbers = flatten(tree)
    assert set(tensors) == {"0/moment", "0/deep/map"}
    assert numbers == {"0/step": 3, "1/rate": 0.5}
    back = unflatten(tensors, numbers)
    assert back[0]["step"] == 3
    assert back[1] == {"rate": 0.5}
    assert torch.equal(back[0]["deep"]["map"], torch.zeros(1))


def test_progress_counts_and_starts_afresh() -> None:
    progress = Progress(seen=np.array([7], dtype=np.int64), images=1)
    progress.count_step([torch.tensor([1, 2])], images=2, loss_sum=6.0, count=4.0)
    progress.count_step([torch.tensor([-3])], images=1, loss_sum=2.0, count=4.0)
    assert (progress.step, progress.images) == (2, 4)
    assert sorted(progress.seen_by_all().tolist()) == [-3, 1, 2, 7]
    assert progress.next_epoch() == 1.0
    assert (progress.epoch, progress.step, progress.images) == (1, 2, 0)
    assert progress.seen_by_all().tolist() == []


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_a_restored_run_takes_the_same_steps(tmp_path: Path, optimizer: str) -> None:
    # wide enough for weights of 4,096 values, below which 8-bit optimizers stay with 32 bits
    language_model = str(make_language_model(tmp_path / "lm", model_dim=64))
    config = Gpt2CrossConfig(language_model=language_model, dropout=0.0, head_dim=64)
    tokenizer = config.load_tokenizer()
    batch = make_batch(tokenizer, captions_of(4))
    optim = OptimConfig.model_validate({"optimizer": optimizer, "ema_decay": 0.9})

    def fresh() -> tuple[Gpt2Cross, torch.optim.Optimizer, WeightAverage]:
        torch.manual_seed(0)
        model = config.build(tokenizer=tokenizer, vision_dim=24)
        built = build_optimizer(model, optim, device=torch.device("cpu"))
        return model, built, WeightAverage(model, decay=optim.ema_decay)

    def take_steps(
        model: Gpt2Cross, chosen: torch.optim.Optimizer, average: WeightAverage, steps: range
    ) -> None:
        for step in steps:
            output = model(batch)
            (output.loss_sum / output.count).backward()
            chosen.step()
            chosen.zero_grad()
            average.update(step)

    model, chosen, average = fresh()
    take_steps(model, chosen, average, range(1, 4))
    progress = Progress(epoch=1, step=3, images=2, loss_sum=1.5, count=3.0)
    state = pack_state(progress, np.array([5, -6], dtype=np.int64), chosen, average)
    kinds = {tensor.dtype for name, tensor in state.tensors.items() if name.startswith("optimizer.")}
    assert (torch.uint8 in kinds) == (optimizer == "adamw_8bit")
    with average.applied():
        folder = checkpoint.save(
            str(tmp_path / "checkpoint"),
            model,
            model_config=config,
            tokenizer=tokenizer,
            encoder=ENCODER,
            decoding=DecodingConfig(),
            metrics={},
            step=3,
            epoch=1,
            training=state,
        )
    take_steps(model, chosen, average, range(4, 6))

    again, chosen_again, average_again = fresh()
    _, read = checkpoint.restore(folder, again)
    assert read is not None
    restored = unpack_state(read, optimizer=chosen_again, average=average_again)
    assert (restored.epoch, restored.step, restored.images) == (1, 3, 2)
    assert (restored.loss_sum, restored.count) == (1.5, 3.0)
    assert restored.seen.tolist() == [5, -6]
    take_steps(again, chosen_again, average_again, range(4, 6))
    assert_same(average.raw(), average_again.raw())
    assert_same(average.average, average_again.average)


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
