"""The learning rate over a run, the optimizer's groups, and the running average of the weights."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from toy_family import Toy

from raycap.config import ConfigError
from raycap.train.config import OptimConfig
from raycap.train.optim import WeightAverage, build_optimizer, learning_rate_scale, set_learning_rates

CPU = torch.device("cpu")


class Grouped(Toy):
    """A toy whose groups a test chooses."""

    groups: dict[str, list[nn.Parameter]]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return self.groups


def make_model(**groups: tuple[str, ...]) -> Grouped:
    model = Grouped([0.0, 0.0, 0.0, 0.0], vision_dim=3)
    named = dict(model.named_parameters())
    model.groups = {group: [named[name] for name in names] for group, names in groups.items()}
    return model


def test_rate_rises_then_follows_the_cosine_to_the_floor() -> None:
    config = OptimConfig(floor=0.1)

    def scale(before: float, after: float) -> float:
        return learning_rate_scale(config, before=before, after=after, warmup=0.2)

    assert scale(0.0, 0.05) == pytest.approx(0.25)  # a quarter of the warm-up is done after this step
    assert scale(0.15, 0.2) == pytest.approx(1.0)
    assert scale(0.6, 0.65) == pytest.approx(0.1 + 0.9 * 0.5)  # half-way down
    assert scale(1.0, 1.0) == pytest.approx(0.1)
    assert scale(1.2, 1.3) == pytest.approx(0.1)  # beyond the end it stays there


def test_rate_without_warmup_starts_at_the_peak_and_floor_one_keeps_it() -> None:
    assert learning_rate_scale(OptimConfig(), before=0.0, after=0.01, warmup=0.0) == 1.0
    constant = OptimConfig(floor=1.0)
    assert learning_rate_scale(constant, before=0.9, after=1.0, warmup=0.0) == 1.0
    assert math.isfinite(learning_rate_scale(OptimConfig(), before=1.0, after=1.0, warmup=1.0))


def test_groups_take_their_own_rates_and_only_matrices_decay() -> None:
    model = make_model(new=("project.weight",), lora=("bias",))
    config = OptimConfig(lr=1e-2, lora_lr=1e-3, weight_decay=0.5)
    optimizer = build_optimizer(model, config, device=CPU)
    rates = set_learning_rates(optimizer, scale=0.5)
    assert rates == {"new": 5e-3, "lora": 5e-4}
    assert {group["name"]: group["weight_decay"] for group in optimizer.param_groups} == {
        "new": 0.5,
        "lora": 0.0,
    }


def test_refusals_name_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match=r"parameter group 'odd'; known groups: new, lora$"):
        build_optimizer(make_model(odd=("bias",)), OptimConfig(), device=CPU)
    with pytest.raises(ConfigError, match="no trainable parameters"):
        build_optimizer(make_model(), OptimConfig(), device=CPU)
    eight = OptimConfig(optimizer="adamw_8bit")
    with pytest.raises(ConfigError, match="adamw_8bit runs on cuda and cpu, not on mps; use adamw"):
        build_optimizer(make_model(new=("bias",)), eight, device=torch.device("mps"))


def test_average_is_the_moving_average_with_its_warm_up() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, decay=0.5)
    expected = start = float(model.weight.detach())
    for step, weight in enumerate([1.0, -2.0, 4.0], start=1):
        with torch.no_grad():
            model.weight.fill_(weight)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    assert expected != start
    with average.applied():
        assert float(model.weight.detach()) == pytest.approx(expected)
    assert float(model.weight.detach()) == 4.0


def test_average_off_changes_nothing() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, decay=0.0)
    before = model.weight.detach().clone()
    average.update(1)
    with average.applied():
        assert torch.equal(model.weight.detach(), before)
    assert average.average == {}


@pytest.mark.parametrize("settings", [{"betas": (2.0, 0.9)}, {"betas": (0.9, 1.0)}, {"lr": float("inf")}])
def test_rates_that_no_optimizer_takes_are_refused(settings: dict[str, object]) -> None:
    """They were found in the worker, which Ray then replaced again and again."""
    with pytest.raises(ValidationError):
        OptimConfig.model_validate(settings)
