"""Who may import whom. Every import counts: at the top, inside a function, under ``TYPE_CHECKING``."""

from __future__ import annotations

import ast
import copy
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "ganformer_cli"
# The standard library, and one another.
LEAVES = {"cpus", "errors", "file_magic", "files", "lazy", "memory", "outputs", "resources"}
LEAVES |= {"npy_header", "stop_signals", "system_errors", "text"}

# Besides itself and the leaves, what each room may import. A new room needs a line here: think where it belongs.
ARROWS = {
    "cpus": set(),
    "errors": set(),
    "file_magic": set(),
    "files": set(),
    "lazy": set(),
    "memory": set(),
    "npy_header": set(),
    "outputs": set(),
    "resources": set(),
    "stop_signals": set(),
    "system_errors": set(),
    "text": set(),
    "config": set(),
    "operators": {"config"},
    "downloads": set(),
    "data": {"downloads", "config"},
    "models": {"operators", "config"},
    "checkpoints": {"models", "config"},
    "original_snapshots": {"downloads", "checkpoints", "models", "config"},
    "sampling": {"checkpoints", "models", "config"},
    "visualization": {"sampling", "data", "config"},
    "metrics": {"sampling", "data", "downloads", "config"},
    "training": {
        "models", "data", "metrics", "sampling", "visualization", "checkpoints", "original_snapshots", "config",
    },
    "benchmarks": {
        "operators", "downloads", "data", "models", "checkpoints", "original_snapshots", "sampling", "visualization",
        "metrics", "training", "config",
    },
    "web": {"models", "sampling", "visualization", "metrics", "checkpoints", "training", "config"},
    "export": {"operators", "models", "checkpoints", "original_snapshots", "sampling", "config"},
    "projection": {
        "models", "data", "metrics", "sampling", "visualization", "checkpoints", "original_snapshots", "config",
    },
    "__init__": {"projection", "sampling", "original_snapshots"},
    "__main__": {"cli"},
}  # fmt: skip
ARROWS["cli"] = set(ARROWS)

LIGHT = LEAVES | {"config", "cli", "__init__"}  # what cli may import before a command runs
LIGHT_LIBRARIES = set(sys.stdlib_module_names) | {"click"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(tree: ast.AST, package: str) -> Iterator[tuple[ast.stmt, str]]:
    """Each import statement below ``tree`` with the full name of what it names; ``package`` resolves ``from . ``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base]).rstrip(".")
            yield from ((node, f"{base}.{alias.name}") for alias in node.names)


def rooms_imported(tree: ast.AST, package: str) -> set[str]:
    rooms = set()
    for _, module in imported_modules(tree, package):
        first, _, rest = module.partition(".")
        if first == "ganformer_cli":
            name = rest.partition(".")[0]
            rooms.add(name if name in ARROWS else "__init__")
    return rooms


def libraries_imported(tree: ast.AST, package: str) -> set[str]:
    return {module.partition(".")[0] for _, module in imported_modules(tree, package)} - {"ganformer_cli"}


def package_of(path: Path) -> str:
    return ".".join(["ganformer_cli", *path.relative_to(PACKAGE).parts[:-1]])


FILES = sorted(PACKAGE.rglob("*.py"))


def each_of(files: list[Path]) -> pytest.MarkDecorator:
    """A case for each of ``files``; there must be some."""
    assert files
    return pytest.mark.parametrize("path", files, ids=lambda path: path.relative_to(PACKAGE).as_posix())


FRONT = {"cli", "__init__", "__main__"}  # rooms that run before a command is known


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def without_bodies(tree: ast.Module) -> ast.Module:
    """What runs at import: no bodies of functions, nothing under ``if TYPE_CHECKING``."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if ast.unparse(node.test).endswith("TYPE_CHECKING") else self.generic_visit(node)

    stripped = Strip().visit(copy.deepcopy(tree))
    assert isinstance(stripped, ast.Module)
    return stripped


@each_of(FILES)
def test_imports_follow_the_arrows(path: Path) -> None:
    room = room_of(path)
    assert room in ARROWS, f"{room} is a room that no arrow knows: give it a line in ARROWS"
    may = ARROWS[room] | LEAVES | {room, "__init__"}
    wrong = rooms_imported(parsed(path), package_of(path)) - may
    assert not wrong, f"{room} must not import {sorted(wrong)}"


@pytest.mark.parametrize("room", sorted(LEAVES | {"config"}))
def test_leaves_and_config_need_the_standard_library_only(room: str) -> None:
    files = [path for path in FILES if room_of(path) == room]
    assert files
    for path in files:
        # tomli is Python 3.11's tomllib, for Python 3.10.
        own = {*sys.stdlib_module_names, "tomllib", "tomli", "platformdirs"}
        tree = parsed(path)
        # What memory a GPU has, torch tells; a process that never asks never loads it.
        tree = without_bodies(tree) if room == "memory" else tree
        assert libraries_imported(tree, package_of(path)) <= own


@each_of([path for path in FILES if room_of(path) in FRONT])
def test_cli_imports_nothing_heavy_at_the_top(path: Path) -> None:
    tree = without_bodies(parsed(path))
    assert rooms_imported(tree, package_of(path)) <= LIGHT
    assert libraries_imported(tree, package_of(path)) <= LIGHT_LIBRARIES


@each_of([path for path in FILES if room_of(path) not in {"cli", "__main__"}])
def test_only_cli_prints_exits_and_knows_click(path: Path) -> None:
    tree = parsed(path)
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not calls & {"print", "exit", "quit", "sys.exit", "os._exit", "input"}
    assert "click" not in libraries_imported(tree, package_of(path))


@each_of(FILES)
def test_a_module_has_one_subject(path: Path) -> None:
    """Or at least no more lines than one needs: 300 of a command, whose work rooms do, and 600 elsewhere."""
    limit = 300 if room_of(path) == "cli" else 600
    assert path.read_text(encoding="utf-8").count("\n") <= limit


def test_no_other_code_at_the_top() -> None:
    assert {path.name for path in PACKAGE.parent.glob("*.py")} == {"setup.py"}
    assert not list((PACKAGE.parent / "ops").rglob("*.py"))
    assert not list((PACKAGE.parent / "datasets").glob("*.py"))
    assert not (PACKAGE.parent / "tests" / "__init__.py").exists()


@pytest.mark.parametrize(
    ("source", "rooms"),
    [
        ("import ganformer_cli.models.layers", {"models"}),
        ("from ganformer_cli import sampling, __version__", {"sampling", "__init__"}),
        ("def f():\n    from ganformer_cli.cli import options", {"cli"}),
        ("if TYPE_CHECKING:\n    from ganformer_cli.training.loop import Loop", {"training"}),
        ("from ..config import ModelConfig", {"config"}),
        ("from .. import metrics", {"metrics"}),
        ("from . import layers", {"models"}),
        ("import torch", set()),
    ],
)
def test_no_import_escapes(source: str, rooms: set[str]) -> None:
    assert rooms_imported(ast.parse(source), "ganformer_cli.models") == rooms


def test_bodies_and_type_checking_do_not_run_at_import() -> None:
    source = "import a\ndef f():\n    import b\nif TYPE_CHECKING:\n    import c\nclass C:\n    import d\n"
    assert libraries_imported(without_bodies(ast.parse(source)), "ganformer_cli") == {"a", "d"}
