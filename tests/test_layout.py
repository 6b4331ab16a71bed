"""The shape of the source: small seams, small files, and imports in one direction."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("tiers", "prefetch", "simulators", "offload")
MOST_ABSTRACT_METHODS = 7
MOST_LINES = 400


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def is_abstract(node: ast.stmt) -> bool:
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return False
    return any(ast.unparse(decorator).rpartition(".")[2] == "abstractmethod" for decorator in node.decorator_list)


def seams() -> Iterator[tuple[str, int]]:
    """Every class that has abstract methods of its own, with their number."""
    for path in sources(*PACKAGES):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and (number := sum(map(is_abstract, node.body))):
                yield f"{path.relative_to(ROOT)}:{node.name}", number


def test_seams_stay_small() -> None:
    """A new need gets a small Protocol or a wrapper: one more method here is one more in every implementation."""
    found = dict(seams())
    assert found
    assert {name: number for name, number in found.items() if number > MOST_ABSTRACT_METHODS} == {}


def test_files_stay_small() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources(*PACKAGES, "tests")}
    assert {str(path.relative_to(ROOT)): length for path, length in lengths.items() if length > MOST_LINES} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_of_a_package_is_one(package: str) -> None:
    """A folder without ``__init__.py`` works in the source tree and is missing from the wheel."""
    folders = {path.parent for path in sources(package)}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []
    assert (ROOT / package / "py.typed").exists()


def test_imports_go_one_way() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
