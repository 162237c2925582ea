"""Chooses between the native operators and plain torch, in this one place.

The native operators are built on first use (``build.py``). If that fails, one line on stderr gives the reason and the
remedy, and plain torch is used. ``GANFORMER_OPS=native`` makes it an error; ``GANFORMER_OPS=reference`` builds nothing
and prints nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from ganformer_cli.errors import ConfigError, GanformerError
from ganformer_cli.files import insist
from ganformer_cli.operators.build import Build, find_cuda_tools, find_or_build, find_tools
from ganformer_cli.operators.compiling import Library, cuda_capability, make_build_spec
from ganformer_cli.operators.cuda_toolkit import present_architectures
from ganformer_cli.operators.toolchain import BuildError, NoCompilerError

Backend = Literal["auto", "native", "reference"]
Register = TypeVar("Register", bound=Callable[[], None])

VARIABLE = "GANFORMER_OPS"
BACKENDS = ("auto", "native", "reference")
OLDEST_TORCH = (2, 10)  # the first with all of the stable interface that the sources use

#: What the library of each kind of device accepts.
DTYPES = {
    "cpu": frozenset({torch.float32, torch.bfloat16, torch.float64}),
    "cuda": frozenset({torch.float32, torch.bfloat16, torch.float16}),
}


@dataclass(frozen=True)
class Status:
    """The state of the library of a kind of device.

    Attributes:
        native: whether it is loaded.
        problem: why it is not; empty if it is.
        remedy: what to do about that; empty if there is nothing to do.
        build: the loaded library.
        no_compiler: whether it is missing because there is no compiler.
    """

    native: bool
    problem: str = ""
    remedy: str = ""
    build: Build | None = None
    no_compiler: bool = False

    @property
    def reason(self) -> str:
        """The problem and the remedy in one line."""
        return "; ".join(filter(None, (self.problem, self.remedy)))


_backend: str = os.environ.get(VARIABLE, "").strip().lower() or "auto"
_lock = threading.RLock()
_found: dict[str, Status] = {}  # by the kind of device; what has failed is not tried again
_warned: set[str] = set()
_to_register: list[Callable[[], None]] = []
_fragment = torch.library.Library("ganformer", "FRAGMENT")


def serves(*tensors: Tensor | None) -> bool:
    """Whether the native operators accept these tensors. The first call for a device builds or loads its library.

    They do if all are on one kind of device whose library is available, and have dtypes that it accepts (``DTYPES``).

    Raises:
        GanformerError: the backend is ``native`` and the library is not available, or ``GANFORMER_OPS`` is invalid.
    """
    if _backend == "reference":
        return False
    device = ""
    for tensor in tensors:
        if tensor is None:
            continue
        kind = tensor.device.type
        if (device and kind != device) or tensor.dtype not in DTYPES.get(kind, ()):
            return False
        device = kind
    if not device:
        return False
    # From the second call on only look-ups, which torch.compile can trace.
    found = _found.get(device)
    if found is not None and (found.native or (device in _warned and _backend == "auto")):
        return found.native
    return _decide(device)


def _decide(device: str) -> bool:
    """``serves`` where there is something to build, load or report."""
    found = status(device)
    if found.native:
        return True
    if _backend == "native":
        raise GanformerError(f"{VARIABLE}=native: {found.reason}")
    if found.problem:
        with _lock:
            if device not in _warned:
                _warned.add(device)
                _warn(
                    f"plain torch replaces the native operators and is slower: {found.reason} "
                    f"({VARIABLE}=reference silences this)"
                )
    return False


def call(operator: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a native operator.

    Raises:
        GanformerError: the operator rejects its arguments. Its library returns a message, as bytes in place of the
            result, instead of throwing, because torch may be from another compiler (``ops/errors.h``).
    """
    result = operator(*arguments)
    first = result[0] if isinstance(result, tuple | list) else result
    if first is None:
        raise GanformerError("a native operator failed, and there was no memory for a message")
    if first.dtype is torch.uint8:
        raise GanformerError(" ".join(bytes(first.tolist()).decode("utf-8", "replace").split()))
    return result


