"""The `raycap` command line: one lazily imported command a file in raycap/commands/.

A command that takes a preset merges, in falling order of precedence: flags, `RAYCAP_...` environment variables,
the preset or YAML file, the defaults in the config classes. No flag is written by hand: cyclopts reads them from
the pydantic models.
"""

from __future__ import annotations

import importlib
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import yaml
from cyclopts import App, CycloptsError
from cyclopts.config import Dict, Env
from pydantic import ValidationError

from raycap import __version__
from raycap.config import ConfigError, describe_validation_error, load_documents, preset_names

COMMANDS = {
    "quickstart": "Everything once, offline, on this machine: drawings in, an HTTP caption out.",
    "prepare": "Raw photos and captions to canonical rows (Parquet).",
    "explore": "The prepared rows before training, as one HTML report: captions, photos, duplicates, oddities.",
    "featurize": "Rows to image features, once per image, on a pool of encoders.",
    "train": "Fine-tune a captioner on N workers.",
    "tune": "Sweep over settings: many trials of train, the best one's checkpoint, and a report of what mattered.",
    "evaluate": "Caption a split with a checkpoint and score it; decodes as the checkpoint says, or flags.",
    "score": "Score anybody's captions against references, compare two; needs neither Ray nor network.",
    "document-frequency": "Count a set of captions for CIDEr-D: a training set's, for rewards and small sets.",
    "caption": "Caption photos or a folder of them; decodes as the checkpoint says, or flags.",
    "debug": "What a checkpoint sees in one photo, and why it says what it says: one HTML report.",
    "export": "A checkpoint as a plain transformers model, or as a small folder of what was trained.",
    "push": "Upload an export to the Hugging Face Hub, verified first; the token comes from HF_TOKEN.",
    "serve": "Serve a checkpoint over HTTP, as serve_config.yaml says; SIGTERM drains.",
    "models": "List, show, compare, choose and prune trained models, on disks and remote storage.",
    "presets": "List the presets, or print one.",
}
# The blocks of a preset document that each stage reads; a test holds this against the config classes.
STAGE_BLOCKS = {
    "prepare": ("source", "data", "prepare"),
    "featurize": ("data", "encoder", "featurize"),
    "train": ("data", "encoder", "featurize", "model", "optim", "train", "tracking", "decoding"),
    "tune": ("data", "encoder", "featurize", "model", "optim", "train", "tracking", "decoding", "tune"),
}
TAKES_PRESET = (*STAGE_BLOCKS, "explore")  # which needs none where the rows are named
SHORTHANDS = {
    "--data": "--data.path",
    "--run": "--train.run",
    "--beams": "--decoding.beams",
    "--limit": "--data.limit",
}
OWN_SHORT_FLAGS = ("caption", "debug")
WITH_FAMILY = (
    "train",
    "tune",
)  # commands that have a model family's settings as flags, and go on with --resume
RESUMED = {"train": "run", "tune": "sweep"}  # what --resume takes
CHANGEABLE = {
    "train": (),
    "tune": ("--tune.trials", "--tune.max-concurrent"),
}  # flags that may stand beside it
NOTHING_VARIES = (
    "no file says what to vary; write `tune: {run: FOLDER, space: {optim.lr: loguniform 1e-4 1e-2}}` to a YAML file "
    "and name it after the preset: raycap tune PRESET sweep.yaml (see raycap tune --help)"
)
DEFAULT_FAMILY = "gpt2_cross"  # whose flags `raycap train --help` shows where no preset is named
NO_RUN = {"--help", "-h", "--version"}  # flags that print something and end


