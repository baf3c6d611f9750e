"""The command line: presets, precedence, shorthands and the sentences for wrong input."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from raycap import __version__, cli
from raycap.config import ConfigError, load_document, preset_names


def run(*tokens: str, code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that fails and give its stderr."""
    with pytest.raises(SystemExit) as exit_info:
        cli.main(tokens)
    assert exit_info.value.code == code
    return capsys.readouterr().err


def test_stage_blocks_are_the_fields_of_the_configs() -> None:
    from raycap.data.featurize import FeaturizeConfig
    from raycap.data.prepare import PrepareConfig
    from raycap.train import TrainConfig
    from raycap.tune import SweepConfig

    configs = {
        "prepare": PrepareConfig,
        "featurize": FeaturizeConfig,
        "train": TrainConfig,
        "tune": SweepConfig,
    }
    assert {name: set(config.model_fields) for name, config in configs.items()} == {
        name: set(blocks) for name, blocks in cli.STAGE_BLOCKS.items()
    }


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_is_valid(preset: str) -> None:
    from raycap.data.featurize import FeaturizeConfig
    from raycap.data.prepare import PrepareConfig
    from raycap.train import TrainConfig

    document = load_document(preset)
    for config in (PrepareConfig, FeaturizeConfig, TrainConfig):
        config.from_document(document)


def test_unknown_preset_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    message = run("train", "shpes", code=2, capsys=capsys)
    assert message.startswith("raycap: unknown preset 'shpes'; known: ")
    assert "shapes" in message


def test_unknown_command_suggests_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert 'Did you mean "train"' in run("trian", code=2, capsys=capsys)


def test_unknown_flag_suggests_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Did you mean --optim.lr?" in run("train", "shapes", "--optim.lrr", "1", code=2, capsys=capsys)


def test_out_of_range_names_the_setting(capsys: pytest.CaptureFixture[str]) -> None:
    message = run("prepare", "shapes", "--data.limit", "-1", code=2, capsys=capsys)
    assert "data.limit" in message
    assert "greater than or equal to 0" in message


def test_unknown_block_is_refused(tmp_path: Path) -> None:
    """A misspelt block in a user's YAML must not be ignored."""
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**load_document("shapes"), "optm": {"lr": 1}}))
    with pytest.raises(ConfigError, match="unknown block 'optm'"):
        cli.read_document(["train", str(file)])


