"""One public name means one thing: no function, class or type alias of the package is defined in two modules."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "ganformer_cli"
#: Each command's module has one of this name.
MAY_REPEAT = {"command"}


def public_names(tree: ast.Module) -> Iterator[str]:
    """The functions, classes and aliases that a module defines at its top, also below an ``if`` or ``try``."""
    for node in tree.body:
        for each in ast.walk(node) if isinstance(node, ast.If | ast.Try) else [node]:
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield each.name
            elif isinstance(each, ast.Assign | ast.AnnAssign):
                targets = each.targets if isinstance(each, ast.Assign) else [each.target]
                # An alias is written as a class is; constants are in capitals.
                yield from (
                    t.id for t in targets if isinstance(t, ast.Name) and t.id[0].isupper() and not t.id.isupper()
                )


def test_no_public_name_is_defined_twice() -> None:
    modules = defaultdict(set)
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in public_names(ast.parse(path.read_text(encoding="utf-8"))):
            if not name.startswith("_") and name not in MAY_REPEAT:
                modules[name].add(path.relative_to(PACKAGE).as_posix())
    twice = {name: sorted(where) for name, where in modules.items() if len(where) > 1}
    assert not twice


def test_definitions_are_found() -> None:
    found = set(
        public_names(ast.parse("def f(): ...\nclass A: ...\nRows = list[int]\nLIMIT = 3\nif 1:\n    def g(): ..."))
    )
    assert found == {"f", "A", "Rows", "g"}
