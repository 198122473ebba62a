"""Imports go one way: testbed -> agents -> runtime; and what is heavy comes in by few doors."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("runtime", "agents", "testbed")
FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
RAY_IN = {"runtime/actor.py", "testbed/control.py", "agents/drive.py"}
# numpy and huggingface_hub are what transformers itself stands on: they cost a board nothing more.
RUNTIME_NEEDS = {"runtime", "torch", "transformers", "safetensors", "ray", "numpy", "huggingface_hub"}
FORBIDDEN = {"runtime": {"agents", "testbed"}, "agents": {"testbed"}, "testbed": set()}


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of every import of a file, inside functions too; a relative one as its absolute name."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            yield ".".join((*above, *filter(None, [node.module]))), node.lineno


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_rooms_have_files() -> None:
    assert all(any(name(path).startswith(f"{room}/") for path in FILES) for room in ROOMS)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_go_one_way(path: Path) -> None:
    forbidden = FORBIDDEN[path.relative_to(ROOT).parts[0]]
    wrong = [
        f"{name(path)}:{line} imports {module}" for module, line in imports(path) if module.split(".")[0] in forbidden
    ]
    assert not wrong


def test_training_is_never_imported_by_a_device() -> None:
    """Of a device's own code; what prepares and measures models lies in the control room."""
    outside = [path for path in FILES if not name(path).startswith(("runtime/training/", "testbed/"))]
    wrong = [
        f"{name(path)}:{line} imports {module}"
        for path in outside
        for module, line in imports(path)
        if f"{module}.".startswith("runtime.training.")
    ]
    assert not wrong


@pytest.mark.parametrize("path", FILES, ids=name)
def test_ray_is_imported_in_three_files_only(path: Path) -> None:
    found = [line for module, line in imports(path) if module.split(".")[0] == "ray"]
    assert not found or name(path) in RAY_IN


@pytest.mark.parametrize("path", sorted((ROOT / "runtime").rglob("*.py")), ids=name)
def test_runtime_needs_torch_transformers_and_the_standard_library_only(path: Path) -> None:
    allowed = RUNTIME_NEEDS | sys.stdlib_module_names
    wrong = [
        f"{name(path)}:{line} imports {module}" for module, line in imports(path) if module.split(".")[0] not in allowed
    ]
    assert not wrong


def test_nothing_imports_a_doorway() -> None:
    wrong = [f"{name(path)}:{line}" for path in FILES for module, line in imports(path) if module == "testbed.run"]
    assert not wrong
