"""Who may import whom. Every import counts: at the top, inside a function, under ``TYPE_CHECKING``."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
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


def nodes_at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """What runs at import: no bodies of functions, nothing under ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        yield node
        yield from nodes_at_import(node)


def imported_modules(nodes: Iterable[ast.AST], package: str) -> Iterator[str]:
    """The full name of what each import statement names; ``package`` resolves ``from . ``."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base]).rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def rooms_of(modules: Iterable[str]) -> set[str]:
    """Those that modules of this package are in; the package itself is ``__init__``."""
    names = {f"{module}.".split(".")[1] for module in modules if module.partition(".")[0] == "ganformer_cli"}
    return {name if name in ARROWS else "__init__" for name in names}


def libraries_of(modules: Iterable[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules} - {"ganformer_cli"}


class Module:
    """What a file imports and calls."""

    def __init__(self, path: Path) -> None:
        self.name = path.relative_to(PACKAGE).as_posix()
        package = ".".join(["ganformer_cli", *path.relative_to(PACKAGE).parts[:-1]])
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source, str(path))
        nodes = list(ast.walk(tree))
        self.lines = source.count("\n")
        self.imported = set(imported_modules(nodes, package))
        self.imported_at_once = set(imported_modules(nodes_at_import(tree), package))
        self.calls = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}


@cache
def modules_of(room: str) -> list[Module]:
    files = (PACKAGE / room).rglob("*.py") if (PACKAGE / room).is_dir() else [PACKAGE / f"{room}.py"]
    return [Module(path) for path in sorted(files)]


ROOMS = sorted({path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")})
FRONT = {"cli", "__init__", "__main__"}  # rooms that run before a command is known


def test_every_room_has_arrows() -> None:
    """A new one needs a line in ``ARROWS``."""
    assert set(ROOMS) == set(ARROWS)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_follow_the_arrows(room: str) -> None:
    may = ARROWS[room] | LEAVES | {room, "__init__"}
    wrong = {module.name: found for module in modules_of(room) if (found := rooms_of(module.imported) - may)}
    assert not wrong, f"{room} must not import these"


@pytest.mark.parametrize("room", sorted(LEAVES | {"config"}))
def test_leaves_and_config_need_the_standard_library_only(room: str) -> None:
    # tomli is Python 3.11's tomllib, for Python 3.10.
    own = {*sys.stdlib_module_names, "tomllib", "tomli", "platformdirs"}
    for module in modules_of(room):
        # What memory a GPU has, torch tells; a process that never asks never loads it.
        imported = module.imported_at_once if room == "memory" else module.imported
        assert libraries_of(imported) <= own, module.name


@pytest.mark.parametrize("room", sorted(FRONT))
def test_cli_imports_nothing_heavy_at_the_top(room: str) -> None:
    for module in modules_of(room):
        assert rooms_of(module.imported_at_once) <= LIGHT, module.name
        assert libraries_of(module.imported_at_once) <= LIGHT_LIBRARIES, module.name


@pytest.mark.parametrize("room", sorted(set(ROOMS) - {"cli", "__main__"}))
def test_only_cli_prints_exits_and_knows_click(room: str) -> None:
    for module in modules_of(room):
        assert not module.calls & {"print", "exit", "quit", "sys.exit", "os._exit", "input"}, module.name
        assert "click" not in libraries_of(module.imported), module.name


@pytest.mark.parametrize("room", ROOMS)
def test_a_module_has_one_subject(room: str) -> None:
    """Or at least no more lines than one needs: 300 of a command, whose work rooms do, and 600 elsewhere."""
    limit = 300 if room == "cli" else 600
    assert not {module.name: module.lines for module in modules_of(room) if module.lines > limit}


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
    assert rooms_of(imported_modules(ast.walk(ast.parse(source)), "ganformer_cli.models")) == rooms


def test_bodies_and_type_checking_do_not_run_at_import() -> None:
    source = "import a\ndef f():\n    import b\nif TYPE_CHECKING:\n    import c\nclass C:\n    import d\n"
    assert libraries_of(imported_modules(nodes_at_import(ast.parse(source)), "ganformer_cli")) == {"a", "d"}