def test_resume_reads_the_runs_own_settings(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": {"path": "from-the-run"}}))
    expected = {"data": {"path": "from-the-run"}}
    assert cli.read_document(["train", "--resume", str(tmp_path)]) == expected
    assert cli.read_document(["train", f"--resume={tmp_path}"]) == expected  # was not recognised


def test_resume_reads_a_run_on_an_object_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--resume s3://bucket/run` was looked for on the local disk."""
    from raycap import storage

    files = {"s3://bucket/run/config.yaml": b"data: {path: s3://bucket/rows}"}
    monkeypatch.setattr(storage, "read_bytes", files.__getitem__)
    document = cli.read_document(["train", "--resume", "s3://bucket/run"])
    assert document == {"data": {"path": "s3://bucket/rows"}}


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["shapes", "--resume", "R"], "takes no others (got shapes)"),
        (["--resume", "R", "--optim.lr", "1e-4"], "takes no others (got --optim.lr 1e-4)"),
        (["--resume=R", "--optim.lr=1e-4"], "raycap train R/config.yaml --run NEW"),
        (["--resume"], "--resume needs the folder of a run"),
        (["--resume", "/nowhere"], "no run at /nowhere: /nowhere/config.yaml is not there"),
    ],
)
def test_what_resume_cannot_follow_is_refused(
    tokens: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Settings and a preset beside --resume were ignored without a word."""
    assert message in run("train", *tokens, code=2, capsys=capsys)


@pytest.mark.parametrize("tokens", [["train", "--optim.lr", "1e-3", "flickr30k"], ["train"], ["prepare"]])
def test_the_preset_comes_first(tokens: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A preset after a flag gave one "Field required" for every block."""
    message = run(*tokens, code=2, capsys=capsys)
    assert message.startswith(f"raycap: name the preset first: raycap {tokens[0]} PRESET")
    assert "presets: flickr30k" in message
    assert message.count("\n") == 1


def test_a_plugin_that_is_not_there_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A misspelt RAYCAP_PLUGINS gave a traceback."""
    monkeypatch.setenv("RAYCAP_PLUGINS", "no_such_family")
    message = run("train", "shapes", code=2, capsys=capsys)
    assert message.startswith("raycap: RAYCAP_PLUGINS names the module 'no_such_family', which cannot be")
    assert message.count("\n") == 1


def test_another_family_takes_none_of_the_presets_model_settings() -> None:
    """Two families with a setting of one name and two types once broke every `raycap train` command."""
    document = {"model": {"family": "gpt2_cross", "language_model": "gpt2"}}
    assert cli.choose_family(["train", "x"], document) == "gpt2_cross"
    assert document["model"] == {"family": "gpt2_cross", "language_model": "gpt2"}
    assert cli.choose_family(["train", "x", "--model.family", "lstm"], document) == "lstm"
    assert document["model"] == {"family": "lstm"}
    assert cli.choose_family(["evaluate", "x"], document) == ""


def test_unknown_family_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    message = run("train", "shapes", "--model.family", "gptt", code=2, capsys=capsys)
    assert message.startswith("raycap: unknown family 'gptt'; known: gpt2_cross")


def test_data_is_short_for_data_path() -> None:
    assert cli.expand_shorthands(["evaluate", "--data", "--data=x", "--data.limit", "x"]) == [
        "evaluate",
        "--data.path",
        "--data.path=x",
        "--data.limit",
        "x",
    ]


def test_caption_takes_decoding_settings_as_plain_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's `raycap caption ... --beams 5` was an unknown option; what is not given must stay unset."""
    from raycap.commands import caption as command

    seen: list[Any] = []
    monkeypatch.setattr(command.stage, "caption_files", lambda photos, config: seen.append((photos, config)))
    cli.main(["caption", "a.jpg", "b/", "--checkpoint", "R", "--beams", "5", "--length-penalty", "2"])
    cli.main(["caption", "a.jpg", "--checkpoint", "R"])
    cli.main(["caption", "a.jpg", "--checkpoint", "R", "--n", "4", "--top-p", "0.9"])
    assert seen[0][0] == ("a.jpg", "b/")
    assert [config.decoding.model_dump(exclude_unset=True) for _, config in seen] == [
        {"beams": 5, "length_penalty": 2.0},
        {},
        {"n": 4, "top_p": 0.9},  # right or wrong only beside the checkpoint's own
    ]


def test_evaluate_takes_beams_and_leaves_the_rest_to_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    from raycap.commands import evaluate as command

    seen: list[Any] = []
    monkeypatch.setattr(command, "start_ray", lambda: None)
    monkeypatch.setattr(command.stage, "evaluate", lambda config: seen.append(config) or "made")
    cli.main(["evaluate", "R", "--data", "D", "--beams", "5", "--split", "test"])
    cli.main(["evaluate", "R", "--data", "D", "--decoding.beams", "4", "--device", "cpu"])
    given = [config.decoding.model_dump(exclude_unset=True) for config in seen]
    assert given == [{"beams": 5}, {"beams": 4}]
    assert (seen[0].evaluate.split, seen[1].evaluate.device) == ("test", "cpu")


def test_score_takes_its_options_as_plain_flags(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from raycap.commands import score as command

    seen: list[Any] = []
    monkeypatch.setattr(
        command.stage, "score_file", lambda path, options: seen.append((path, options)) or {"metrics": {}}
    )
    cli.main(
        ["score", "r.json", "--references", "a.json", "--compare", "o.json", "--meteor", "java", "--spice"]
    )
    assert capsys.readouterr().out == ""
    cli.main(["score", "r.json", "--json", "--bootstrap", "50", "--per-image", "e.csv", "--no-baselines"])
    assert capsys.readouterr().out == '{\n  "metrics": {}\n}\n'
    (path, one), (_, other) = seen
    assert (path, one.references, one.compare, one.meteor, one.spice) == (
        "r.json",
        "a.json",
        "o.json",
        "java",
        True,
    )
    assert (other.bootstrap, other.per_image, other.baselines, other.meteor) == (50, "e.csv", False, "auto")
    message = run("score", "r.json", "--meteor", "jav", code=2, capsys=capsys)
    assert message.startswith("raycap: meteor: Input should be 'auto', 'python', 'java' or 'off'")
    message = run("score", "r.json", "--bootstrap", "-1", code=2, capsys=capsys)
    assert message.startswith("raycap: bootstrap: Input should be greater than or equal to 0")


def test_evaluate_takes_the_scoring_options_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from raycap.commands import evaluate as command

    seen: list[Any] = []
    monkeypatch.setattr(command, "start_ray", lambda: None)
    monkeypatch.setattr(command.stage, "evaluate", lambda config: seen.append(config.evaluate) or "made")
    flags = ["--document-frequency", "f.json", "--meteor", "off", "--no-clip-score", "--scoring-tasks", "3"]
    cli.main(["evaluate", "R", "--data", "D", *flags])
    found = seen[0]
    assert (found.document_frequency, found.meteor, found.clip_score, found.scoring_tasks) == (
        "f.json",
        "off",
        False,
        3,
    )


@pytest.mark.parametrize("name", ["score", "document_frequency", "evaluate", "tune"])
def test_a_job_is_its_command(name: str) -> None:
    """`python jobs/X.py --help` is `raycap X --help`."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, str(root / f"jobs/{name}.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stderr
    assert f"raycap {name.replace('_', '-')}" in done.stdout


def test_the_package_runs_as_a_module() -> None:
    """`python -m raycap.cli` ran nothing and exited with 0; `python -m raycap` is the command."""
    done = subprocess.run(
        [sys.executable, "-m", "raycap", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == __version__


@pytest.mark.parametrize("command", ["caption", "evaluate"])
def test_help_shows_no_decoding_default(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It showed `beams` [default: 3], and the default is the checkpoint's own."""
    cli.main([command, "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    begin = text.index("Beams of beam search")
    assert "default" not in text[begin : text.index("Scores are divided by length", begin)]


def test_train_gets_every_block_of_its_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    """cyclopts drops keys named like commands, so that the preset's `train` and `featurize` blocks were lost."""
    from raycap.commands import train as command

    seen: list[Any] = []
    monkeypatch.setattr(command, "start_ray", lambda: None)
    monkeypatch.setattr(command.stage, "train", lambda config: seen.append(config) or "made")
    cli.main(["train", "shapes", "--model.head-dim", "8", "--model.lora.rank", "4"])
    document = load_document("shapes")
    document["model"]["head_dim"] = 8
    document["model"]["lora"]["rank"] = 4
    assert seen == [command.stage.TrainConfig.from_document(document)]


def test_tune_lays_a_second_file_over_its_preset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The space's dotted names are no flags, and travel beside the settings that are."""
    from raycap.commands import tune as command

    seen: list[Any] = []
    monkeypatch.setattr(command, "start_ray", lambda: None)
    monkeypatch.setattr(command.stage, "tune", lambda config: seen.append(config) or "made")
    space = {"optim.lr": "loguniform 1e-4 1e-2", "model.lora.rank": "choice 4 8"}
    file = tmp_path / "sweep.yaml"
    file.write_text(
        yaml.safe_dump({"tune": {"run": "R", "space": space, "trials": 3}, "train": {"epochs": 2}})
    )
    cli.main(["tune", "shapes", str(file), "--tune.trials", "4", "--model.head-dim", "8"])
    (config,) = seen
    assert (config.tune.space, config.tune.trials, config.tune.run) == (space, 4, "R")
    assert (config.train.epochs, config.model.head_dim, config.model.lora.rank) == (2, 8, 16)
    assert config.train.batch_size == load_document("shapes")["train"]["batch_size"]


def test_a_preset_may_hold_its_space(tmp_path: Path) -> None:
    """And `train` takes the rest of it."""
    file = tmp_path / "mine.yaml"
    file.write_text(
        yaml.safe_dump({**load_document("shapes"), "tune": {"run": "R", "space": {"optim.lr": "x"}}})
    )
    assert "tune" not in cli.read_document(["train", str(file)])
    assert cli.read_document(["tune", str(file)])["tune"] == {"run": "R"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"space": {"optim.lrr": "uniform 0.1 1"}},
            "there is no setting 'optim.lrr'; did you mean optim.lr?",
        ),
        ({}, "tune.space is empty"),
        ({"space": {"optim.lr": "uniform 0.1 1"}, "algorithm": "pbt"}, "pbt does nothing over Ray Train"),
        ({"space": {"optim.lr": "uniform 0.1 1"}, "trails": 3}, "trails"),
        ({"space": {"encoder.layer": "uniform -3 -1"}}, "encoder.layer cannot be"),
    ],
)
def test_what_a_sweep_cannot_follow_is_said_before_ray_starts(
    settings: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump({"tune": {"run": "R", **settings}}))
    assert message in run("tune", "shapes", str(file), code=2, capsys=capsys)


def test_a_sweep_of_nothing_is_told_what_to_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`raycap tune shapes` printed the whole preset, as what was given in place of a field."""
    assert "raycap tune PRESET sweep.yaml" in run("tune", "shapes", code=2, capsys=capsys)
    assert "tune.space is empty" in run("tune", "shapes", "--tune.run", "R", code=2, capsys=capsys)
    file = tmp_path / "sweep.yaml"
    file.write_text("tune:\n")
    assert "tune.space is empty" in run("tune", "shapes", str(file), "--tune.run", "R", code=2, capsys=capsys)
    file.write_text("tune: {run: R, space: {optim.lr: uniform 0.1 1}}")
    assert "model: Field required\n" in run("tune", str(file), code=2, capsys=capsys)


def test_resuming_a_sweep_takes_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert "raycap tune --resume SWEEP" in run("tune", "--resume", code=2, capsys=capsys)
    said = run("tune", "shapes", "--resume", "S", code=2, capsys=capsys)
    assert "takes no others but --tune.trials and --tune.max-concurrent (got shapes)" in said
    wrong = ("tune", "--resume", "S", "--tune.max_concurrent", "2", "--tune.seed", "3")
    assert "(got --tune.seed 3)" in run(*wrong, code=2, capsys=capsys)
    assert "no sweep at /nowhere" in run("tune", "--resume", "/nowhere", code=2, capsys=capsys)


def test_a_resumed_sweep_takes_more_trials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that was over could not be gone on with, and one begun on a larger cluster never fitted a smaller one."""
    from raycap.commands import tune as command

    seen: list[Any] = []
    monkeypatch.setattr(command, "start_ray", lambda: None)
    monkeypatch.setattr(
        command.stage, "resume", lambda sweep, **changes: seen.append((sweep, changes)) or sweep
    )
    tune = {"run": "R", "space": {"optim.lr": "uniform 0.1 1"}, "trials": 3, "max_concurrent": 2}
    preset = {
        name: block for name, block in load_document("shapes").items() if name not in ("source", "prepare")
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**preset, "tune": tune}))
    cli.main(["tune", "--resume", str(tmp_path), "--tune.trials", "6"])
    cli.main(["tune", f"--resume={tmp_path}", "--tune.max-concurrent=0"])
    assert seen == [
        (str(tmp_path), {"trials": 6, "max_concurrent": 2}),
        (str(tmp_path), {"trials": 3, "max_concurrent": 0}),
    ]


