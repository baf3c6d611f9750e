"""The arrows between modules: each imports only lower levels, and Ray appears only from level 5 up."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEVELS = {
    "config": 0,
    "schema": 0,
    "storage": 0,
    "choosing": 1,
    "pages": 0,
    "datasets": 1,
    "vision": 1,
    "text": 1,
    "decoding": 1,
    "metrics": 1,
    "client": 2,
    "models": 2,
    "checkpoint": 3,
    "engine": 4,
    "data": 5,
    "caption": 5,
    "debug": 5,
    "explore": 6,
    "export": 5,
    "push": 6,
    "score": 6,
    "train": 6,
    "serve": 6,
    "evaluate": 7,
    "tune": 8,
    "quickstart": 8,
    "runs": 8,
    "benchmarks": 8,
    "commands": 9,
    "cli": 10,
    "__main__": 11,
}
RAY_FROM = 5
MODULES = sorted(path for path in (ROOT / "raycap").rglob("*.py") if path != ROOT / "raycap/__init__.py")


def unit_of(path: Path) -> str:
    """The top-level module or package below raycap/ that a file belongs to."""
    return path.relative_to(ROOT / "raycap").parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Dotted names of everything a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_lower_levels(path: Path) -> None:
    own = unit_of(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "ray":
            assert LEVELS[own] >= RAY_FROM, f"{own} (level {LEVELS[own]}) imports {name}"
        if parts[0] == "raycap" and len(parts) > 1 and parts[1] in LEVELS and parts[1] != own:
            assert LEVELS[parts[1]] < LEVELS[own], f"{own} (level {LEVELS[own]}) imports {name}"


def test_every_module_has_a_level() -> None:
    assert {unit_of(path) for path in MODULES} <= set(LEVELS)


def test_families_never_import_each_other() -> None:
    shared = {"base", "kernels", "layers", "__init__"}
    for path in (ROOT / "raycap/models").rglob("*.py"):
        family = path.relative_to(ROOT / "raycap/models").parts[0].removesuffix(".py")
        if family in shared:
            continue
        for name in imports(path):
            if name.startswith("raycap.models."):
                assert name.split(".")[2] in {*shared, family}, f"{family} imports {name}"


def test_no_junk_drawer_module() -> None:
    assert not {path.stem for path in MODULES} & {"utils", "helpers", "misc", "common"}


def test_modules_stay_readable() -> None:
    too_long = {
        str(path.relative_to(ROOT)): n for path in MODULES if (n := len(path.read_text().splitlines())) > 420
    }
    assert not too_long
