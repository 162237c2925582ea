"""What ``ganformer doctor`` computes with each operator: its module says what, beside the operator itself."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

OperatorResults = list[Tensor | None]


class SelfTest(NamedTuple):
    """An operator's results for small arguments of odd sizes.

    ``arguments`` are the shapes of random numbers; ``run`` computes the results for them, on ``devices``.
    """

    name: str
    arguments: tuple[tuple[int, ...], ...]
    run: Callable[..., OperatorResults]
    devices: tuple[str, ...] = ("cpu", "cuda")


_FOUND: dict[str, SelfTest] = {}


def self_test(
    name: str, *arguments: tuple[int, ...], devices: tuple[str, ...] = ("cpu", "cuda")
) -> Callable[[Callable[..., OperatorResults]], Callable[..., OperatorResults]]:
    """Makes a function the ``SelfTest`` of an operator; see there."""

    def add(run: Callable[..., OperatorResults]) -> Callable[..., OperatorResults]:
        _FOUND[name] = SelfTest(name, arguments, run, devices)
        return run

    return add


def all_self_tests() -> tuple[SelfTest, ...]:
    """Those of all modules in this folder, by name."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)], f"{__package__}."):
        importlib.import_module(module.name)
    return tuple(_FOUND[name] for name in sorted(_FOUND))