def test_a_run_is_no_sweep_and_a_sweep_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The one asked for --tune.run, the other said "Extra inputs are not permitted" once Ray had started."""
    (tmp_path / "config.yaml").write_text("train: {run: R}")
    said = run("tune", "--resume", str(tmp_path), code=2, capsys=capsys)
    assert f"is a run, not a sweep; continue it with `raycap train --resume {tmp_path}`" in said
    (tmp_path / "config.yaml").write_text("tune: {run: R}")
    said = run("train", "--resume", str(tmp_path), code=2, capsys=capsys)
    assert f"is a sweep, not a run; continue it with `raycap tune --resume {tmp_path}`" in said


@pytest.mark.parametrize("command", ["prepare", "featurize", "train", "tune"])
def test_help_names_no_variable_that_is_not_read(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """RAYCAP_PRESET and RAYCAP_RESUME stood there; which preset it is must be known before the flags are."""
    cli.main([command, "--help"])
    shown = capsys.readouterr().out
    assert "RAYCAP_DATA_PATH" in shown
    assert "RAYCAP_PRESET" not in shown
    assert "RAYCAP_RESUME" not in shown


def test_flags_beat_environment_beats_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    from raycap.commands import prepare as command

    seen = []
    monkeypatch.setattr(command.stage, "prepare", lambda config: seen.append(config) or "made")
    monkeypatch.setenv("RAYCAP_DATA_LIMIT", "7")
    monkeypatch.setenv("RAYCAP_DATA_PATH", "from-environment")
    cli.main(["prepare", "shapes", "--data", "from-flag"])
    assert seen[0].data.path == "from-flag"
    assert seen[0].data.limit == 7


def test_help_answers_without_loading_torch() -> None:
    """`raycap --help` once took as long as importing torch; it must load neither torch nor ray."""
    script = (
        "import sys; from raycap.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'torch', 'ray', 'transformers'} & set(sys.modules)))"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "quickstart" in done.stdout
    assert time.monotonic() - start < 60  # a hang, not a speed claim
