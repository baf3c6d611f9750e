"""The search space: its grammar, the settings it may name, and what trials are given."""

import math
import random
from typing import Any

import pytest
from pydantic import ValidationError

from raycap.config import ConfigError, load_document
from raycap.tune import SweepConfig
from raycap.tune.resources import trials_on_cores, trials_that_fit
from raycap.tune.settings import (
    objective,
    own_settings,
    plan,
    read_space,
    rows_configs,
    rows_key,
    trial_config,
    with_settings,
)
from raycap.tune.space import grid_points, parse_dimension, parse_space, random_point


def sweep_of(space: dict[str, Any], **options: Any) -> SweepConfig:
    """The shapes preset with a search space."""
    document = {name: block for name, block in load_document("shapes").items() if name != "source"}
    return SweepConfig.model_validate({**document, "tune": {"run": "/sweeps/one", "space": space, **options}})


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ("choice 4 8 16", (4, 8, 16)),
        ("grid 1e-3 1e-4", (1e-3, 1e-4)),
        ("choice true false", (True, False)),
        ("choice projection gate", ("projection", "gate")),
        ("int 1 5", (1, 2, 3, 4, 5)),
        ("int 4 16 4", (4, 8, 12, 16)),
        ([1, "1e-3", [0.9, 0.99]], (1, 1e-3, (0.9, 0.99))),  # 1e-3 is text to YAML
    ],
)
def test_listed_values(given: Any, values: tuple[Any, ...]) -> None:
    assert parse_dimension("x", given).all_values == values


@pytest.mark.parametrize("given", ["uniform 0.1 0.3", "loguniform 1e-4 1e-2", "logint 1 1024"])
def test_ranges_stay_within_their_ends(given: str) -> None:
    dimension = parse_dimension("x", given)
    source = random.Random(0)
    drawn = [dimension.draw(source) for _ in range(500)]
    assert all(dimension.contains(value) for value in drawn)
    assert dimension.at(0.0) == dimension.low
    assert dimension.at(1.0) == dimension.high
    middle = sorted(drawn)[250]
    expected = math.sqrt(dimension.low * dimension.high) if dimension.is_log else 0.2
    assert middle == pytest.approx(expected, rel=0.35)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "x is drawn from 3, which is none of: choice A B"),
        ("", "x is drawn from '', which is none of"),
        (None, "x is drawn from None, which is none of"),
        ("choice 4, 8", "'choice 4, 8' has commas; values are separated by blanks"),
        ({"lr": "uniform 0 1"}, "x holds a block; write its settings with dots, e.g. `x.lr: uniform 0 0.3`"),
        ("choice 4 4.0", "x names a value twice"),
        ("unifrom 0 1", "x is drawn from 'unifrom 0 1', which is none of"),
        ("choice", "x has no values"),
        ("choice 4 4", "x names a value twice"),
        ("uniform 1", "is not uniform LOW HIGH; write e.g. `uniform 1e-4 1e-2`"),
        ("uniform a b", "is not uniform LOW HIGH"),
        ("uniform 2 1", "has no range; LOW is below HIGH, e.g."),
        ("loguniform 0 1", "LOW is below HIGH, and above 0"),
        ("int 1.5 3", "is not int LOW HIGH; write e.g. `int 1 8`"),
        ("uniform 0 inf", "is not uniform LOW HIGH"),
        ("int 1 8 0", "has no range"),
    ],
)
def test_what_is_not_of_the_grammar_is_one_sentence(given: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_dimension("x", given)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "tune.space is empty"),
        ({"optim.lrr": "uniform 0.1 0.2"}, "there is no setting 'optim.lrr'; did you mean optim.lr?"),
        ({"model.lora.rnak": "choice 4"}, "did you mean model.lora.rank?"),
        ({"model": "choice 4"}, "there is no setting 'model'"),
        ({"model.head_dim": "choice 16 33"}, "model.head_dim cannot be 33"),
        ({"model.dropout": "uniform 0 1"}, "model.dropout cannot be 1"),
        ({"train.batch_size": "uniform 8 64"}, "valid integer"),
        (
            {"data.limit": "choice 1 2"},
            "data.limit cannot vary within a sweep: trials are compared on the same",
        ),
        ({"train.epochs": "choice 1 2"}, "train.epochs cannot vary"),
        ({"train.cache": "choice disk"}, "trials share one cache"),
        ({"tracking.wandb": "choice off"}, "tracked as one group"),
        ({"decoding.length_penalty": "uniform 0 2"}, "has no effect while validation is greedy"),
    ],
)
def test_a_setting_that_cannot_vary_is_one_sentence(space: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_space(sweep_of(space))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_sweep_without_a_cache_is_refused() -> None:
    document = sweep_of({"optim.lr": "uniform 0.1 0.2"}).model_dump(mode="json")
    document["train"]["cache"] = "none"
    with pytest.raises(ConfigError, match=r"take train\.cache=object_store or disk"):
        plan(SweepConfig.model_validate(document))


def test_a_long_range_of_whole_numbers_is_probed_at_some() -> None:
    """All 100,001 were tried on the config one by one, which took minutes, before anything else."""
    assert parse_dimension("x", "int 0 100000").probes() == (0, 38196, 100000)
    assert parse_dimension("x", "int 0 9").probes() == tuple(range(10))
    assert len(parse_dimension("x", list(range(100))).probes()) == 100


def test_a_grid_of_a_range_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"algorithm=grid takes listed values, and optim\.lr is drawn by uniform"
    ):
        read_space(sweep_of({"optim.lr": "uniform 0.1 0.2"}, algorithm="grid"))


