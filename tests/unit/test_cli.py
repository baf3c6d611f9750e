"""The command line: presets, precedence, shorthands and the sentences for wrong input."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from raycap import cli
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

    configs = {"prepare": PrepareConfig, "featurize": FeaturizeConfig, "train": TrainConfig}
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
    assert cli.read_document(["train", "--resume", str(tmp_path)]) == {"data": {"path": "from-the-run"}}


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
    assert [cli.expand_shorthand(token) for token in ("--data", "--data=x", "--data.limit", "x")] == [
        "--data.path",
        "--data.path=x",
        "--data.limit",
        "x",
    ]


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
