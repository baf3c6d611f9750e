"""`raycap models`: what is found below a folder, shown, chosen, pruned; and what is refused."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
import yaml
from toy_family import ENCODER, ToyConfig, make_base, make_toy

from raycap import checkpoint, cli, runs, storage
from raycap.checkpoint import CheckpointError, RunCheckpoints
from raycap.checkpoint.manifest import digest_of
from raycap.config import ConfigError
from raycap.decoding import DecodingConfig
from raycap.runs.listing import readable_size


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ToyConfig:
    return make_base(tmp_path_factory.mktemp("base"))


def fill(run: str, config: ToyConfig, metrics: list[dict[str, float]], *, by: str = "cider_d") -> list[str]:
    """A run with a checkpoint at steps 10, 20, ... with these metrics; what training removes is gone."""
    checkpoints = RunCheckpoints(run, metric=by)
    return [
        checkpoints.save_step(
            make_toy(config, seed=place),
            model_config=config,
            tokenizer=config.load_tokenizer(),
            encoder=ENCODER,
            decoding=DecodingConfig(beams=2),
            metrics=found,
            step=10 * place,
            epoch=place,
        )
        for place, found in enumerate(metrics, start=1)
    ]


RISING = [
    {"val_loss": 2.0, "cider_d": 0.3, "bleu_4": 0.20},
    {"val_loss": 2.2, "cider_d": 0.5, "bleu_4": 0.15},
    {"val_loss": 2.3, "cider_d": 0.4, "bleu_4": 0.16},
    {"val_loss": 2.4, "cider_d": 0.45, "bleu_4": 0.17},
]
STEPS = [f"step-{step:08d}" for step in (10, 20, 30, 40)]


@pytest.fixture
def place(tmp_path: Path, base: ToyConfig) -> Path:
    """Two runs, one of them deeper, a checkpoint by itself, and things that are none."""
    folder = tmp_path / "work"
    fill(str(folder / "one"), base, RISING)
    saved = fill(str(folder / "sweep/two"), base, [{"val_loss": 1.5, "cider_d": 0.42, "bleu_4": 0.3}])
    shutil.copytree(saved[0], folder / "best")
    shutil.copytree(saved[0], folder / ".hidden/best")
    (folder / "data").mkdir()
    (folder / "data/manifest.json").write_text('{"fingerprint": "f", "counts": {}}')
    (folder / "one/metrics.jsonl").touch()
    return folder


@pytest.fixture
def remote() -> Iterator[str]:
    """PyArrow's in-memory store in the place of an object store."""
    memory = pafs._MockFileSystem()
    original = storage.filesystem

    def mocked(path: str) -> tuple[pafs.FileSystem, str]:
        return (memory, path.removeprefix("mock://")) if path.startswith("mock://") else original(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "filesystem", mocked)
        yield "mock://bucket/runs"


def output(capsys: pytest.CaptureFixture[str], *tokens: str) -> str:
    cli.main(["models", *tokens])
    return capsys.readouterr().out


def failure(capsys: pytest.CaptureFixture[str], *tokens: str, code: int = 1) -> str:
    with pytest.raises(SystemExit) as caught:
        cli.main(["models", *tokens])
    assert caught.value.code == code
    return capsys.readouterr().err