def test_pbt_is_refused() -> None:
    """Over Ray Train it ran, and silently did nothing."""
    with pytest.raises(ValidationError, match="pbt does nothing over Ray Train"):
        sweep_of({"optim.lr": "uniform 0.1 0.2"}, algorithm="pbt")


def test_a_grid_has_every_combination_once() -> None:
    points = grid_points(parse_space({"a": "choice 1 2", "b": "grid x y z"}))
    assert points[:2] == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}]
    assert len({tuple(point.items()) for point in points}) == 6


def test_random_trials_take_grid_values_in_turn_and_depend_on_their_number_alone() -> None:
    dimensions = parse_space({"a": "grid 1 2", "b": "uniform 0 1"})
    points = [random_point(dimensions, seed=3, number=number) for number in range(1, 7)]
    assert [point["a"] for point in points] == [1, 2] * 3
    assert len({point["b"] for point in points}) == 6
    assert random_point(dimensions, seed=3, number=4) == points[3]
    assert random_point(dimensions, seed=4, number=4) != points[3]


def test_a_trial_gets_its_settings_folder_and_group() -> None:
    config = sweep_of({"optim.lr": "uniform 0.1 0.2"})
    settings = {"optim.lr": 0.15, "model.lora.rank": 4, "decoding.beams": 2, "optim.betas": (0.8, 0.9)}
    trial = trial_config(config, settings, number=7)
    assert trial.train.run == "/sweeps/one/trials/0007"
    assert (trial.tracking.group, trial.tracking.name) == ("one", "one-0007")
    assert (trial.optim.lr, trial.model.model_dump()["lora"]["rank"]) == (0.15, 4)
    assert (trial.decoding.beams, trial.train.val_beams) == (2, 2)  # or validation would not notice
    assert trial.optim.betas == (0.8, 0.9)
    assert with_settings(config, {"decoding.beams": 2, "train.val_beams": 1}).train.val_beams == 1


def test_settings_that_contradict_each_other_are_noticed_together() -> None:
    config = sweep_of({"decoding.n": "choice 1 3", "decoding.beams": "choice 1 3"})
    assert len(read_space(config)) == 2
    with pytest.raises(ValidationError, match="n=3 captions need beams=3"):
        trial_config(config, {"decoding.n": 3, "decoding.beams": 1}, number=1)


def test_own_settings_are_the_presets() -> None:
    dimensions = parse_space(
        {"optim.lr": "uniform 0.1 0.2", "model.lora.rank": "choice 1", "optim.betas": [[0, 0]]}
    )
    own = own_settings(sweep_of({"optim.lr": "uniform 0.1 0.2"}), dimensions)
    assert own == {"optim.lr": 2e-3, "model.lora.rank": 16, "optim.betas": (0.9, 0.999)}


