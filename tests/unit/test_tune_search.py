"""What Ray Tune is told: the next trial, which go on, and what a killed sweep remembers."""

import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError
from ray.tune.search import Searcher

from raycap.config import ConfigError
from raycap.tune import TuneOptions
from raycap.tune.record import TrialRecord, check_names, is_metric, read_trials, write_trial
from raycap.tune.search import NUMBER, Asha, Planner
from raycap.tune.space import Dimension, parse_space

DIMENSIONS = parse_space({"lr": "loguniform 1e-4 1e-1", "rank": "choice 4 8", "wide": "choice true false"})
OWN = {"lr": 1e-3, "rank": 4, "wide": False}


def options(**changed: Any) -> TuneOptions:
    """A sweep's options."""
    return TuneOptions.model_validate({"run": "/sweep", "trials": 5, **changed})


def planner(
    records: dict[int, TrialRecord],
    *,
    refused: frozenset[int] = frozenset(),
    dimensions: tuple[Dimension, ...] = DIMENSIONS,
    own: Mapping[str, Any] = OWN,
    **changed: Any,
) -> Planner:
    """A planner that keeps its records in `records` and refuses the settings of some trials."""

    def check(settings: Mapping[str, Any], number: int) -> None:
        if number in refused:
            TuneOptions.model_validate({"run": "x", "trials": 0})

    return Planner(
        options(**changed),
        dimensions,
        own=own,
        objective=("cider_d", False),
        records=records,
        check=check,
        write=lambda record: records.update({record.number: record}),
    )


def scored(number: int, *values: float, state: str = "finished", settings: Any = None) -> TrialRecord:
    """A trial with a CIDEr-D for each epoch."""
    metrics = {str(epoch): {"cider_d": value} for epoch, value in enumerate(values, start=1)}
    return TrialRecord.model_validate(
        {
            "number": number,
            "settings": settings or OWN,
            "state": state,
            "epoch": len(values),
            "metrics": metrics,
        }
    )


def give_out(found: Planner) -> list[int]:
    """Numbers of all trials that a planner gives out."""
    numbers: list[int] = []
    while (suggested := found.suggest(f"id{len(numbers)}")) != Searcher.FINISHED:
        assert isinstance(suggested, dict)
        numbers.append(suggested[NUMBER])
    return numbers


@pytest.mark.parametrize("algorithm", ["random", "optuna"])
def test_the_preset_comes_first_and_then_new_settings(algorithm: str) -> None:
    records: dict[int, TrialRecord] = {}
    found = planner(records, algorithm=algorithm)
    assert found.left == 5
    assert give_out(found) == [1, 2, 3, 4, 5]
    assert records[1].settings == OWN
    assert len({record.settings["lr"] for record in records.values()}) == 5
    for record in records.values():
        assert all(d.contains(record.settings[d.name]) for d in DIMENSIONS)
        assert type(record.settings["wide"]) is bool


def test_a_grid_tries_everything_once_and_the_preset() -> None:
    records: dict[int, TrialRecord] = {}
    dimensions = parse_space({"rank": "choice 4 8", "wide": "grid true false"})
    own = {"rank": 16, "wide": False}
    for settings, expected in ((own, 5), ({"rank": 4, "wide": True}, 4)):  # the preset's own is not run twice
        records = {}
        found = planner(records, algorithm="grid", trials=2, dimensions=dimensions, own=settings)
        assert (found.total, len(give_out(found))) == (expected, expected)
        assert len({tuple(record.settings.items()) for record in records.values()}) == expected


def test_a_grid_that_goes_on_with_more_values_tries_the_new_ones() -> None:
    """Numbers stood for places in the grid: with a value more, some points were run twice and others never."""
    records: dict[int, TrialRecord] = {}
    own = {"betas": (0.9, 0.9), "rank": 16}
    before = parse_space({"betas": [[0.8, 0.9], [0.9, 0.9]], "rank": "choice 4 8"})
    give_out(planner(records, algorithm="grid", dimensions=before, own=own))
    for number, record in records.items():
        read = TrialRecord.model_validate_json(record.model_dump_json())  # JSON has no tuples
        records[number] = scored(number, 0.5, settings=read.settings)
    after = parse_space({"betas": [[0.8, 0.9], [0.9, 0.9]], "rank": "choice 4 6 8"})
    assert give_out(planner(records, algorithm="grid", dimensions=after, own=own)) == [6, 7]
    assert [records[n].settings["rank"] for n in (6, 7)] == [6, 6]
    assert len({str(record.point) for record in records.values()}) == 7


