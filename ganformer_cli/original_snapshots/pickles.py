"""Reads the authors' pickles without running anything in them.

A pickle is a program: it names functions and calls them. Here the few names that real snapshots use stand for inert
look-alikes, made anew for each file; any other name is an error that says which. The source text that the files carry
is never looked at. Tensors come from a second pickle within the first, which ``torch.load(weights_only=True)`` reads.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ganformer_cli.errors import GanformerError, SnapshotError
from ganformer_cli.file_kinds import kind_of_file
from ganformer_cli.files import open_regular

#: Opcodes that no snapshot needs: objects by other people's numbers, by registries, out of band.
_REFUSED_OPCODES = frozenset(
    ("PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "INST", "OBJ", "NEWOBJ_EX", "NEXT_BUFFER", "READONLY_BUFFER")
)
_NUMBERS = re.compile(r"[<>|=]?[biuf?][1248]?")
_MOST_DIMENSIONS = 8
_DEEPEST = 64
_MOST_MODULES = 10_000


class _Sealed(type):
    """A class that a pickle cannot change."""

    def __setattr__(cls, name: str, value: object) -> None:
        raise TypeError("this class is sealed")


class _Function:
    """Something that a pickle may call, and do nothing else with."""

    __slots__ = ("_call",)
    _call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setattr__(self, name: str, value: object) -> None:
        raise TypeError("this function is sealed")


class PersistentObject:
    """A module of the authors': its class name and what it remembers, without its code."""

    __slots__ = ("class_name", "state")

    def __init__(self, class_name: str, state: dict[str, Any]) -> None:
        self.class_name, self.state = class_name, state

    def __setstate__(self, state: object) -> None:
        raise TypeError("a persistent object has its state already")


class Network:
    """A network of the TensorFlow version: its state."""

    __slots__ = ("state",)

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict):
            raise TypeError("a network's state must be a dictionary")
        self.state: dict[str, Any] = state


class _Element:
    """numpy's dtype: the name of a kind of number."""

    __slots__ = ("code", "order")

    def __init__(self, code: object) -> None:
        if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
            raise TypeError(f"numbers of the kind {code!r} have no place in a snapshot")
        self.code, self.order = code.lstrip("<>|="), "<"

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise TypeError("a damaged numpy type")
        self.order = state[1]

    def type(self) -> np.dtype[Any]:
        """The numpy type meant."""
        order = "" if self.order == "|" else self.order
        return np.dtype(order + self.code)


class _Array:
    """numpy's array, filled when its state arrives."""

    __slots__ = ("values",)

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise TypeError("a damaged numpy array")
        _, shape, element, fortran, data = state
        if not isinstance(element, _Element) or not isinstance(data, bytes):
            raise TypeError("a numpy array of something other than numbers")
        sizes = _sizes(shape)
        if math.prod(sizes) * element.type().itemsize != len(data):
            raise ValueError("a numpy array whose shape does not fit its data")
        flat = np.frombuffer(data, element.type())
        self.values = flat.reshape(sizes, order="F" if fortran is True else "C")


class _Held:
    """Numbers of torch's, out of the pickle's reach: tensors know how to take a state, too."""

    __slots__ = ("values",)
    values: Tensor

    def __init__(self, values: Tensor) -> None:
        object.__setattr__(self, "values", values)

    def __setattr__(self, name: str, value: object) -> None:
        raise TypeError("these numbers are sealed")

    def __setstate__(self, state: object) -> None:
        raise TypeError("these numbers are sealed")


def _sizes(shape: object) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or len(shape) > _MOST_DIMENSIONS:
        raise TypeError("a damaged shape")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise TypeError("a damaged shape")
    return shape


def _persistent(meta: object, *_: object) -> PersistentObject:
    if not isinstance(meta, dict) or not isinstance(meta.get("state"), dict):
        raise TypeError("a damaged persistent object")
    return PersistentObject(str(meta.get("class_name")), meta["state"])


def _scalar(element: object, data: object) -> Any:
    if not isinstance(element, _Element) or not isinstance(data, bytes) or len(data) != element.type().itemsize:
        raise TypeError("a damaged numpy number")
    return np.frombuffer(data, element.type())[0].item()


def _storage(data: object) -> _Held:
    if not isinstance(data, bytes):
        raise TypeError("a damaged storage")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch plans to drop typed storages one day; these files have them
        storage = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if not isinstance(storage, torch.storage.TypedStorage):
            raise TypeError("a storage that is something else")
        return _Held(torch.empty(0, dtype=storage.dtype).set_(storage.untyped()))


def _tensor(storage: object, offset: object, size: object, stride: object, *_: object) -> _Held:
    if not isinstance(storage, _Held) or storage.values.ndim != 1:
        raise TypeError("a tensor without a storage")
    flat = storage.values
    sizes, strides = _sizes(size), _sizes(stride)
    if type(offset) is not int or offset < 0 or len(sizes) != len(strides):
        raise TypeError("a damaged tensor")
    last = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    count = math.prod(sizes)
    if count and (last >= len(flat) or count > len(flat)):
        raise ValueError("a tensor that reaches beyond its storage")
    return _Held(flat.as_strided(sizes, strides, offset) if count else flat.new_empty(sizes))


