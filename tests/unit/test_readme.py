"""The README's commands: every one is a command line that raycap takes, and every preset and file in it exists."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from raycap import cli
from raycap.commands import tune
from raycap.config import preset_names
from raycap.tune.settings import plan

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = re.sub(r"\\\n\s*", " ", "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL)))


def raycap_commands() -> list[list[str]]:
    """Tokens after `raycap`, or after `python jobs/` as the command of the same name."""
    found = []
    for line in SHELL.splitlines():
        line = re.sub(r"^.*? -- python jobs/(\w+)\.py", r"raycap \1", line)
        line = line.partition(" > ")[0]  # the shell's own
        if line.startswith("raycap "):
            found.append(shlex.split(line, comments=True)[1:])
    return found


def flags_of(command: str) -> set[str]:
    """Every flag of a command, by a preset where it takes one."""
    tokens = [command, *(["shapes"] if command in cli.TAKES_PRESET else [])]
    app: Any = cli.configured_app(tokens)[command]
    apps = [app] if app.default_command else [app[name] for name in app if not name.startswith("-")]
    return {
        name for each in apps for argument in each.assemble_argument_collection() for name in argument.names
    }


def test_commands_are_found() -> None:
    assert {tokens[0] for tokens in raycap_commands()} >= set(cli.COMMANDS) - {"quickstart"}


@pytest.mark.parametrize("tokens", raycap_commands(), ids=" ".join)
def test_every_command_parses(tokens: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`raycap caption ... --beams 5` stood here while the command had no such flag."""
    monkeypatch.chdir(tmp_path)
    (sweep,) = re.findall(r"```yaml\n(# sweep.yaml.*?)```", README, flags=re.DOTALL)
    Path("sweep.yaml").write_text(sweep)
    tokens = cli.expand_shorthands(tokens)
    _, bound, unused, *_ = cli.configured_app(tokens).parse_known_args(tokens)
    assert not unused
    if tokens[0] in cli.STAGE_BLOCKS:
        assert tokens[1] in preset_names()
    assert bound.args or bound.kwargs or tokens in (["presets"], ["serve"])


@pytest.mark.parametrize("preset", preset_names())
def test_the_sweep_is_one_that_every_preset_takes(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It varied the length penalty where `flickr30k` validates greedily, and was refused."""
    (sweep,) = re.findall(r"```yaml\n(# sweep.yaml.*?)```", README, flags=re.DOTALL)
    (tmp_path / "sweep.yaml").write_text(sweep)
    seen: list[Any] = []
    monkeypatch.setattr(tune, "start_ray", lambda: None)
    monkeypatch.setattr(tune.stage, "tune", lambda config: seen.append(config) or "made")
    cli.main(["tune", preset, str(tmp_path / "sweep.yaml")])
    dimensions, _ = plan(seen[0])
    assert [dimension.name for dimension in dimensions] == list(seen[0].tune.space)


def test_every_flag_in_the_prose_exists() -> None:
    """`--evaluate.device` stood here; the flag is `--device`."""
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    named = {flag for code in re.findall(r"`([^`]*)`", prose) for flag in re.findall(r"--[a-z][\w.-]*", code)}
    known = (
        {flag for command in cli.COMMANDS for flag in flags_of(command)} | set(cli.SHORTHANDS) | cli.NO_RUN
    )
    assert len(named) > 5
    assert named - known == set()


def test_every_file_it_names_exists() -> None:
    named = set(
        re.findall(r"\b(?:jobs|tests|raycap)/[\w/]+\.py\b|\b(?:serve_config|cluster)\.yaml\b", README)
    )
    assert len(named) > 4
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []
