"""Reads the authors' pickles without running anything in them.

A pickle is a program: it names functions and calls them. Here the few names that real snapshots use stand for inert
look-alikes, made anew for each file; any other name is an error that says which. The source text that the files carry
is never looked at. Numbers of torch's come from further pickles within the first, which are read the same way.

A small pickle can also stand for endless work or memory: values within values that double at each level, keys whose
hash takes forever, one storage loaded a thousand times. So everything is counted while it is read: instructions,
objects, and the bytes, text and nesting of what comes out, in proportion to the size of the file; and no error shows
more of a value than its kind.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ganformer_cli.errors import GanformerError, SnapshotError
from ganformer_cli.file_magic import kind_of_file
from ganformer_cli.files import error_reason, open_regular
from ganformer_cli.text import printable

#: Opcodes that no snapshot needs: objects by other people's numbers, by registries, out of band.
_REFUSED_OPCODES = frozenset(
    ("PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "INST", "OBJ", "NEWOBJ_EX", "NEXT_BUFFER", "READONLY_BUFFER")
)
_REFUSED_IN_STORAGES = (_REFUSED_OPCODES | {"REDUCE", "BUILD", "NEWOBJ"}) - {"BINPERSID"}
_NUMBERS = re.compile(r"[<>|=]?[biuf?][1248]?")
_MOST_DIMENSIONS = 8
_DEEPEST = 64
_MOST_MODULES = 10_000
_LONGEST_NAME = 1000
_LONGEST_INTEGER = 32  # bytes
#: Real snapshots have up to 70,000 instructions, of which every fourth makes an object.
_MOST_INSTRUCTIONS = 1_000_000
_MOST_OBJECTS = 300_000
_MOST_VALUES = 1_000_000  # in all that comes out, each as often as it is referred to
_SPARE_BYTES = 64 << 20
_OBJECT_OPCODES = frozenset(
    ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_SET", "DICT", "LIST", "FROZENSET", "REDUCE", "NEWOBJ", "BUILD", "BYTEARRAY8")
)
#: How torch begins a storage: its number, and the version of the form.
_STORAGE_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGE_VERSION = 1001
_STORAGES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip


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


class TensorFlowNetwork:
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
            kind = printable(repr(code[:20]), limit=80) if isinstance(code, str) else type(code).__name__
            raise TypeError(f"numbers of the kind {kind} have no place in a snapshot")
        self.code, self.order = code.lstrip("<>|="), "<"

    def __setstate__(self, state: object) -> None:
        orders = ("<", ">", "|", "=")
        if not isinstance(state, tuple) or len(state) < 2 or type(state[1]) is not str or state[1] not in orders:
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
    name = meta.get("class_name")
    if not isinstance(name, str) or len(name) > _LONGEST_NAME:
        raise TypeError("a persistent object whose class name is not text")
    return PersistentObject(name, meta["state"])


def _scalar(element: object, data: object) -> Any:
    if not isinstance(element, _Element) or not isinstance(data, bytes) or len(data) != element.type().itemsize:
        raise TypeError("a damaged numpy number")
    return np.frombuffer(data, element.type())[0].item()


class _Storages:
    """Loads the storages of a file, each once."""

    def __init__(self, most: int) -> None:
        self._left = most
        self._known: dict[int, tuple[bytes, _Held]] = {}

    def load(self, data: object) -> _Held:
        """The numbers in what torch's storages write of themselves: some small pickles, and the raw numbers."""
        if not isinstance(data, bytes):
            raise TypeError("a damaged storage")
        if id(data) not in self._known:
            self._left -= len(data)
            if self._left < 0:
                raise ValueError("its storages are larger than the file")
            self._known[id(data)] = data, _Held(_numbers_of(data))
        return self._known[id(data)][1]


if TYPE_CHECKING:

    class _PythonUnpickler(pickle.Unpickler):
        dispatch: dict[int, Callable[[Any], None]]
else:
    _PythonUnpickler = pickle._Unpickler

#: Where the keys lie on the stack that an instruction puts into a dictionary or a set.
_KEYS = {
    pickle.SETITEM[0]: slice(-2, -1), pickle.SETITEMS[0]: slice(None, None, 2), pickle.DICT[0]: slice(None, None, 2),
    pickle.ADDITEMS[0]: slice(None), pickle.FROZENSET[0]: slice(None),
}  # fmt: skip


def _checking_keys(load: Callable[[Any], None], keys: slice) -> Callable[[Any], None]:
    """The instruction ``load``, after a look at the keys that it takes."""

    def load_checked(reader: Any) -> None:
        for key in reader.stack[keys]:
            _key(key)
        load(reader)

    return load_checked


class _CheckedUnpickler(_PythonUnpickler):
    """Python's reader of pickles that is written in Python: so keys can be looked at before they are hashed."""

    dispatch = _PythonUnpickler.dispatch | {
        opcode: _checking_keys(_PythonUnpickler.dispatch[opcode], keys) for opcode, keys in _KEYS.items()
    }


