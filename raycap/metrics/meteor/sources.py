"""Where METEOR's English word lists are: in an installed pycocoevalcap, or in a METEOR 1.5 folder that is named.

The jar is a zip that holds all lists but the paraphrases, which lie beside it. Knows nothing of their format.
"""

from __future__ import annotations

import hashlib
import importlib.util
import zipfile
from dataclasses import dataclass
from pathlib import Path

_PARAPHRASES = Path("data", "paraphrase-en.gz")
_LISTS = {
    "function words": "function/english.words",
    "prefixes": "nonbreaking/english.prefixes",
    "exceptions": "synonym/english.exceptions",
    "synsets": "synonym/english.synsets",
}
_REMEDY = "pip install 'raycap[coco]', or name a METEOR 1.5 folder (the jar and data/paraphrase-en.gz)"


class MeteorUnavailableError(ValueError):
    """METEOR cannot be computed here; the message says what is absent and what to do."""


@dataclass(frozen=True)
class Sources:
    """The two files that METEOR's word lists come from."""

    jar: Path
    paraphrases: Path

    def digest(self) -> str:
        """One sha256 over both files."""
        both = hashlib.sha256()
        for path in (self.jar, self.paraphrases):
            with path.open("rb") as stream:
                both.update(hashlib.file_digest(stream, "sha256").digest())
        return both.hexdigest()

    def lists(self) -> dict[str, bytes]:
        """Contents of the jar's word lists by name.

        Raises:
            MeteorUnavailableError: not a zip, or a list is not in it.
        """
        try:
            with zipfile.ZipFile(self.jar) as jar:
                return {name: jar.read(member) for name, member in _LISTS.items()}
        except (zipfile.BadZipFile, KeyError) as error:
            raise MeteorUnavailableError(
                f"METEOR's word lists are not in {self.jar} ({error}); {_REMEDY}"
            ) from None


def find(source: str = "", *, wanted: str = "word lists") -> Sources:
    """Files of METEOR 1.5 in a folder (or beside a jar) that is named, else in the installed pycocoevalcap.

    Args:
        source: folder or jar; "" takes pycocoevalcap's.
        wanted: what of them, for the message.

    Raises:
        MeteorUnavailableError: absent.
    """
    jar = _jar_in(Path(source).expanduser()) if source else _installed_jar(wanted)
    sources = Sources(jar, jar.parent / _PARAPHRASES)
    for path in (sources.jar, sources.paraphrases):
        if not path.is_file():
            raise MeteorUnavailableError(f"METEOR needs {path}, and there is no such file; {_REMEDY}")
    return sources


def _jar_in(path: Path) -> Path:
    if path.suffix == ".jar":
        return path
    jars = sorted(path.glob("meteor-*.jar"))
    return jars[-1] if jars else path / "meteor-1.5.jar"


def _installed_jar(wanted: str) -> Path:
    """pycocoevalcap's jar, found without importing it: that would import its scorers."""
    package = importlib.util.find_spec("pycocoevalcap")
    if package is None or not package.submodule_search_locations:
        raise MeteorUnavailableError(
            f"METEOR needs pycocoevalcap's {wanted}, and it is not installed; {_REMEDY}"
        )
    return Path(next(iter(package.submodule_search_locations))) / "meteor" / "meteor-1.5.jar"