def test_rows_are_shared_unless_the_encoder_varies() -> None:
    """Trials that differ in nothing the rows depend on must never make or read them twice."""
    config = sweep_of({"optim.lr": "uniform 0.1 0.2", "train.batch_size": "choice 8 16"})
    dimensions = read_space(config)
    assert len(rows_configs(config, dimensions)) == 1
    (key,) = rows_configs(config, dimensions)
    assert rows_key(trial_config(config, {"optim.lr": 0.1, "train.batch_size": 8}, number=1)) == key
    config = sweep_of({"encoder.layer": "choice -2 -3", "train.num_workers": "choice 1 4"})
    wanted = rows_configs(config, read_space(config))
    assert sorted(found.encoder.layer for found in wanted.values()) == [-3, -2, -1]  # the preset's own too
    assert {found.train.num_workers for found in wanted.values()} == {4}
    for layer in (-2, -3):
        settings = {"encoder.layer": layer, "train.num_workers": 1}
        assert rows_key(trial_config(config, settings, number=2)) in wanted


@pytest.mark.parametrize(
    ("choose", "expected"),
    [
        ("", ("cider_d", False)),
        ("val_loss", ("val_loss", True)),
        ("pareto", ("cider_d", False)),
        ("weighted:bleu_4=1", ("bleu_4", False)),
        ("meteor-centred", ("meteor", False)),
        ("lexicographic:val_loss=0.1,cider_d", ("val_loss", True)),
        ("rouge_l", ("rouge_l", False)),
    ],
)
def test_the_objective_is_one_number(choose: str, expected: tuple[str, bool]) -> None:
    """Of meteor-centred it was CIDEr-D, so that asha ended trials by another metric than the best is chosen by."""
    config = sweep_of({"optim.lr": "uniform 0.1 0.2"})
    document = config.model_dump(mode="json")
    document["train"]["choose"] = choose
    assert objective(SweepConfig.model_validate(document)) == expected


@pytest.mark.parametrize(
    ("train", "nodes", "on_gpu", "expected"),
    [
        ({"num_workers": 2}, [{"CPU": 4}], False, 2),
        ({"num_workers": 2}, [{"CPU": 5}], False, 2),
        (
            {"num_workers": 1, "cpus_per_worker": 2},
            [{"CPU": 3}, {"CPU": 3}],
            False,
            2,
        ),  # 6 CPUs, no room for 3
        ({"num_workers": 2, "cpus_per_worker": 2}, [{"CPU": 3}, {"CPU": 3}], False, 1),
        ({"num_workers": 5}, [{"CPU": 4}], False, 0),
        ({"num_workers": 1, "cache": "disk"}, [{"CPU": 4}], False, 3),
        ({"num_workers": 1, "gpus_per_worker": 0.25}, [{"CPU": 64, "GPU": 2}], True, 8),
        (
            {"num_workers": 2, "gpus_per_worker": 0.4},
            [{"CPU": 64, "GPU": 2}],
            True,
            2,
        ),  # 0.2 of each GPU is idle
        ({"num_workers": 2, "gpus_per_worker": 1}, [{"CPU": 3, "GPU": 8}], True, 1),
        ({"num_workers": 1, "gpus_per_worker": 0.1}, [{"CPU": 64, "GPU": 1}], True, 10),
    ],
)
def test_trials_side_by_side(
    train: dict[str, Any], nodes: list[dict[str, float]], on_gpu: bool, expected: int
) -> None:
    """More would hold parts of what they need and wait for each other for ever."""
    document = sweep_of({"optim.lr": "uniform 0.1 0.2"}).model_dump(mode="json")
    document["train"] |= train
    assert trials_that_fit(SweepConfig.model_validate(document), nodes, on_gpu=on_gpu) == expected


@pytest.mark.parametrize(
    ("workers", "cpus", "cores", "fit", "expected"),
    [(1, 2, 2, 2, 1), (1, 1, 2, 4, 2), (2, 2, 2, 1, 1), (1, 1, 64, 8, 8), (1, 0.5, 2, 8, 4)],
)
def test_a_small_machine_runs_as_many_trials_as_it_has_cores_for(
    workers: int, cpus: float, cores: int, fit: int, expected: int
) -> None:
    """Ray on two cores claims four CPUs; two trials of two threads each took four times as long as in turn."""
    document = sweep_of({"optim.lr": "uniform 0.1 0.2"}).model_dump(mode="json")
    document["train"] |= {"num_workers": workers, "cpus_per_worker": cpus}
    assert trials_on_cores(SweepConfig.model_validate(document), fit, cores=cores) == expected