def _names() -> dict[tuple[str, str], Any]:
    """The globals that real files name, each standing for something harmless."""

    class EasyDict(dict[str, Any], metaclass=_Sealed):
        __slots__ = ()

    class Inert(metaclass=_Sealed):
        __slots__ = ()

        def __init__(self, *_: object) -> None: ...

        def __setstate__(self, state: object) -> None: ...

    class Array(_Array, metaclass=_Sealed):
        __slots__ = ()

    class NetworkOfFile(Network, metaclass=_Sealed):
        __slots__ = ()

    def array(*_: object) -> _Array:
        made = Array()
        return made

    names: dict[tuple[str, str], Any] = {
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): _Function(_persistent),
        ("collections", "OrderedDict"): _Function(lambda *args: dict(*args)),
        ("torch._utils", "_rebuild_tensor_v2"): _Function(_tensor),
        ("torch._utils", "_rebuild_parameter"): _Function(lambda data, *_: data),
        ("torch.storage", "_load_from_bytes"): _Function(_storage),
        ("torch.nn.modules.dropout", "Dropout"): Inert,
        ("torch", "Size"): _Function(_sizes),
        ("torch", "device"): _Function(lambda *args: "device"),
        ("numpy", "dtype"): _Function(lambda code, *_: _Element(code)),
        ("numpy", "ndarray"): Inert,
        ("dnnlib.util", "EasyDict"): EasyDict,
        ("dnnlib.tflib.network", "Network"): NetworkOfFile,
    }
    for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
        names[core, "_reconstruct"] = _Function(array)
        names[core, "scalar"] = _Function(_scalar)
    return names


class _Reader(pickle.Unpickler):
    def __init__(self, file: IO[bytes], where: str) -> None:
        super().__init__(file)
        self._where = where
        self._names = _names()

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._names[module, name]
        except KeyError:
            raise SnapshotError(
                f"{self._where}: names {module}.{name}, which no snapshot of the authors' needs. It was not run, and "
                "the file is refused; do not trust it"
            ) from None


def _check_opcodes(file: IO[bytes], length: int) -> None:
    """Walk through the program without running it: lengths within the file, memo numbers in order."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file), 1):
        if opcode.name in _REFUSED_OPCODES:
            raise ValueError(f"the opcode {opcode.name} has no place in a snapshot")
        # A large number here would make the reader allocate as much.
        number = argument if isinstance(argument, int) else 0
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and number > count:
            raise ValueError("a memo number out of order")
        if opcode.name == "FRAME" and number > length:
            raise ValueError("a frame longer than the file")


def read_pickle(path: Path) -> Any:
    """What a pickle of the authors' holds: dictionaries, lists, numbers, tensors, arrays and the look-alikes above.

    Raises:
        SnapshotError: it is no such pickle, is damaged, or names anything else. Nothing in it has run.
    """
    try:
        with open_regular(path) as file:
            start = file.read(512)
            check_start(path, start)
            file.seek(0)
            _check_opcodes(file, path.stat().st_size)
            file.seek(0)
            return _plain(_Reader(file, str(path)).load())
    except GanformerError:
        raise
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    except Exception as error:
        # Whatever a mutilated file provokes: it is damaged.
        what = "truncated" if ends_too_early(path) else "damaged"
        raise SnapshotError(
            f"{path}: not a snapshot that can be read ({type(error).__name__}: {error}); it is {what}: download "
            "it again"
        ) from error


#: How pickletools says that the file ended within an instruction, or without the last one.
_ENDED = ("exhausted", "remain", "not enough data", "no newline found")


def ends_too_early(path: Path) -> bool:
    """Whether the file ends before the program of the pickle in it does."""
    try:
        with open_regular(path) as file:
            for _ in pickletools.genops(file):
                pass
    except Exception as error:
        return any(words in str(error) for words in _ENDED)
    return False


def check_start(path: Path, start: bytes) -> None:
    """Name what people often have instead of a snapshot."""
    kind = kind_of_file(path)
    if kind is not None:
        raise SnapshotError(f"{path}: not a pickle but {kind}. Give a snapshot (.pkl) or a .safetensors file")
    if start[:1] != b"\x80":
        raise SnapshotError(f"{path}: not a pickle; give a snapshot (.pkl) or a .safetensors file")


def _plain(value: Any, depth: int = 0, seen: dict[int, Any] | None = None) -> Any:
    """Replace the look-alikes of arrays and tensors by what they hold, throughout."""
    seen = {} if seen is None else seen
    if id(value) in seen:
        return seen[id(value)][1]
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    if isinstance(value, _Array | _Held):
        result: Any = value.values
    elif isinstance(value, dict):
        result = {}
        seen[id(value)] = value, result  # the original is kept alive, so that its id stays its own
        for key, item in value.items():
            result[key] = _plain(item, depth + 1, seen)
    elif isinstance(value, list | tuple):
        result = [_plain(item, depth + 1, seen) for item in value]
        result = tuple(result) if isinstance(value, tuple) else result
    elif isinstance(value, PersistentObject | Network):
        result = value
        seen[id(value)] = value, result
        value.state = _plain(value.state, depth + 1, seen)
    else:
        return value
    seen[id(value)] = value, result
    return result


def module_tensors(module: PersistentObject) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a module and those within it.

    Raises:
        SnapshotError: there are more than any network has: it holds itself, perhaps.
    """
    waiting = [("", module)]
    for done, (prefix, current) in enumerate(waiting):
        if done >= _MOST_MODULES:
            raise SnapshotError(f"a {module.class_name} of more than {_MOST_MODULES} parts: the snapshot is damaged")
        for kind in ("_parameters", "_buffers"):
            for name, value in _mapping(current.state.get(kind)).items():
                if isinstance(value, Tensor):
                    yield f"{prefix}{name}", value.detach()
        for name, child in _mapping(current.state.get("_modules")).items():
            if isinstance(child, PersistentObject):
                waiting.append((f"{prefix}{name}.", child))


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
