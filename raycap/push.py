"""`raycap push`: an export to the Hugging Face Hub, verified before a byte of it leaves.

The token comes from the environment (HF_TOKEN, or what `hf auth login` keeps) and is never printed. All files arrive in
one commit, so that the repository is never half new; what an interrupted upload has already sent is not sent again.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from raycap import checkpoint, storage
from raycap.config import ConfigError, Frozen
from raycap.export import CARD, RECORD, ExportConfig, Form, export, read_record, verify_export

NAME = re.compile(r"[\w.-]+/[\w.-]+")
STALE = (".safetensors", ".json")  # endings of what exports are made of; other files of a repository stay
HOW = "make a token with write permission at huggingface.co/settings/tokens and set HF_TOKEN to it"


class PushError(ValueError):
    """The hub did not take it; the message says why, and what to do."""


class PushConfig(Frozen):
    """How an export goes to the hub."""

    private: Annotated[bool, Parameter(negative="--public")] = True
    """Whether a new repository is private; one that exists must be what is asked for."""
    form: Form = "transformers"
    """Of a run or a checkpoint, which is exported first: transformers or adapter. An exported folder has its own."""
    encoder: str = ""
    """Of a run or a checkpoint: where the image encoder lies now, if it has moved since training."""
    language_model: str = ""
    """Of a run or a checkpoint: where the language model lies now, if it has moved since training."""


def push(source: str, repository: str, config: PushConfig) -> str:
    """Upload an export, or an export made of a run or checkpoint; returns the commit's address.

    Raises:
        CheckpointError: the folder is damaged, or does not say what it said when it was exported.
        ConfigError: a bad name, or no token.
        PushError: the hub cannot be reached, or refuses.
    """
    if not NAME.fullmatch(repository):
        raise ConfigError(f"{repository!r} is no repository of the hub; give owner/name")
    token = _find_token()
    with _exported(source, repository, config) as folder:
        verify_export(folder)
        name_card(folder, repository)
        return _upload(folder, repository, private=config.private, token=token)


def _find_token() -> str:
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise PushError("HF_HUB_OFFLINE is set, so the hub is not asked; unset it to push")
    token = get_token()
    if not token:
        raise ConfigError(f"no token for the Hugging Face Hub; {HOW}")
    return token


@contextmanager
def _exported(source: str, repository: str, config: PushConfig) -> Iterator[Path]:
    """The export in `source`, or one made of the checkpoint there for as long as it is needed."""
    if storage.is_local(source) and (Path(storage.absolute(source)) / RECORD).is_file():
        yield Path(storage.absolute(source))
        return
    checkpoint.resolve(source)  # says what `source` may be before a folder is made
    with tempfile.TemporaryDirectory(prefix="raycap-") as temporary:
        wanted = config.model_dump(include={"form", "encoder", "language_model"})
        output = str(Path(temporary, repository.partition("/")[2]))
        yield Path(export(source, ExportConfig(output=output, **wanted), name=repository))


def name_card(folder: Path, repository: str) -> None:
    """Let a model card's commands name the repository where they still name the folder."""
    card = folder / CARD
    if not card.is_file():
        return
    text = card.read_text(encoding="utf-8")
    for before in ('folder = "', "hf://"):
        text = re.sub(rf"{re.escape(before + folder.name)}(?![\w./-])", before + repository, text)
    card.write_text(text, encoding="utf-8")


def _upload(folder: Path, repository: str, *, private: bool, token: str) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]

    api = HfApi(token=token)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        _check_visibility(bool(api.repo_info(repository).private), repository, private=private)
        names = [*read_record(folder).files, RECORD, *([CARD] if (folder / CARD).is_file() else [])]
        old = api.list_repo_files(repository)
        stale = [name for name in old if name.endswith(STALE) and name not in names]
        operations: list[Any] = [CommitOperationDelete(path_in_repo=name) for name in stale]
        operations += [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in names]
        commit = api.create_commit(repository, operations, commit_message="Upload a raycap export")
    except HfHubHTTPError as error:
        raise PushError(_refusal(error.response.status_code, repository, str(error), token)) from None
    except (HTTPError, ConnectionError) as error:
        raise PushError(
            f"cannot reach {api.endpoint} ({_clean(error, token)}); push again once it can be reached: what has "
            "arrived is not sent again"
        ) from None
    except (RuntimeError, OSError) as error:
        cause = error.__cause__ or error
        raise PushError(
            f"the upload to {repository} broke off ({_clean(cause, token)}); push again: what has arrived is not sent "
            "again"
        ) from None
    return str(commit.commit_url)


def _check_visibility(is_private: bool, repository: str, *, private: bool) -> None:
    if is_private != private:
        found, asked = ("private", "--public") if is_private else ("public", "--private")
        raise PushError(
            f"{repository} is {found} on the hub and {asked} was asked for, so nothing was sent; "
            f"take --{found}, or change it in the repository's settings"
        )


def _refusal(status: int, repository: str, message: str, token: str) -> str:
    if status == 401:
        return f"the hub does not know this token; {HOW}"
    if status in (403, 404):
        return f"this token may not write to {repository}; check the name, or {HOW}"
    return f"the hub refused {repository} (HTTP {status}: {_clean(message, token)}); push again later"


def _clean(error: object, token: str) -> str:
    """An error's first line, without the token whatever put it there."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].replace(token, "***")
