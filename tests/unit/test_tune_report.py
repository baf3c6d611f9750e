"""What a sweep leaves: the ranking, what mattered, seconds, and a page that holds against any text."""

from pathlib import Path
from typing import Any

import pytest
from small_run import make_run
from test_tune_space import sweep_of

from raycap import checkpoint
from raycap.tune.ranking import common_epoch, importances, rank, ranks, seconds_of
from raycap.tune.record import TrialRecord
from raycap.tune.report import against_baseline, describe, notes, ranked_table, seconds_line, write_report
from raycap.tune.settings import read_space
from raycap.tune.space import parse_space


def record(
    number: int, *epochs: dict[str, float], settings: dict[str, Any] | None = None, **changed: Any
) -> TrialRecord:
    """A trial with metrics for each epoch."""
    metrics = {str(epoch): found for epoch, found in enumerate(epochs, start=1)}
    content = {"number": number, "settings": settings or {}, "state": "finished", "epoch": len(epochs)}
    return TrialRecord.model_validate({**content, "metrics": metrics, **changed})


def by_number(*records: TrialRecord) -> dict[int, TrialRecord]:
    """Records by number."""
    return {found.number: found for found in records}


def test_trials_are_ranked_at_their_best_epoch_by_the_strategy() -> None:
    records = by_number(
        record(1, {"cider_d": 0.3, "val_loss": 2.0}, {"cider_d": 0.5, "val_loss": 2.5}),
        record(2, {"cider_d": 0.6, "val_loss": 2.2}, {"cider_d": 0.4, "val_loss": 1.9}),
        record(3, {"cider_d": 0.9, "val_loss": 1.0}, state="failed"),
        record(4, state="failed"),
    )
    ranking, reason = rank(records, by="cider_d")
    assert [(found.record.number, found.epoch) for found in ranking] == [(2, 1), (1, 2)]
    assert "cider_d 0.6000" in reason
    ranking, _ = rank(records, by="val_loss")
    assert [(found.record.number, found.epoch) for found in ranking] == [(2, 2), (1, 1)]
    ranking, _ = rank(records, by="lexicographic:cider_d=0.2,val_loss")
    assert [found.record.number for found in ranking] == [2, 1]
    assert rank({}, by="cider_d") == ([], "")


def test_importance_is_at_the_epoch_that_all_trials_have() -> None:
    """A trial that was ended early must not look poor because others trained longer."""
    dimensions = parse_space({"lr": "loguniform 1e-4 1e-1", "mode": "choice a b", "noise": "uniform 0 1"})
    noise = [0.3, 0.1, 0.2, 0.4]
    records = by_number(
        *(
            record(n + 1, *[{"cider_d": 0.1 * n + 0.5 * e} for e in range(1 + n % 2)]).changed(
                settings={"lr": 10.0**-n, "mode": "a" if n < 2 else "b", "noise": noise[n]}
            )
            for n in range(4)
        )
    )
    assert common_epoch(records, "cider_d") == 1
    found = {item.name: item for item in importances(records, dimensions, metric="cider_d", lower=False)}
    assert (found["lr"].strength, found["lr"].direction) == (pytest.approx(1.0), -1)
    assert found["mode"].strength == pytest.approx(
        (4 / 5) ** 0.5
    )  # of ranks 1 2 | 3 4: 4 of the 5 lie between
    assert found["mode"].direction == 0
    assert found["noise"].strength == pytest.approx(0.4)
    inverted = {item.name: item for item in importances(records, dimensions, metric="cider_d", lower=True)}
    assert inverted["lr"].direction == 1
    assert importances({1: records[1]}, dimensions, metric="cider_d", lower=False) == []


def test_equal_values_share_a_rank() -> None:
    assert ranks([3.0, 1.0, 3.0, 2.0]).tolist() == [3.5, 1.0, 3.5, 2.0]


def test_seconds_add_up() -> None:
    one = {"total": 30.0, "training_s": 12.0, "validation_s": 3.0, "checkpoint_s": 1.0, "loading_s": 4.0}
    seconds = seconds_of(by_number(record(1, seconds=one), record(2, seconds={"total": 5.0})))
    assert seconds["startup_s"] == 15.0
    assert seconds["not_training_s"] == 23.0
    assert "0:23 (66%) were not training: starting and ending processes 0:15, loading 0:04" in seconds_line(
        seconds
    )