@pytest.mark.parametrize("algorithm", ["random", "optuna"])
def test_no_trial_repeats_another(algorithm: str) -> None:
    """Of two settings with two values each, six trials tried some twice, which came to the same."""
    dimensions = parse_space({"rank": "choice 4 8", "wide": "choice true false"})
    for own, expected in ((OWN, 4), ({"rank": 16, "wide": False}, 5)):
        settings = {name: own[name] for name in ("rank", "wide")}
        records: dict[int, TrialRecord] = {}
        found = planner(records, algorithm=algorithm, trials=12, dimensions=dimensions, own=settings)
        assert (found.total, len(give_out(found))) == (expected, expected)
        assert len({tuple(record.settings.items()) for record in records.values()}) == expected
        assert planner(records, algorithm=algorithm, dimensions=dimensions, own=settings).left == expected


def test_a_sweep_goes_on_with_more_trials_and_fills_a_gap() -> None:
    """A damaged trial, whose folder the user has deleted, was never run again."""
    records = {number: scored(number, 0.5) for number in (1, 2, 4, 5)}
    found = planner(records, algorithm="random", trials=7)
    assert (found.left, found.total) == (3, 7)
    assert give_out(found) == [3, 6, 7]
    assert planner(records, algorithm="random", trials=2).left == 3  # those just begun, and no others


def test_settings_that_contradict_each_other_are_a_failed_trial() -> None:
    """And the sweep goes on with the next."""
    records: dict[int, TrialRecord] = {}
    assert give_out(planner(records, refused=frozenset({2, 5}), algorithm="random")) == [1, 3, 4]
    assert [n for n, record in records.items() if record.state == "failed"] == [2, 5]
    assert records[2].reason.startswith("trials: Input should be greater than or equal to 1")


@pytest.mark.parametrize("algorithm", ["random", "optuna"])
def test_a_killed_sweep_gives_out_what_was_begun_and_then_the_rest(algorithm: str) -> None:
    """Nothing that is over is run again, and what is drawn anew is nothing that was drawn before."""
    records: dict[int, TrialRecord] = {}
    first = planner(records, algorithm=algorithm)
    for trial in ("a", "b", "c"):
        first.suggest(trial)
    drawn = {number: record.settings for number, record in records.items()}
    records[1] = scored(1, 0.1, 0.3, settings=drawn[1])
    records[2] = records[2].changed(state="failed", reason="lost")
    resumed = planner(records, algorithm=algorithm)
    assert resumed.left == 3
    assert give_out(resumed) == [3, 4, 5]
    assert {n: records[n].settings for n in drawn} == drawn
    assert len({record.settings["lr"] for record in records.values()}) == 5


def test_random_draws_are_the_same_after_a_kill() -> None:
    whole: dict[int, TrialRecord] = {}
    give_out(planner(whole, algorithm="random"))
    cut: dict[int, TrialRecord] = {}
    planner(cut, algorithm="random").suggest("a")
    give_out(planner(cut, algorithm="random"))
    assert cut == whole


def test_optuna_learns_from_the_trials_before_it_was_killed() -> None:
    """A study made anew from the records: with rank 8 always far better, it asks for little else."""
    records = {
        number: scored(
            number, 0.9 if number % 2 else 0.1, settings={"lr": 1e-3, "rank": 8 if number % 2 else 4}
        )
        for number in range(1, 17)
    }
    for number, record in records.items():
        records[number] = record.changed(settings={**record.settings, "wide": bool(number % 3)})
    found = planner(records, algorithm="optuna", trials=20)
    assert found.study is not None
    assert len(found.study.study.trials) == 16
    give_out(found)
    ranks = [records[number].settings["rank"] for number in range(17, 21)]
    assert ranks == [8, 8, 8, 8]


def test_the_preset_outside_the_space_teaches_optuna_nothing() -> None:
    records = {
        1: scored(1, 0.5, settings={**OWN, "lr": 5.0}),
        2: scored(2, 0.6),
        3: scored(3, 0.2, state="failed"),
    }
    found = planner(records, algorithm="optuna")
    assert found.study is not None
    assert [trial.value for trial in found.study.study.trials] == [0.6]


def test_optuna_is_told_of_trials_as_they_end() -> None:
    records: dict[int, TrialRecord] = {}
    found = planner(records, algorithm="optuna", baseline=False)
    found.suggest("a")
    found.suggest("b")
    records[1] = scored(1, 0.4, 0.7, 0.6, settings=records[1].settings)
    found.on_trial_complete("a", {})
    found.on_trial_complete("b", error=True)
    assert found.study is not None
    assert [trial.value for trial in found.study.study.trials] == [0.7, None]


def asha(records: dict[int, TrialRecord], **changed: Any) -> Asha:
    """A scheduler of four epochs, one in two going on."""
    return Asha(options(reduction=2, **changed), epochs=4, objective=("cider_d", False), records=records)


def decide(scheduler: Asha, number: int, epoch: int, value: float) -> str:
    """What becomes of a trial after an epoch."""
    trial: Any = SimpleNamespace(config={NUMBER: number}, trial_id=f"tune-{number}")
    if epoch == 1:
        scheduler.on_trial_add(None, trial)
    return scheduler.on_trial_result(None, trial, {"epoch": epoch, "cider_d": value})