def test_list_finds_runs_at_any_depth(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = json.loads(output(capsys, "list", str(place), "--json"))
    assert [(row["run"], row["step"], row["checkpoints"]) for row in listed] == [
        (str(place / "best"), 10, 1),
        (str(place / "one"), 20, 4),
        (str(place / "sweep/two"), 10, 1),
    ]
    row = listed[1]
    assert row["checkpoint"] == checkpoint.resolve(str(place / "one"))
    assert row["metrics"] == RISING[1]
    files = [path for path in (place / "one/checkpoints").rglob("*") if path.is_file()]
    written = [path for path in files if path.name not in {"index.json", "manifest.json"}]
    assert row["size"] == sum(path.stat().st_size for path in written)
    table = output(capsys, "list", str(place))
    assert all(text in table for text in ("sweep/two", "toy", "0.5000", "0.1500", "val_loss"))
    assert str(place) not in table


def test_list_follows_the_runs_strategy(tmp_path: Path, base: ToyConfig) -> None:
    by = "cider-centred:bleu_4=0.2"
    fill(str(tmp_path / "run"), base, RISING, by=by)
    (tmp_path / "run/config.yaml").write_text(yaml.safe_dump({"train": {"choose": by, "metric": "cider_d"}}))
    (run,) = runs.find_runs(str(tmp_path))
    assert (run.strategy, run.best.name) == (by, STEPS[3])
    assert run.best.path == checkpoint.resolve(str(tmp_path / "run"))


def test_a_run_without_metrics_is_its_last(tmp_path: Path, base: ToyConfig) -> None:
    fill(str(tmp_path), base, [{}, {}])
    (run,) = runs.find_runs(str(tmp_path))
    assert (run.path, run.best.name) == (str(tmp_path), STEPS[1])


def test_damaged_checkpoints_are_left_out(
    place: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "best/manifest.json").write_text("{")
    assert len(runs.find_runs(str(place))) == 2
    assert "leaving a damaged checkpoint out" in caplog.text
    assert "manifest.json is not valid JSON" in caplog.text


def test_a_metric_that_is_no_number_is_null(tmp_path: Path, base: ToyConfig) -> None:
    fill(str(tmp_path), base, [{"val_loss": float("nan"), "cider_d": 0.1}])
    (row,) = runs.describe_runs(runs.find_runs(str(tmp_path)))
    assert row["metrics"] == {"val_loss": None, "cider_d": 0.1}


def test_nothing_to_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert output(capsys, "list", str(tmp_path)) == f"no run below {tmp_path}\n"
    assert "there is no folder" in failure(capsys, "list", str(tmp_path / "nowhere"))


def test_show_tells_everything_in_the_manifest(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = yaml.safe_load(output(capsys, "show", str(place / "one")))
    saved = json.loads((place / f"one/checkpoints/{STEPS[1]}/manifest.json").read_text())
    assert set(saved) <= set(shown)
    for name in ("family", "model", "encoder", "decoding", "metrics", "history", "versions", "digest"):
        assert shown[name] == saved[name], name
    assert shown["files"].keys() == saved["files"].keys()
    assert shown["run"] == {
        "path": str(place / "one"),
        "best_metric": STEPS[1],
        "best_metric_by": "cider_d",
        "best_loss": STEPS[0],
        "last": STEPS[3],
        "checkpoints": STEPS,
    }
    as_json = json.loads(output(capsys, "show", str(place / "one/best-loss"), "--json"))
    assert as_json["step"] == 10
    assert as_json["base"] == saved["base"]
    assert "run" not in yaml.safe_load(output(capsys, "show", str(place / "best")))
    assert "no checkpoint at" in failure(capsys, "show", str(place / "sweep"))


TWO, ONE_20 = f"sweep/two/checkpoints/{STEPS[0]}", f"one/checkpoints/{STEPS[1]}"


@pytest.mark.parametrize(
    ("by", "name"),
    [
        ("cider_d", ONE_20),
        ("val_loss", TWO),  # and its copy is as good: of equals the oldest
        ("weighted:cider_d=1,bleu_4=1", TWO),
        ("cider-centred", TWO),
        ("cider-centred:val_loss=0.5", ONE_20),
        ("lexicographic:cider_d=0.1,val_loss", ONE_20),
        ("lexicographic:cider_d=0.2,val_loss", TWO),
        ("pareto", TWO),
        ("pareto:cider_d", ONE_20),
    ],
)
def test_best_of_every_checkpoint_below(
    place: Path, by: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for age, path in enumerate(sorted(place.rglob("manifest.json"))):  # the run deeper down is the oldest
        body = {key: value for key, value in json.loads(path.read_text()).items() if key != "digest"}
        if "created" in body:
            body["created"] = f"2026-01-{20 - age:02d}T00:00:00+00:00"
            path.write_text(json.dumps({**body, "digest": digest_of(body)}))
    cli.main(["models", "best", str(place), "--by", by])
    out, err = capsys.readouterr()
    assert out == f"{place / name}\n"
    assert err.startswith(f"{place / name}: by {by}: ")


def test_best_is_alone_on_stdout(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert output(capsys, "best", str(place)) == f"{place}/one/checkpoints/{STEPS[1]}\n"
    assert output(capsys, "best", str(place / "one"), "--by", "val_loss") == (
        f"{place}/one/checkpoints/{STEPS[0]}\n"
    )
    assert "unknown strategy 'cider'" in failure(capsys, "best", str(place), "--by", "cider", code=2)
    assert "none of 6 candidates has a finite value of meteor" in failure(
        capsys, "best", str(place), "--by", "meteor"
    )
    assert "no checkpoint below" in failure(capsys, "best", str(place / "data"))


def test_prune_keeps_the_best_and_the_last(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = place / "one"
    dry = output(capsys, "prune", str(run), "--dry-run")
    assert f"would remove {STEPS[2]} (" in dry
    assert names(run) == STEPS
    done = output(capsys, "prune", str(run))
    assert done.splitlines()[:3] == [
        f"keeping {STEPS[1]} (best by cider_d)",
        f"keeping {STEPS[0]} (best by loss)",
        f"keeping {STEPS[3]} (last)",
    ]
    assert f"removing {STEPS[2]} (" in done
    assert "1 of 4 checkpoints, " in done
    assert names(run) == [STEPS[0], STEPS[1], STEPS[3]]
    assert checkpoint.resolve(str(run)).endswith(STEPS[1])
    assert "0 of 3 checkpoints, 0 B" in output(capsys, "prune", str(run))


def test_prune_keeps_what_it_is_told_to(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(place / "one")
    assert "keeping step-00000030 (asked for)" in output(capsys, "prune", run, "--keep", "30", "--dry-run")
    by = "lexicographic:bleu_4=0.15,cider_d"
    kept = output(capsys, "prune", run, "--keep", by, "--keep", "30", "--dry-run")
    assert f"keeping {STEPS[3]} (last, best by {by})" in kept
    assert "0 of 4 checkpoints" in kept
    assert "no checkpoint of that step; steps: 10, 20, 30, 40" in failure(
        capsys, "prune", run, "--keep", "7", code=2
    )
    assert "has the metrics that it compares" in failure(capsys, "prune", run, "--keep", "spice", code=2)


def test_prune_by_the_runs_own_strategy_and_history(tmp_path: Path, base: ToyConfig) -> None:
    """By the checkpoints that are left alone, 40 would be the best: the bar of BLEU-4 went with step 10."""
    by = "cider-centred:bleu_4=0.2"
    metrics = [{"cider_d": 0.1 * step, "bleu_4": 0.2 * 0.9**step} for step in range(5)]
    fill(str(tmp_path), base, metrics, by=by)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"train": {"choose": by, "metric": "cider_d"}}))
    plan = runs.plan_pruning(str(tmp_path))
    assert plan.kept == {"step-00000030": [f"best by {by}"], "step-00000050": ["last"]}
    assert list(plan.doomed) == ["step-00000040"]


def test_prune_does_not_believe_an_index_that_a_crash_left_behind(place: Path) -> None:
    """With an index from before the newest checkpoint, prune removed that newest one."""
    run = place / "one"
    index = run / "checkpoints/index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "last": STEPS[2], "best_metric": STEPS[0]}))
    plan = runs.plan_pruning(str(run))
    assert list(plan.kept) == [STEPS[1], STEPS[0], STEPS[3]]
    assert list(plan.doomed) == [STEPS[2]]
    assert checkpoint.resolve(f"{run}/last").endswith(STEPS[3])


def test_prune_removes_only_what_it_announced(place: Path) -> None:
    """A checkpoint that came between the plan and its carrying out was removed with the others."""
    run = place / "one"
    plan = runs.plan_pruning(str(run))
    shutil.copytree(run / "checkpoints" / STEPS[3], run / "checkpoints/step-00000050")
    plan.carry_out()
    assert names(run) == [STEPS[0], STEPS[1], STEPS[3], "step-00000050"]


def test_prune_removes_a_link_and_not_what_it_leads_to(place: Path, tmp_path: Path) -> None:
    linked = place / "one/checkpoints" / STEPS[2]
    shutil.move(linked, tmp_path / "elsewhere")
    linked.symlink_to(tmp_path / "elsewhere")
    runs.plan_pruning(str(place / "one")).carry_out()
    assert not linked.is_symlink()
    assert (tmp_path / "elsewhere/model.safetensors").exists()


def strange_file(run: Path) -> str:
    (run / "checkpoints/notes.txt").write_text("mine")
    return "notes.txt is not raycap's, so nothing is removed"


def strange_folder(run: Path) -> str:
    (run / "checkpoints/step-of-mine").mkdir()
    return "no checkpoint at .*step-of-mine: .* is missing, so nothing is removed"


def file_in_a_checkpoint(run: Path) -> str:
    (run / f"checkpoints/{STEPS[2]}/notes.txt").write_text("mine")
    return "notes.txt is no part of the checkpoint, so nothing is removed"


def missing_file(run: Path) -> str:
    (run / f"checkpoints/{STEPS[2]}/model.safetensors").unlink()
    return "model.safetensors is missing, so nothing is removed"


def damaged_manifest(run: Path) -> str:
    (run / f"checkpoints/{STEPS[2]}/manifest.json").write_text("{")
    return "not valid JSON, so nothing is removed"


@pytest.mark.parametrize(
    "spoil", [strange_file, strange_folder, file_in_a_checkpoint, missing_file, damaged_manifest]
)
def test_prune_refuses_what_it_does_not_recognise(place: Path, spoil: Any) -> None:
    run = place / "one"
    message = spoil(run)
    before = sorted(path for path in run.rglob("*"))
    with pytest.raises(CheckpointError, match=message):
        runs.plan_pruning(str(run))
    assert sorted(path for path in run.rglob("*")) == before


def test_prune_passes_over_what_a_killed_write_left(place: Path) -> None:
    left = place / "one/checkpoints/.step-00000050.1a2b3c4d.tmp"
    left.mkdir()
    runs.plan_pruning(str(place / "one")).carry_out()
    assert names(place / "one") == [left.name, STEPS[0], STEPS[1], STEPS[3]]


def test_prune_wants_a_run(place: Path) -> None:
    for folder in (place, place / "data", place / "one/checkpoints", place / "nowhere"):
        with pytest.raises(CheckpointError, match=r"no run at .*; give a run's folder"):
            runs.plan_pruning(str(folder))


def test_a_store_without_folders(base: ToyConfig, remote: str, capsys: pytest.CaptureFixture[str]) -> None:
    saved = fill(f"{remote}/a", base, RISING)
    fill(f"{remote}/b", base, RISING[:1])
    listed = json.loads(output(capsys, "list", remote, "--json"))
    assert [(row["run"], row["step"]) for row in listed] == [(f"{remote}/a", 20), (f"{remote}/b", 10)]
    assert yaml.safe_load(output(capsys, "show", f"{remote}/a"))["run"]["last"] == STEPS[3]
    assert output(capsys, "best", remote, "--by", "cider_d").strip() == saved[1]
    assert f"removing {STEPS[2]}" in output(capsys, "prune", f"{remote}/a")
    assert storage.list_names(f"{remote}/a/checkpoints") == ["index.json", STEPS[0], STEPS[1], STEPS[3]]
    assert "nothing" not in output(capsys, "compare", f"{remote}/a", f"{remote}/b")


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir() if path.is_dir())


def test_sizes_are_readable() -> None:
    sizes = (0, 999, 1000, 67_900_000, 5e15)
    assert [readable_size(size) for size in sizes] == ["0 B", "999 B", "1.0 kB", "67.9 MB", "5000.0 TB"]


def test_a_wrong_strategy_of_a_run_is_said(tmp_path: Path, base: ToyConfig) -> None:
    fill(str(tmp_path), base, RISING[:1])
    (tmp_path / "config.yaml").write_text("train: {metric: cidre}")
    with pytest.raises(ConfigError, match="unknown strategy 'cidre'"):
        runs.find_runs(str(tmp_path))


@pytest.mark.parametrize("command", ["list", "show", "best", "prune"])
def test_a_file_is_no_run(place: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    message = failure(capsys, command, str(place / "one/metrics.jsonl"))
    assert re.search(r"no (run|checkpoint|folder|run at)\b.*metrics\.jsonl", message)
    assert "Errno" not in message


def test_who_measures_meteor_is_said(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = failure(capsys, "best", str(place), "--by", "meteor-centred")
    assert "training measures METEOR only where train.choose names it" in message


def test_a_name_in_brackets_is_no_markup(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """rich took [/b] in a folder's name for the end of its markup, and the table broke off."""
    (place / "[b]one[").mkdir()
    (place / "one").rename(place / "[b]one[/i]")
    assert "[b]one[/i]" in output(capsys, "list", str(place))