def math_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which the operators compute for features of ``dtype``."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def fits(x: Tensor, dtype: torch.dtype, *tensors: Tensor | None) -> bool:
    """Whether all ``tensors`` that exist have this dtype and the device of ``x``."""
    return all(tensor is None or (tensor.dtype == dtype and tensor.device == x.device) for tensor in tensors)


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd must record what is computed from ``tensors``."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


@contextlib.contextmanager
def use(backend: Backend) -> Iterator[None]:
    """Force a backend for the block, in all threads, whatever ``GANFORMER_OPS`` is: for tests and measurements."""
    global _backend
    before, _backend = _backend, backend
    try:
        yield
    finally:
        _backend = before


def when_loaded(register: Register) -> Register:
    """Call ``register`` once, as soon as the CPU library, which defines the operators, is loaded. A decorator."""
    with _lock:
        if _found.get("cpu", Status(False)).native:
            register()
        else:
            _to_register.append(register)
    return register


def register(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the function that tells torch the shapes of the operator's results. A decorator.

    autograd does not record the operator itself: our autograd functions call it, at less than half the cost of
    ``torch.library.register_autograd``.
    """
    _fragment.impl(name, torch.library.fallthrough_kernel, "Autograd")
    return torch.library.register_fake(f"ganformer::{name}")


def status(device: str) -> Status:
    """The library's state for ``cpu`` or ``cuda``; builds or loads it first, unless the backend is ``reference``.

    Raises:
        ConfigError: ``GANFORMER_OPS`` is neither auto, native nor reference.
    """
    if _backend not in BACKENDS:
        raise ConfigError(f"{VARIABLE}={_backend}: choose one of {', '.join(BACKENDS)}")
    if _backend == "reference":
        return Status(False, f"{VARIABLE}=reference")
    with _lock:
        if device not in _found:
            try:
                build = _load_cpu() if device == "cpu" else _load_cuda()
                _found[device] = Status(True, build=build)
            except BuildError as error:
                missing = isinstance(error, NoCompilerError)
                _found[device] = Status(False, error.problem, error.remedy, no_compiler=missing)
            except (GanformerError, OSError) as error:  # the second: for instance a source that cannot be read
                _found[device] = Status(False, str(error), "install ganformer again if this stays so")
        return _found[device]


def torch_version() -> tuple[int, ...]:
    """``(2, 13)``."""
    return tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])


def _load_cpu() -> Build:
    if torch_version() < OLDEST_TORCH:
        raise BuildError(f"torch {torch.__version__} is too old for them", "install torch 2.10 or newer")
    build = _load("cpu", torch.backends.cpu.get_cpu_capability(), find_tools)
    try:
        while _to_register:
            _to_register.pop(0)()
    except (RuntimeError, AttributeError) as error:  # of torch.library: it does not have what is to be registered
        raise BuildError(f"{build.path} does not fit this version: {error}", "install ganformer again") from error
    return build


def _load_cuda() -> Build:
    cpu = status("cpu")
    if not cpu.native:
        raise BuildError(f"the CPU library, which defines them, is not available: {cpu.problem}", cpu.remedy)
    if torch.version.cuda is None or not torch.cuda.is_available():
        raise BuildError("torch sees no NVIDIA card", "see ganformer doctor")
    return _load("cuda", cuda_capability(present_architectures()), find_cuda_tools)


def _load(library: Library, capability: str, find: Callable) -> Build:
    build_spec = make_build_spec(library, capability)
    if build_spec is None:
        raise BuildError(f"this installation has no sources of the {library} library", "install ganformer again")
    build = find_or_build(build_spec, find, say=_say, warn=_warn)
    try:
        return _open(build)
    except BuildError as error:
        if build.fresh:
            raise
        # It was built elsewhere, and requires for instance a newer C++ library: build one here.
        try:
            return _open(find_or_build(build_spec, find, exclude=build, say=_say, warn=_warn))
        except NoCompilerError:
            raise error from None


def _open(build: Build) -> Build:
    try:
        # On Windows a virus scanner may hold a library that is new.
        insist(lambda: torch.ops.load_library(str(build.path)))
    except OSError as error:
        text = " ".join(str(error).split())
        raise BuildError(f"{build.path} cannot be loaded: {text}", "delete that file to build it again") from error
    return build


def _say(text: str) -> None:
    sys.stderr.write(f"ganformer: {text}\n")
    sys.stderr.flush()


def _warn(text: str) -> None:
    _say(f"warning: {text}")
