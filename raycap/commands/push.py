"""`raycap push`."""

from typing import Annotated

from cyclopts import Parameter

from raycap import push as stage

DEFAULT = stage.PushConfig()


def push(
    source: str,
    repository: str,
    /,
    *,
    config: Annotated[stage.PushConfig, Parameter(name="*")] = DEFAULT,
) -> None:
    """Upload an export to the Hugging Face Hub: verified first, refused where it does not verify.

    The token is read from HF_TOKEN (or from what `hf auth login` keeps), never from the command line. All files arrive
    in one commit, which replaces an earlier export there and its README.md; other files of a repository stay, and one
    that stands in the way is named. After an interruption the same command goes on: files that have arrived are not
    sent again. Prints the commit's address; `raycap caption --checkpoint hf://OWNER/NAME` takes an adapter from there.

    Parameters
    ----------
    source
        A folder that `raycap export` made, or a run or checkpoint, which is exported first (--form).
    repository
        OWNER/NAME on the hub; made where it is not there.
    """
    print(stage.push(source, repository, config))