class _StorageReader(_CheckedUnpickler):
    """One of the pickles of a storage."""

    def find_class(self, module: str, name: str) -> Any:
        if module not in ("torch", "torch.storage") or name not in _STORAGES:
            raise TypeError("a storage of numbers that no snapshot has")
        return _STORAGES[name]

    def persistent_load(self, pid: Any) -> Any:
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage" or pid[5:] not in ((), (None,)):
            raise TypeError("a damaged storage")
        if not isinstance(pid[1], torch.dtype) or type(pid[4]) is not int or type(pid[2]) is not str:
            raise TypeError("a damaged storage")
        return pid[1], pid[4], pid[2]


def _numbers_of(data: bytes) -> Tensor:
    """The numbers of a storage as ``torch.save`` writes it: pickles in a row, or (never in snapshots) a zip archive."""
    if data[:2] == b"PK":
        return _numbers_of_zip(data)
    stream = io.BytesIO(data)
    magic, version, system, storage, _ = (_small_pickle(stream, len(data)) for _ in range(5))
    if magic != _STORAGE_MAGIC or version != _STORAGE_VERSION or not isinstance(storage, tuple):
        raise TypeError("a damaged storage")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise TypeError("a storage of a machine with another order of bytes")
    dtype, count, _ = storage
    if int.from_bytes(stream.read(8), "little") != count:
        raise ValueError("a storage whose numbers do not fit its size")
    return _tensor_of(memoryview(data)[stream.tell() :], dtype, count)


def _numbers_of_zip(data: bytes) -> Tensor:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {name.partition("/")[2]: archive.getinfo(name) for name in archive.namelist()}
        # torch does not compress; what does may be a bomb.
        if any(info.compress_type or info.file_size > len(data) for info in files.values()):
            raise ValueError("a storage that is a compressed archive")
        program = archive.read(files["data.pkl"])
        storage = _small_pickle(io.BytesIO(program), len(program))
        if not isinstance(storage, tuple):
            raise TypeError("a damaged storage")
        dtype, count, key = storage
        return _tensor_of(memoryview(archive.read(files[f"data/{key}"])), dtype, count)


def _small_pickle(stream: io.BytesIO, length: int) -> Any:
    """The next of the pickles of a storage."""
    start = stream.tell()
    _check_opcodes(stream, length, most=1000, refused=_REFUSED_IN_STORAGES)
    size = stream.tell() - start
    if size > 10_000:
        raise ValueError("a damaged storage")
    stream.seek(start)
    return _StorageReader(io.BytesIO(stream.read(size))).load()


def _tensor_of(raw: memoryview, dtype: torch.dtype, count: int) -> Tensor:
    if len(raw) != count * dtype.itemsize:
        raise ValueError("a storage whose numbers do not fit its size")
    return torch.frombuffer(bytearray(raw), dtype=dtype) if count else torch.empty(0, dtype=dtype)


def _key(key: object) -> Any:
    """A key of a dictionary. Those of other kinds can take forever to hash or to compare."""
    if type(key) is str or key is None or type(key) is bool or (type(key) is int and abs(key) < 1 << 32):
        return key
    raise TypeError(f"a dictionary with a key of the kind {type(key).__name__}")


def _dictionary(*args: object) -> dict[Any, Any]:
    if not args:
        return {}
    (pairs,) = args
    if type(pairs) is dict:
        return dict(pairs)
    if not isinstance(pairs, list | tuple) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
        raise TypeError("a damaged dictionary")
    return {_key(key): value for key, value in pairs}


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


def _names(storages: _Storages) -> dict[tuple[str, str], Any]:
    """The globals that real files name, each standing for something harmless."""

    class EasyDict(dict[str, Any], metaclass=_Sealed):
        __slots__ = ()

        def __init__(self, *args: object) -> None:
            super().__init__(_dictionary(*args))

    class Inert(metaclass=_Sealed):
        __slots__ = ()

        def __init__(self, *_: object) -> None: ...

        def __setstate__(self, state: object) -> None: ...

    class Array(_Array, metaclass=_Sealed):
        __slots__ = ()

    class NetworkOfFile(TensorFlowNetwork, metaclass=_Sealed):
        __slots__ = ()

    names: dict[tuple[str, str], Any] = {
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): _Function(_persistent),
        ("collections", "OrderedDict"): _Function(_dictionary),
        ("torch._utils", "_rebuild_tensor_v2"): _Function(_tensor),
        ("torch._utils", "_rebuild_parameter"): _Function(lambda data, *_: data),
        ("torch.storage", "_load_from_bytes"): _Function(storages.load),
        ("torch.nn.modules.dropout", "Dropout"): Inert,
        ("torch", "Size"): _Function(_sizes),
        ("torch", "device"): _Function(lambda *args: "device"),
        ("numpy", "dtype"): _Function(lambda code, *_: _Element(code)),
        ("numpy", "ndarray"): Inert,
        ("dnnlib.util", "EasyDict"): EasyDict,
        ("dnnlib.tflib.network", "Network"): NetworkOfFile,
    }
    for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
        names[core, "_reconstruct"] = _Function(lambda *_: Array())
        names[core, "scalar"] = _Function(_scalar)
    return names


