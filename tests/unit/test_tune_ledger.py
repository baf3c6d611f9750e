"""What a sweep says as it goes on, to whom it belongs, and on what data it goes on."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_tune_space import sweep_of

from raycap.config import ConfigError
from raycap.tune.launch import check_data
from raycap.tune.ledger import Ledger
from raycap.tune.record import TrialRecord, read_trials
from raycap.tune.report import SweepError
from raycap.tune.search import NUMBER
from raycap.tune.settings import read_space


def ledger(sweep: Path, *, trials: int = 4) -> Ledger:
    """A ledger of a sweep whose records are read from its folder."""
    config = sweep_of({"optim.lr": "loguniform 1e-4 1e-2"}, run=str(sweep))
    found = Ledger(config, read_space(config), read_trials(str(sweep)))
    found.take_over()
    found.total = trials
    return found


def run(found: Ledger, number: int, *epochs: dict[str, float]) -> None:
    """A trial, from its start to its end."""
    found.write(TrialRecord(number=number, settings={"optim.lr": 10.0**-number}))
    trial: Any = SimpleNamespace(config={NUMBER: number})
    found.on_trial_start(0, [], trial)
    for epoch, metrics in enumerate(epochs, start=1):
        found.on_trial_result(0, [], trial, {"epoch": epoch, **metrics})
    found.on_trial_complete(0, [], trial)


def test_it_says_what_is_best_so_far_and_what_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever watched had to keep the best in mind, and to count."""
    found = ledger(tmp_path)
    run(found, 1, {"cider_d": 0.5})
    run(found, 2, {"cider_d": 0.4})
    lines = capsys.readouterr().err.splitlines()
    assert "trial 1  epoch 1/12  cider_d 0.5000" in lines
    standing = [line for line in lines if "trials are over" in line]
    assert standing[1].startswith("2 of 4 trials are over; best so far is trial 1, cider_d 0.5000; about ")
    assert standing[1].endswith(" left")
    run(found, 3)
    run(found, 4, {"cider_d": 0.9})
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "4 of 4 trials are over; best so far is trial 4, cider_d 0.9000"
    resumed = ledger(tmp_path)
    assert resumed.standing() == last


def test_a_sweep_that_another_has_taken_over_is_left_alone(tmp_path: Path) -> None:
    """Two drivers on one folder overwrote each other's records; a trial that one had lost was failed for both."""
    first = ledger(tmp_path)
    run(first, 1, {"cider_d": 0.5})
    second = ledger(tmp_path)
    with pytest.raises(SweepError, match="has taken over"):
        run(first, 2, {"cider_d": 0.5})
    run(second, 2, {"cider_d": 0.6})
    assert sorted(read_trials(str(tmp_path))) == [1, 2]


def test_a_sweep_does_not_go_on_over_other_data(tmp_path: Path) -> None:
    """Rows prepared anew in the same place: later trials were ranked beside earlier ones of other images."""
    config = sweep_of({"optim.lr": "loguniform 1e-4 1e-2"})
    config = config.model_copy(update={"data": config.data.model_copy(update={"path": str(tmp_path)})})
    manifest = tmp_path / "manifest.json"
    for fingerprint in ("a", "a", "b"):
        manifest.write_text(json.dumps({"fingerprint": fingerprint, "counts": {"train": 2, "val": 1}}))
        if fingerprint == "b":
            with pytest.raises(ConfigError, match="has other rows than when"):
                check_data(config, sweep=str(tmp_path / "sweep"))
        else:
            check_data(config, sweep=str(tmp_path / "sweep"))


def test_a_sweep_without_validation_images_leaves_nothing_behind(tmp_path: Path) -> None:
    """It left a folder that the next `raycap tune` refused as not empty."""
    config = sweep_of({"optim.lr": "loguniform 1e-4 1e-2"})
    config = config.model_copy(update={"data": config.data.model_copy(update={"path": str(tmp_path)})})
    (tmp_path / "manifest.json").write_text(json.dumps({"fingerprint": "a", "counts": {"train": 2}}))
    with pytest.raises(ConfigError, match="has no validation images"):
        check_data(config, sweep=str(tmp_path / "sweep"))
    assert not (tmp_path / "sweep").exists()
