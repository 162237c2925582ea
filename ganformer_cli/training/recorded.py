"""Runs the operators of a training step again without Python's networks and without autograd.

A step of a small network spends most of its time on the way to its operators: modules, autograd's graph, functions of
Python in it. But from step to step they are the same operators on tensors of the same shapes. The first call of a
``RecordedFunction`` writes down what the dispatcher is asked for, forward and backward pass alike. Later calls ask for
the same, in the same order, and so come to the same bits; random numbers are drawn anew by the same operators.

The second call is a rehearsal: it computes both ways and compares them bit for bit. Where they differ, where the
function reads tensors that nobody has named, and where it takes long by itself, it is called as it is from then on.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode, is_in_torch_dispatch_mode

from ganformer_cli.cpus import thread_seconds
from ganformer_cli.models.uncompiled import keep_uncompiled

#: What a function returns: tensors without history, or None.
PassResults = list[Tensor | None]

#: Calls that take more seconds of this thread are not repeated: the way to the operators is nothing there, and a
#: rehearsal is much.
MAX_SECONDS = 2.0

#: Operators that return their argument under another name: nothing happens where there is no autograd.
_ALIASES = frozenset({torch.ops.aten.detach.default, torch.ops.aten.alias.default, torch.ops.aten.lift_fresh.default})

#: The same operators by way of torch's own bindings, which read their arguments in half the time.
_QUICK: dict[OpOverload, Callable[..., Any]] = {
    torch.ops.aten.add.Tensor: torch.add,
    torch.ops.aten.addmm.default: torch.addmm,
    torch.ops.aten.cat.default: torch.cat,
    torch.ops.aten.expand.default: Tensor.expand,
    torch.ops.aten.mm.default: torch.mm,
    torch.ops.aten.mul.Tensor: torch.mul,
    torch.ops.aten.permute.default: torch.permute,
    torch.ops.aten.select.int: torch.select,
    torch.ops.aten.squeeze.dim: torch.squeeze,
    torch.ops.aten.sum.dim_IntList: torch.sum,
    torch.ops.aten.t.default: torch.t,
    torch.ops.aten.transpose.int: torch.transpose,
    torch.ops.aten.unsqueeze.default: torch.unsqueeze,
    torch.ops.aten.view.default: Tensor.view,
}


class RecordedFunction:
    """``function``, computed by repeating its operators where that is possible.

    Args:
        function: of tensors of fixed shapes and layouts. What it does beyond calling operators has to be the same every
            time; it may draw random numbers from torch's default generator, and changes none of its arguments.
        constants: the other tensors that it reads: changed in place between calls, or not at all.
    """

    def __init__(self, function: Callable[..., PassResults], constants: Iterable[Tensor]) -> None:
        self.function = function
        self.constants = {id(tensor): tensor for tensor in constants}
        self.program: _Program | None = None
        self.is_rehearsed = False
        #: Why the operators cannot be repeated; empty as long as they may.
        self.refusal = ""

    def __call__(self, *arguments: Tensor) -> PassResults:
        """The results of ``function``."""
        if self.program is not None and not self.program.is_current():
            self.program, self.is_rehearsed = None, False
        if self.refusal or is_in_torch_dispatch_mode():  # another mode would see a rehearsal as two calls
            return self.function(*arguments)
        if self.program is None:
            return self._record(arguments)
        if not self.is_rehearsed:
            return self._rehearse(arguments)
        return self.program.run(arguments)

    def _record(self, arguments: Sequence[Tensor]) -> PassResults:
        recorder, start = _Recorder(arguments, self.constants), thread_seconds()
        with recorder:
            results = self.function(*arguments)
        self.refusal = recorder.refusal or recorder.missing(results)
        if thread_seconds() - start > MAX_SECONDS:
            self.refusal = "it takes long by itself"
        if not self.refusal:
            self.program = _Program(recorder, results)
        return results

    def _rehearse(self, arguments: Sequence[Tensor]) -> PassResults:
        assert self.program is not None
        before = torch.get_rng_state()
        results = self.function(*arguments)
        after = torch.get_rng_state()
        torch.set_rng_state(before)
        repeated = self.program.run(arguments)
        self.is_rehearsed = torch.equal(torch.get_rng_state(), after) and all(map(_is_same, results, repeated))
        if not self.is_rehearsed:
            self.refusal, self.program = "repeated, its operators give other results", None
            torch.set_rng_state(after)
        return results


def _is_same(first: Tensor | None, second: Tensor | None) -> bool:
    """Whether two results have equal bits; NaN equals itself."""
    if first is None or second is None:
        return first is second
    return (
        first.shape == second.shape
        and torch.equal(first.isnan(), second.isnan())
        and torch.equal(first.nan_to_num(), second.nan_to_num())
    )


class _Place:
    """A tensor of a program, by number."""

    def __init__(self, number: int) -> None:
        self.number = number


class _Recorder(TorchDispatchMode):
    """Writes down the operators that are called while it is active."""

    def __init__(self, arguments: Sequence[Tensor], constants: dict[int, Tensor]) -> None:
        super().__init__()
        self.allowed = constants
        self.calls: list[tuple[Any, list[Any], dict[str, Any], Any]] = []
        self.places: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self.used: dict[int, Tensor] = {}  # constants, by place
        self.count = 0
        self.refusal = ""
        self.inputs = [self._new(tensor) for tensor in arguments]

    def _new(self, tensor: Tensor) -> int:
        number, self.count = self.count, self.count + 1
        self.places[id(tensor)] = weakref.ref(tensor), number
        return number

    def find(self, tensor: Tensor) -> int | None:
        """The place of a tensor, if it has one: an address alone may be that of one that is gone."""
        reference, number = self.places.get(id(tensor), (None, -1))
        return None if reference is None or reference() is not tensor else number

    def _place(self, value: Any) -> Any:
        """An argument with places instead of tensors."""
        if isinstance(value, list | tuple):
            return [self._place(item) for item in value]
        if not isinstance(value, Tensor):
            return value
        number = self.find(value)
        if number is None:
            number = self._new(value)
            self.used[number] = value
            if id(value) not in self.allowed:
                self.refusal = f"it reads a tensor {list(value.shape)} that is no named input"
        return _Place(number)

    def _result(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [self._result(item) for item in value]
        if not isinstance(value, Tensor):
            return None
        number = self.find(value)  # of an operator in place
        return _Place(self._new(value) if number is None else number)

    def missing(self, results: PassResults) -> str:
        """Why the results cannot be found again; empty if they can."""
        known = all(result is None or self.find(result) is not None for result in results)
        return "" if known else "it returns a tensor that no operator has made"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the operator and write it down."""
        kwargs = kwargs or {}
        placed = [self._place(value) for value in args]
        named = {key: self._place(value) for key, value in kwargs.items()}
        out = func(*args, **kwargs)
        if func in _ALIASES and isinstance(placed[0], _Place):
            self.places[id(out)] = weakref.ref(out), placed[0].number
        else:
            self.calls.append((func, placed, named, self._result(out)))
        return out