def test_asha_ends_what_is_behind_but_never_the_preset() -> None:
    scheduler = asha({})
    assert decide(scheduler, 2, 1, 0.5) == "CONTINUE"
    assert decide(scheduler, 1, 1, 0.1) == "CONTINUE"  # the baseline
    assert decide(scheduler, 3, 1, 0.2) == "STOP"
    assert decide(scheduler, 4, 1, 0.6) == "CONTINUE"
    without = asha({}, baseline=False)
    assert decide(without, 2, 1, 0.5) == "CONTINUE"
    assert decide(without, 1, 1, 0.1) == "STOP"


def test_asha_lets_the_last_epoch_end_by_itself() -> None:
    """Ray's own ends a trial at once after its last epoch, before its records are closed."""
    scheduler = asha({})
    for epoch in (1, 2, 3, 4):
        assert decide(scheduler, 2, epoch, 0.1 * epoch) == "CONTINUE"


def test_asha_ends_a_trial_whose_metric_is_no_number() -> None:
    """And it says nothing of where the others are cut: a NaN went on for ever."""
    scheduler = asha({})
    assert decide(scheduler, 2, 1, math.nan) == "STOP"
    assert decide(scheduler, 3, 1, -math.inf) == "STOP"
    assert decide(scheduler, 1, 1, math.nan) == "CONTINUE"  # the baseline
    assert decide(scheduler, 4, 1, 0.5) == "CONTINUE"
    assert decide(scheduler, 5, 1, 0.4) == "STOP"


def test_asha_knows_the_trials_before_it_was_killed() -> None:
    scheduler = asha({1: scored(1, 0.5, 0.6), 2: scored(2, 0.7, state="stopped")})
    assert decide(scheduler, 3, 1, 0.55) == "STOP"
    scheduler = asha({})
    assert decide(scheduler, 3, 1, 0.55) == "CONTINUE"


def test_a_record_counts_an_epoch_once(tmp_path: Any) -> None:
    """A trial that goes on reports the epochs before the kill again, without their seconds."""
    row = {"epoch": 1, "step": 3, "val_loss": 2.0, "training_s": 4.0, "checkpoint_s": 1.0, "done": False}
    record = TrialRecord(number=3, settings=OWN).with_epoch(row)
    again = record.with_epoch({"epoch": 1, "step": 3, "val_loss": 2.0}).with_epoch(row)
    assert again == record
    assert record.seconds == {"training_s": 4.0, "checkpoint_s": 1.0}
    assert record.metrics == {"1": {"val_loss": 2.0}}
    assert not is_metric("training_s", 1.0)
    write_trial(str(tmp_path), record)
    (tmp_path / "trials/0004").mkdir()  # a trial's folder without a record is none
    assert read_trials(str(tmp_path)) == {3: record}


def test_an_epoch_with_a_metric_that_is_no_number_is_recorded() -> None:
    """The record refused it, and the error ended the whole sweep, not the trial."""
    row = {"epoch": 2, "val_loss": math.nan, "cider_d": 0.1, "train_loss": math.inf}
    record = TrialRecord(number=3, settings=OWN).with_epoch(row)
    assert (record.epoch, record.metrics) == (2, {"2": {"cider_d": 0.1}})


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{", "is not valid JSON"), ('{"number": 2}', "settings: Field required"), ("3", "")],
)
def test_a_damaged_record_is_named(content: str, reason: str, tmp_path: Path) -> None:
    write_trial(str(tmp_path), scored(2, 0.5))
    (tmp_path / "trials/0002/trial.json").write_text(content)
    with pytest.raises(ConfigError) as error:
        read_trials(str(tmp_path))
    assert "trials/0002/trial.json is damaged" in str(error.value)
    assert reason in str(error.value)
    assert f"delete the folder {tmp_path}/trials/0002" in str(error.value)


def test_a_sweep_keeps_the_settings_that_it_varies() -> None:
    """With one more in config.yaml, what the trials before had of it was a KeyError."""
    records = {1: scored(1, 0.5)}
    check_names(records, list(OWN), sweep="S")
    with pytest.raises(
        ConfigError, match=r"trial 1 of S and the space in its config.yaml differ in dropout, wide"
    ):
        check_names(records, ["lr", "rank", "dropout"], sweep="S")


def test_optuna_takes_a_step_that_does_not_meet_the_end(recwarn: pytest.WarningsRecorder) -> None:
    """Optuna warned and put the end elsewhere."""
    records: dict[int, TrialRecord] = {}
    dimensions = parse_space({"rank": "int 4 15 4"})
    give_out(planner(records, algorithm="optuna", dimensions=dimensions, own={"rank": 16}))
    assert sorted(record.settings["rank"] for record in records.values()) == [4, 8, 12, 16]
    assert not list(recwarn)


def test_options_are_checked() -> None:
    with pytest.raises(ValidationError, match="reduction"):
        options(reduction=1)
