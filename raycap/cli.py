"""The `raycap` command line: one lazily imported command a file in raycap/commands/.

A command that takes a preset merges, in falling order of precedence: flags, `RAYCAP_...` environment variables,
the preset or YAML file, the defaults in the config classes. No flag is written by hand: cyclopts reads them from
the pydantic models.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from cyclopts import App, CycloptsError
from cyclopts.config import Dict, Env
from pydantic import ValidationError

from raycap import __version__
from raycap.config import ConfigError, describe_validation_error, load_document, preset_names

COMMANDS = {
    "quickstart": "Everything once, offline, on this machine: drawings in, an HTTP caption out.",
    "prepare": "Raw photos and captions to canonical rows (Parquet).",
    "featurize": "Rows to image features, once per image, on a pool of encoders.",
    "train": "Fine-tune a captioner on N workers.",
    "evaluate": "Score a checkpoint on a split: BLEU, ROUGE-L, CIDEr-D.",
    "caption": "Caption photos or a folder of them.",
    "presets": "List the presets, or print one.",
}
# The blocks of a preset document that each stage reads; a test holds this against the config classes.
STAGE_BLOCKS = {
    "prepare": ("source", "data", "prepare"),
    "featurize": ("data", "encoder", "featurize"),
    "train": ("data", "encoder", "featurize", "model", "optim", "train", "tracking", "decoding"),
}
SHORTHANDS = {"--data": "--data.path", "--run": "--train.run"}


DEFAULT_FAMILY = "gpt2_cross"  # whose flags `raycap train --help` shows where no preset is named


def build_app(*, family: str = "") -> App:
    """The command line; given a family, `train` has that family's settings as flags."""
    app = App(
        name="raycap",
        version=__version__,
        help="Image captioning on Ray: prepare, featurize, train, evaluate, caption, serve.",
        help_epilogue="Presets: " + ", ".join(preset_names()) + ". Every setting of a command is a flag (see "
        "`raycap COMMAND --help`) and an environment variable.",
        result_action="return_value",
    )
    for name, text in COMMANDS.items():
        if name != "train":
            app.command(f"raycap.commands.{name}:{name}", name=name, help=text)
    if family:
        from raycap.commands.train import train_command  # loads torch

        app.command(train_command(family), name="train")
    else:
        app.command("raycap.commands.train:train_command", name="train", help=COMMANDS["train"])
    return app


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; exits 0, 1 (it failed, one sentence on stderr) or 2 (the command line is wrong)."""
    tokens = [expand_shorthand(token) for token in (sys.argv[1:] if argv is None else argv)]
    try:
        document = read_document(tokens)
        app = build_app(family=choose_family(tokens, document))
        # below the command's name: at the root cyclopts drops keys that are commands too, such as `train`
        app.config = [Env("RAYCAP_", command=False), Dict(dict.fromkeys(tokens[:1], document))]
        code = app(tokens, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        fail(2, describe_usage_error(error))
    except ConfigError as error:
        fail(2, str(error))
    except ValidationError as error:
        fail(2, describe_validation_error(error))
    except (ValueError, OSError) as error:
        if os.environ.get("RAYCAP_DEBUG"):
            raise
        fail(1, str(error))
    except KeyboardInterrupt:
        fail(130, "interrupted")
    if isinstance(code, int) and code:  # a command that went on past what it could not do
        raise SystemExit(code)


def expand_shorthand(token: str) -> str:
    """`--data X` for `--data.path X`, and the like."""
    flag, equals, value = token.partition("=")
    return SHORTHANDS.get(flag, flag) + equals + value


def read_document(tokens: Sequence[str]) -> dict[str, Any]:
    """The stage's blocks of the preset, YAML file or run (`--resume RUN`) that the command line names.

    Raises:
        ConfigError: no such preset, or a block that no stage knows.
    """
    if not tokens or tokens[0] not in STAGE_BLOCKS:
        return {}
    source = tokens[1] if len(tokens) > 1 and not tokens[1].startswith("-") else ""
    for flag, value in itertools.pairwise(tokens):
        source = f"{value}/config.yaml" if flag == "--resume" else source
    document = load_document(source) if source else {}
    known = {block for blocks in STAGE_BLOCKS.values() for block in blocks}
    if unknown := sorted(set(document) - known):
        raise ConfigError(f"{source}: unknown block {unknown[0]!r}; known: {', '.join(sorted(known))}")
    return {block: document[block] for block in STAGE_BLOCKS[tokens[0]] if block in document}


def choose_family(tokens: Sequence[str], document: dict[str, Any]) -> str:
    """The family whose flags `train` has: by flag, environment or preset; "" for other commands.

    Another family than the preset's takes none of the preset's model settings: they are removed from `document`.
    """
    if not tokens or tokens[0] != "train":
        return ""
    preset = document.get("model")
    preset_family = preset.get("family", "") if isinstance(preset, dict) else ""
    flags = [value for flag, value in itertools.pairwise(tokens) if flag == "--model.family"]
    flags += [token.partition("=")[2] for token in tokens if token.startswith("--model.family=")]
    chosen: str = (
        (flags or [os.environ.get("RAYCAP_MODEL_FAMILY", "")])[-1] or preset_family or DEFAULT_FAMILY
    )
    if preset_family and chosen != preset_family:
        document["model"] = {"family": chosen}
    return chosen


def describe_usage_error(error: CycloptsError) -> str:
    """One sentence a setting, without a type checker's vocabulary."""
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        return describe_validation_error(cause)
    return str(error)


def fail(code: int, message: str) -> NoReturn:
    """Say what went wrong on stderr and exit."""
    print(f"raycap: {message}", file=sys.stderr)  # noqa: T201
    raise SystemExit(code)