# torch wraps this method, too.
keep_uncompiled(_Recorder.__torch_dispatch__)


class _Program:
    """The operators of a recording as one function of Python."""

    def __init__(self, recorder: _Recorder, results: PassResults) -> None:
        self.read = list(recorder.used.values())
        self.addresses = [tensor.data_ptr() for tensor in self.read]
        self.names: dict[str, Any] = {f"t{number}": tensor.detach() for number, tensor in recorder.used.items()}
        outputs = [None if result is None else recorder.find(result) for result in results]
        self.function = self._compiled(recorder, outputs)

    def is_current(self) -> bool:
        """Whether the constants still have the memory that they were recorded with."""
        return self.addresses == [tensor.data_ptr() for tensor in self.read]

    def run(self, arguments: Sequence[Tensor]) -> PassResults:
        """The results, for other arguments of the same shapes."""
        with torch.no_grad():
            found: PassResults = self.function(*arguments)
        return found

    def _compiled(self, recorder: _Recorder, outputs: list[int | None]) -> Callable[..., PassResults]:
        kept = {*recorder.used, *(number for number in outputs if number is not None)}
        last: dict[int, int] = {}
        for i, (_, args, named, out) in enumerate(recorder.calls):
            for number in _numbers([args, list(named.values()), out]):
                last[number] = i
        lines = []
        for i, (operator, args, named, out) in enumerate(recorder.calls):
            words = [self._word(value) for value in args]
            words += [f"{key}={self._word(value)}" for key, value in named.items()]
            call = f"{self._name(operator)}({', '.join(words)})"
            target = self._target(out)
            lines.append(f" {target} = {call}" if target else f" {call}")
            # What nobody reads any more is freed, as autograd does.
            done = sorted(number for number in set(_numbers([args, list(named.values()), out])) if last[number] == i)
            free = [f"t{number}" for number in done if number not in kept]
            if free:
                lines.append(f" {' = '.join(free)} = None")
        inputs = ", ".join(f"t{number}" for number in recorder.inputs)
        returned = ", ".join("None" if number is None else f"t{number}" for number in outputs)
        source = "\n".join([f"def program({inputs}):", *lines, f" return [{returned}]"])
        exec(compile(source, "<recorded step>", "exec"), self.names)
        program: Callable[..., PassResults] = self.names["program"]
        return program

    def _name(self, value: Any) -> str:
        value = _QUICK.get(value, getattr(value, "_op", value)) if isinstance(value, OpOverload) else value
        name = f"k{id(value)}"
        self.names[name] = value
        return name

    def _word(self, value: Any) -> str:
        if isinstance(value, _Place):
            return f"t{value.number}"
        if isinstance(value, list):
            return f"[{', '.join(map(self._word, value))}]"
        if value is None or isinstance(value, bool | int):
            return repr(value)
        return self._name(value)

    def _target(self, out: Any) -> str:
        if isinstance(out, _Place):
            return f"t{out.number}"
        if isinstance(out, list) and out:
            return ", ".join(self._target(item) or "_" for item in out) + ("," if len(out) == 1 else "")
        return ""