def build_app(*, family: str = "", chosen: str = "train") -> App:
    """The command line; given a family, `train` and `tune` have that family's settings as flags."""
    app = App(
        name="raycap",
        version=__version__,
        help="Image captioning on Ray: prepare, featurize, train, evaluate, caption, serve.",
        help_epilogue="Presets: " + ", ".join(preset_names()) + ". Every setting of a command is a flag (see "
        "`raycap COMMAND --help`) and an environment variable.",
        result_action="return_value",
    )
    for name, text in COMMANDS.items():
        if name not in WITH_FAMILY:
            module = name.replace("-", "_")
            app.command(f"raycap.commands.{module}:{module}", name=name, help=text)
    for name in WITH_FAMILY:
        path = f"raycap.commands.{name}:{name}_command"
        if not family:
            app.command(path, name=name, help=COMMANDS[name])
        elif name == chosen:
            app.command(import_from(path)(family), name=name)  # loads torch
    return app


def import_from(path: str) -> Callable[[str], Callable[..., None]]:
    """The function that `module:name` names."""
    module, _, name = path.partition(":")
    found: Callable[[str], Callable[..., None]] = getattr(importlib.import_module(module), name)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; exits 0, 1 (it failed, one sentence on stderr) or 2 (the command line is wrong)."""
    tokens = expand_shorthands(sys.argv[1:] if argv is None else argv)
    try:
        code = configured_app(tokens)(tokens, exit_on_error=False, print_error=False)
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


def configured_app(tokens: Sequence[str]) -> App:
    """The command line with the environment, and the preset that `tokens` name, behind its flags.

    Raises:
        ConfigError: as `read_document`, or an unknown family.
    """
    document = read_document(tokens)
    app = build_app(family=choose_family(tokens, document), chosen="".join(tokens[:1]))
    # below the command's name: at the root cyclopts drops keys that are commands too, such as `train`
    app.config = [Env("RAYCAP_", command=False), Dict(dict.fromkeys(tokens[:1], document))]
    return app


def expand_shorthands(tokens: Sequence[str]) -> list[str]:
    """`--data X` for `--data.path X`, and the like; commands without blocks have short flags of their own."""
    if tokens and tokens[0] in OWN_SHORT_FLAGS:
        return list(tokens)
    parts = [token.partition("=") for token in tokens]
    return [SHORTHANDS.get(flag, flag) + equals + value for flag, equals, value in parts]


def read_document(tokens: Sequence[str]) -> dict[str, Any]:
    """The stage's blocks of the preset, YAML file or run (`--resume RUN`) that the command line names.

    Raises:
        ConfigError: no preset, an unknown one, other settings beside `--resume`, or a block that no stage knows.
    """
    if not tokens or tokens[0] not in TAKES_PRESET:
        return {}
    command, *rest = tokens
    source = find_resumed(rest, command=command) if command in WITH_FAMILY else ""
    if source:
        document = read_run(source, command=command)
    elif rest and not rest[0].startswith("-"):
        source = rest[0]
        more = rest[1:2] if command == "tune" and not "".join(rest[1:2]).startswith("-") else []
        document = load_documents(source, *more)
        source = " and ".join([source, *more])
    elif NO_RUN & set(rest) or names_data(tokens):
        return {}
    else:
        rows = "; or rows: raycap explore --data FOLDER" if command == "explore" else ""
        raise ConfigError(
            f"name the preset first: raycap {command} PRESET [--SETTING VALUE ...]{rows}; "
            f"presets: {', '.join(preset_names())} (or a path to a .yaml file)"
        )
    if command == "explore":
        return explored_blocks(document)
    known = {block for blocks in STAGE_BLOCKS.values() for block in blocks}
    if unknown := sorted(set(document) - known):
        raise ConfigError(f"{source}: unknown block {unknown[0]!r}; known: {', '.join(sorted(known))}")
    if isinstance(
        document.get("tune"), dict
    ):  # the space is no flag: the command reads it from the files itself
        document["tune"] = {name: value for name, value in document["tune"].items() if name != "space"}
    return {block: document[block] for block in STAGE_BLOCKS[tokens[0]] if block in document}


def names_data(tokens: Sequence[str]) -> bool:
    """Whether it is `explore`, which needs a preset only where nothing else tells where the rows lie."""
    flags = {token.partition("=")[0] for token in tokens}
    return tokens[0] == "explore" and ("--data.path" in flags or "RAYCAP_DATA_PATH" in os.environ)


def explored_blocks(document: dict[str, Any]) -> dict[str, Any]:
    """What `explore` takes from a preset: the rows, and how training would read their captions."""
    blocks = (document.get("model"), document.get("train"))
    model, train = (block if isinstance(block, dict) else {} for block in blocks)
    tokenizer = model.get("tokenizer") or model.get("language_model")
    found = {"data": document.get("data"), "tokenizer": tokenizer, "max_tokens": train.get("max_tokens")}
    return {name: value for name, value in found.items() if value}


def find_resumed(rest: Sequence[str], *, command: str = "train") -> str:
    """The run of `--resume RUN` or `--resume=RUN`; "" where none is resumed.

    Raises:
        ConfigError: no run named, or a preset or settings beside it, which would have no effect.
    """
    kind = RESUMED[command]
    for place, token in enumerate(rest):
        flag, equals, value = token.partition("=")
        if flag != "--resume":
            continue
        run = value if equals else "".join(rest[place + 1 : place + 2])
        others = [*rest[:place], *rest[place + (1 if equals else 2) :]]
        if not run or run.startswith("-"):
            raise ConfigError(
                f"--resume needs the folder of a {kind}: raycap {command} --resume {kind.upper()}"
            )
        allowed = CHANGEABLE[command]
        if ignored := [other for other in without_flags(others, allowed) if other not in NO_RUN]:
            but = f" but {' and '.join(allowed)}" if allowed else ""
            raise ConfigError(
                f"--resume goes on with the {kind}'s own settings and takes no others{but} (got {' '.join(ignored)}); "
                f"leave them out, or {command} anew: raycap {command} {run.rstrip('/')}/config.yaml "
                f"{'--run' if command == 'train' else '--tune.run'} NEW ..."
            )
        return run
    return ""


def without_flags(tokens: Sequence[str], flags: Sequence[str]) -> list[str]:
    """The tokens but for these flags and their values."""
    kept = []
    left = iter(tokens)
    for token in left:
        flag, equals, _ = token.partition("=")
        if flag.replace("_", "-") not in flags:
            kept.append(token)
        elif not equals:
            next(left, "")
    return kept


def read_run(run: str, *, command: str = "train") -> dict[str, Any]:
    """The settings that a run or a sweep (a folder or URI) was made with.

    Raises:
        ConfigError: no run there, or its config.yaml is damaged.
    """
    from raycap import storage  # loads PyArrow

    path = storage.join(run, "config.yaml")
    try:
        document = yaml.safe_load(storage.read_bytes(path))
    except FileNotFoundError:
        raise ConfigError(
            f"no {RESUMED[command]} at {run}: {path} is not there; give the folder that `raycap {command}` made"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path} must hold a mapping of blocks, and holds {type(document).__name__}")
    found = "tune" if "tune" in document else "train"
    if found != command:
        raise ConfigError(
            f"{run} is a {RESUMED[found]}, not a {RESUMED[command]}; continue it with `raycap {found} --resume {run}`"
        )
    return document


def choose_family(tokens: Sequence[str], document: dict[str, Any]) -> str:
    """The family whose flags `train` and `tune` have: by flag, environment or preset; "" for other commands.

    Another family than the preset's takes none of the preset's model settings: they are removed from `document`.
    """
    if not tokens or tokens[0] not in WITH_FAMILY:
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
    if not isinstance(cause, ValidationError):
        return str(error)
    if any(item["loc"] == ("tune",) and item["type"] == "missing" for item in cause.errors()):
        return NOTHING_VARIES
    return describe_validation_error(cause)


def fail(code: int, message: str) -> NoReturn:
    """Say what went wrong on stderr and exit."""
    print(f"raycap: {message}", file=sys.stderr)  # noqa: T201
    raise SystemExit(code)
