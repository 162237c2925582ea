"""Keeps torch from loading its compiler, 1.3 s and 80 MiB in every process, for functions that nobody compiles."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch

_Optimizer = TypeVar("_Optimizer", bound=torch.optim.Optimizer)


def keep_uncompiled(function: Callable[..., Any]) -> None:
    """Let ``function`` run without the compiler.

    torch wraps some of its functions so that the compiler leaves them alone (``torch._disable_dynamo``), and asks the
    compiler itself for the form to call, which it notes in the function; here that form is the function as it is.
    Where torch wraps differently, nothing happens.
    """
    inner = getattr(function, "__wrapped__", None)
    if inner is not None and function.__code__.co_filename == torch._compile.__file__:
        inner.__dict__.setdefault("__dynamo_disable", inner)


def uncompiled(kind: type[_Optimizer]) -> type[_Optimizer]:
    """This class of torch's, which loads no compiler when it is made, steps, is saved or is restored.

    Of what its step is wrapped in, hooks stay; what goes asks the compiler for a break in its graph.
    """
    for name in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
        keep_uncompiled(getattr(torch.optim.Optimizer, name))
    step = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), {"step": step})