def nasty(tmp_path: Path) -> tuple[dict[str, Any], str]:
    """A report of trials whose settings and reasons are markup, and its page."""
    evil = "</script><script>alert(1)</script>"
    config = sweep_of({"model.language_model": [evil, "b"], "optim.lr": "loguniform 1e-4 1e-2"})
    config = config.model_copy(update={"tune": config.tune.model_copy(update={"run": str(tmp_path / "<b>")})})
    records = by_number(
        record(
            1, {"cider_d": 0.5, "val_loss": 2.0}, settings={"model.language_model": "gpt2", "optim.lr": 0.5}
        ),
        record(
            2, {"cider_d": 0.6, "val_loss": 1.0}, settings={"model.language_model": evil, "optim.lr": 1e-3}
        ),
        record(3, state="failed", reason=evil, settings={"model.language_model": evil, "optim.lr": 1e-4}),
        record(4, state="begun", settings={"model.language_model": "b", "optim.lr": 1e-4}),
    )
    report = describe(config, read_space(config), records, best="/x y", best_epoch=2)
    write_report(report, read_space(config))
    return report, (tmp_path / "<b>/sweep.html").read_text()


def test_the_page_escapes_everything_and_asks_for_nothing(tmp_path: Path) -> None:
    report, page = nasty(tmp_path)
    assert "<script>alert" not in page
    assert page.count("<script>") == 1
    assert "<b>" not in page
    assert "&lt;/script&gt;" in page
    for outside in ("http://", "https://", "src=", "@import", "url("):
        assert outside not in page
    assert "raycap serve --checkpoint '/x y'" in report["serve"]
    assert page.count("<polyline") == 4  # two trials, in both pictures
    assert "gpt2" in page  # the preset's value outside the space has its place


def test_the_report_says_what_failed_and_how_the_preset_did(tmp_path: Path) -> None:
    report, _ = nasty(tmp_path)
    assert [trial["number"] for trial in report["trials"]] == [2, 1, 3, 4]
    text = "\n".join(notes(report))
    assert "trial 3 failed: </script>" in text
    assert "best is trial 2: cider_d 0.6000 is the highest of" in text
    assert "preset's own settings have cider_d 0.5000 after 1 epochs, the best trial 0.6000 (+0.1000)" in text
    assert "checkpoint: /x y, of epoch 2, served by" in text
    assert ranked_table(report).row_count == 4
    report["trials"] = report["trials"][1:]
    assert "no trial was better" in against_baseline(report)


def test_the_preset_is_held_against_at_its_best_epoch() -> None:
    """Its best number stood there as that of its last epoch."""
    config = sweep_of({"optim.lr": "loguniform 1e-4 1e-2"})
    records = by_number(
        record(1, {"cider_d": 0.5}, {"cider_d": 0.7}, {"cider_d": 0.6}), record(2, {"cider_d": 0.8})
    )
    said = against_baseline(describe(config, read_space(config), records))
    assert said == (
        "the preset's own settings have cider_d 0.7000 after 2 epochs, the best trial 0.8000 (+0.1000) after 1"
    )


def test_a_report_of_nothing_is_one_too(tmp_path: Path) -> None:
    config = sweep_of({"optim.lr": "loguniform 1e-4 1e-2"})
    empty = describe(config, read_space(config), {})
    assert (empty["trials"], empty["baseline"], empty["importance"]["settings"]) == ([], 0, [])


def test_a_checkpoint_is_copied_whole(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for _ in range(2):  # the second replaces the first
        manifest = checkpoint.copy(str(run), str(tmp_path / "sweep/best"))
        assert manifest == checkpoint.verify(checkpoint.resolve(str(run)))
    assert checkpoint.resolve(str(tmp_path / "sweep/best")) == str(tmp_path / "sweep/best")
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir()) == ["best"]
    weights = tmp_path / "sweep/best/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(checkpoint.CheckpointError, match="damaged"):
        checkpoint.copy(str(tmp_path / "sweep/best"), str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_a_copy_that_breaks_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its half stayed beside the trials, hidden, and every further try left one more."""
    run = make_run(tmp_path)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("raycap.storage.publish_folder", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.copy(str(run), str(tmp_path / "sweep/best"))
    assert list((tmp_path / "sweep").iterdir()) == []