def _numbers(value: Any) -> list[int]:
    if isinstance(value, _Place):
        return [value.number]
    return [number for item in value for number in _numbers(item)] if isinstance(value, list) else []


#: Forward and backward pass: of tensors, and of what takes the gradients of a scalar; what is logged, by name.
Backward = Callable[[Tensor, bool], None]  # of a scalar; whether it is the last of the pass
Pass = Callable[[Sequence[Tensor | None], Backward], dict[str, Tensor]]


class RecordedPass:
    """A forward and backward pass as a ``RecordedFunction``, whose gradients are added to those that exist.

    Args:
        compute: the pass; several backward passes are added up, those by the first argument are not.
        trained: leaves.
        constants: see ``RecordedFunction``.
        by_first: whether the gradient by the first argument is wanted.
    """

    def __init__(
        self, compute: Pass, trained: Sequence[Tensor], constants: Iterable[Tensor], *, by_first: bool
    ) -> None:
        self.compute, self.trained, self.by_first = compute, list(trained), by_first
        self.names: list[str] = []
        self.present: list[bool] = []
        self.recorded = RecordedFunction(self._run, constants)

    def __call__(self, *arguments: Tensor | None) -> tuple[dict[str, Tensor], Tensor | None]:
        """What is logged, and the gradient by the first argument, or None."""
        self.present = [argument is not None for argument in arguments]
        results = self.recorded(*(tensor.contiguous() for tensor in arguments if tensor is not None))
        values, rest = results[: len(self.names)], results[len(self.names) :]
        first = rest.pop(0) if self.by_first else None
        # Of each backward pass by itself, in the order in which autograd adds.
        for i, gradient in enumerate(rest):
            leaf = self.trained[i % len(self.trained)]
            before = leaf.grad
            if before is None:
                leaf.grad = gradient
            elif gradient is not None:
                before += gradient
        return {name: value for name, value in zip(self.names, values, strict=True) if value is not None}, first

    def _run(self, *given: Tensor) -> PassResults:
        rest = iter(given)
        arguments = [next(rest) if present else None for present in self.present]
        first: list[Tensor] = []
        if self.by_first and arguments[0] is not None:
            arguments[0] = arguments[0].detach().requires_grad_()
            first = [arguments[0]]
        by_first: PassResults = []
        gradients: PassResults = []

        def backward(total: Tensor, last: bool) -> None:
            found = torch.autograd.grad(total, [*first, *self.trained], allow_unused=True)
            by_first[:] = found[: len(first)]
            with torch.no_grad():
                gradients.extend(_owned(found[len(first) :], self.trained))

        values = self.compute(arguments, backward)
        self.names = list(values)
        with torch.no_grad():
            return [*(value.detach() for value in values.values()), *by_first, *gradients]


def _owned(gradients: Sequence[Tensor | None], leaves: Sequence[Tensor]) -> PassResults:
    """Gradients in the layout of their leaves, each in memory of its own: as autograd leaves them in ``.grad``."""
    taken: set[int] = set()
    owned: PassResults = []
    for gradient, leaf in zip(gradients, leaves, strict=True):
        if gradient is not None and (gradient.stride() != leaf.stride() or gradient.data_ptr() in taken):
            gradient = torch.empty_like(leaf).copy_(gradient)
        if gradient is not None:
            taken.add(gradient.data_ptr())
        owned.append(gradient)
    return owned