class _Reader(_CheckedUnpickler):
    def __init__(self, file: IO[bytes], where: str, length: int) -> None:
        super().__init__(file)
        self._where = where
        self._names = _names(_Storages(length))

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._names[module, name]
        except KeyError:
            shown = printable(f"{module}.{name}", limit=120)
            raise SnapshotError(
                f"{self._where}: names {shown}, which no snapshot of the authors' needs. It was not run, and "
                "the file is refused; do not trust it"
            ) from None


def _check_opcodes(
    file: IO[bytes], length: int, *, most: int = _MOST_INSTRUCTIONS, refused: frozenset[str] = _REFUSED_OPCODES
) -> None:
    """Walk through the program without running it: lengths within the file, memo numbers in order, and no more of
    anything than real snapshots have."""
    objects = 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file), 1):
        if count > most:
            raise ValueError(f"more than {most:,} instructions")
        objects += opcode.name in _OBJECT_OPCODES
        if objects > _MOST_OBJECTS:
            raise ValueError(f"more than {_MOST_OBJECTS:,} objects")
        if type(argument) is int and argument.bit_length() > 8 * _LONGEST_INTEGER:
            raise ValueError("a number of hundreds of digits")
        if opcode.name in refused:
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
            length = path.stat().st_size
            return _Plain(length).of(_Reader(file, str(path), length).load())
    except GanformerError:
        raise
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be read ({error_reason(error)}); check the path") from error
    except Exception as error:
        # Whatever a mutilated file provokes: it is damaged.
        what = "truncated" if ends_too_early(path) else "damaged"
        raise SnapshotError(
            f"{path}: not a snapshot that can be read ({_why(error)}); it is {what}: download it again"
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


def _why(error: Exception) -> str:
    """What went wrong, without a value of the file's: to show one can take forever."""
    said = error.args[0] if error.args and type(error.args[0]) is str else ""
    return f"{type(error).__name__}: {printable(said, limit=200)}"


class _Plain:
    """Replaces the look-alikes of arrays and tensors by what they hold, throughout.

    What is referred to several times becomes several values; so walking through them always ends.
    """

    def __init__(self, length: int) -> None:
        self._values = _MOST_VALUES
        self._bytes = 2 * length + _SPARE_BYTES
        self._modules: dict[int, Any] = {}

    def of(self, value: Any, depth: int = 0) -> Any:
        """The value in plain; ``depth`` is how deep it lies."""
        self._values -= 1
        if self._values < 0:
            raise ValueError("more values than any snapshot has: they hold one another, perhaps")
        if depth > _DEEPEST:
            raise ValueError("nested too deeply")
        if isinstance(value, _Array | _Held):
            self._count(value.values.nbytes)
            return value.values
        if isinstance(value, str | bytes | bytearray):
            self._count(len(value))
            return value
        if isinstance(value, dict):
            return {key: self.of(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            items = [self.of(item, depth + 1) for item in value]
            return tuple(items) if isinstance(value, tuple) else items
        if isinstance(value, PersistentObject | TensorFlowNetwork) and id(value) not in self._modules:
            self._modules[id(value)] = value  # before what is in it, which may lead back
            value.state = self.of(value.state, depth + 1)
        return value

    def _count(self, size: int) -> None:
        self._bytes -= size
        if self._bytes < 0:
            raise ValueError("more numbers and text than the file has room for")


def modules_within(module: PersistentObject) -> Iterator[tuple[str, PersistentObject]]:
    """A module and those within it, each with what stands before the names of its tensors.

    Raises:
        SnapshotError: there are more than any network has: it holds itself, perhaps.
    """
    waiting = [("", module)]
    for done, (prefix, current) in enumerate(waiting):
        if done >= _MOST_MODULES:
            raise SnapshotError(f"a {module.class_name} of more than {_MOST_MODULES} parts: the snapshot is damaged")
        yield prefix, current
        for name, child in as_dictionary(current.state.get("_modules")).items():
            if isinstance(child, PersistentObject):
                waiting.append((f"{prefix}{name}.", child))


def module_tensors(module: PersistentObject) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a module and those within it; raises as :func:`modules_within` does."""
    for prefix, current in modules_within(module):
        for kind in ("_parameters", "_buffers"):
            for name, value in as_dictionary(current.state.get(kind)).items():
                if isinstance(value, Tensor):
                    yield f"{prefix}{name}", value.detach()


def as_dictionary(value: object) -> dict[str, Any]:
    """``value`` if it is a dictionary, else an empty one."""
    return value if isinstance(value, dict) else {}
