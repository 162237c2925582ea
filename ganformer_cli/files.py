"""Files that are either whole or not there: write beside, sync, rename; and JSON and TOML, read within limits.

Standard library only, and tomli where Python has no tomllib.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import math
import os
import re
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from ganformer_cli.errors import DataError, GanformerError, OutputError
from ganformer_cli.system_errors import Warn as Warn
from ganformer_cli.system_errors import advice as advice
from ganformer_cli.system_errors import check_replaceable as check_replaceable
from ganformer_cli.system_errors import error_reason as error_reason
from ganformer_cli.system_errors import insist as insist
from ganformer_cli.system_errors import is_in_use as is_in_use
from ganformer_cli.system_errors import is_name_too_long as is_name_too_long
from ganformer_cli.system_errors import quietly as quietly
from ganformer_cli.system_errors import reason_and_remedy as reason_and_remedy
from ganformer_cli.system_errors import remove as remove
from ganformer_cli.system_errors import replace as replace

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MIB, GIB = 1 << 20, 1 << 30
GB = 10**9
MAX_BYTES = 64 * MIB  # of a JSON file
MAX_MEMORY = 512 * MIB  # of the values in it
MAX_LABELS_MEMORY = 2 << 30  # of labels: 10 million classes, or 70,000 vectors of 900 numbers
MAX_DEPTH = 64  # of lists and tables in one another
MAX_INTEGER = 2**64  # whatever is counted, and random seeds, stay below it
MAX_LINE = 4 * MIB  # of a file of lines
MAX_LINES_BYTES = 256 * MIB  # of all its lines
MAX_TOML_BYTES = MIB // 4

_FILE_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

# ----- Reading -----


class NotRegularError(OSError):
    """The path leads to a named pipe, a socket, a device or a folder, where a regular file is needed.

    An ``OSError`` whose ``strerror`` says so, so that whoever reports unreadable files reports this, too.
    """


def _require_regular(path: Path, state: os.stat_result) -> os.stat_result:
    if not stat.S_ISREG(state.st_mode):
        kind = _FILE_KINDS.get(stat.S_IFMT(state.st_mode), "something special")
        number = errno.EISDIR if stat.S_ISDIR(state.st_mode) else errno.EINVAL
        raise NotRegularError(number, f"it is {kind}, not a regular file", str(path))
    return state


def check_regular(path: Path) -> os.stat_result:
    """Look at ``path``, through links, before anything opens it: opening a named pipe blocks forever.

    For libraries that open a path by themselves; else :func:`open_regular`.

    Raises:
        NotRegularError: it is a named pipe, a socket, a device or a folder.
        OSError: there is nothing, or it may not be looked at.
    """
    return _require_regular(path, os.stat(path))


def open_regular(path: Path) -> IO[bytes]:
    """Open the regular file ``path`` for reading bytes; never waits, whatever lies there.

    Raises:
        NotRegularError: it is a named pipe, a socket, a device or a folder.
        OSError: it cannot be opened.
    """
    check_regular(path)
    # What lies there may have been exchanged since: not waiting, and a second look, cover that.
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags)
    try:
        _require_regular(path, os.fstat(descriptor))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path) -> bytes:
    """The content of the regular file ``path``; raises as :func:`open_regular` does."""
    with open_regular(path) as stream:
        return stream.read()


def why_no_file(path: Path) -> str:
    """Why ``path`` is no regular file, as the end of a sentence: ``does not exist``; empty if it is one."""
    try:
        check_regular(path)
    except NotRegularError as error:
        return str(error.strerror).removeprefix("it ")
    except OSError as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError) and not is_name_too_long(error):
            return "does not exist"
        return f"cannot be read ({error_reason(error)})"
    except ValueError as error:  # a null character in the name
        return f"cannot be read ({error})"
    return ""


# ----- Writing -----


@contextlib.contextmanager
def atomic_open(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary neighbour of ``path`` for writing; publish it under ``path`` if the block succeeds.

    A symbolic link is followed: the file that it leads to is replaced.

    Raises:
        OutputError: the folder cannot be written to, the disk is full, or something lies there that is no regular
            file. Nothing is left under ``path``'s name that was not there before.
    """
    temporary: Path | None = None
    try:
        if path.is_symlink():
            path = Path(os.path.realpath(path))
        check_replaceable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes the file private; a shared result folder wants the usual permissions.
        if os.name == "posix":
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
        replace(temporary, path)
        temporary = None
    except OSError as error:
        raise OutputError(f"cannot write {path}: {advice(error)}") from error
    finally:
        if temporary is not None:
            remove(temporary, warn=quietly)


def folder_extent(folder: Path) -> tuple[int, int]:
    """How many files are in a folder and below, and their bytes; what goes away meanwhile does not count."""
    files = size = 0
    for path in folder.rglob("*") if folder.is_dir() else ():
        try:
            state = path.lstat()
        except OSError:
            continue
        if not path.is_dir():
            files, size = files + 1, size + state.st_size
    return files, size


def remove_parts(path: Path) -> None:
    """Remove what kills left of attempts to write ``path``; nobody else may be writing it now."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        remove(part, warn=quietly)


def digest_file(path: Path, kind: str, progress: Callable[[int, int | None], None] | None = None) -> str:
    """The ``"md5"`` or ``"sha256"`` of a file, hexadecimal; it is read piece by piece.

    ``progress`` is called with the bytes that are read, and all.
    """
    digest, total, done = hashlib.new(kind, usedforsecurity=False), path.stat().st_size, 0
    with open_regular(path) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            done += len(block)
            if progress is not None:
                progress(done, total)
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """The sha256 of a file, hexadecimal."""
    return digest_file(path, "sha256")


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all."""
    with atomic_open(path) as stream:
        stream.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented UTF-8 JSON, whole or not at all."""
    write_bytes(path, (json_text(value, indent=2) + "\n").encode("utf-8"))


def json_text(value: Any, indent: int | None = None) -> str:
    """``value`` as JSON that is UTF-8 text and harmless on a terminal.

    Names of files may hold bytes that are no text, which are lone surrogates in Python; these are spelled out.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return visible_json(_SURROGATE.sub(lambda found: f"\\\\u{ord(found[0]):04x}", text))


def visible_json(text: str) -> str:
    """JSON text with escapes for what a terminal would obey or hide; the values stay the same."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def append_json_line(path: Path, record: dict[str, Any]) -> None:
    """Add one JSON object as a line to the file ``path``, and bring it to the disk.

    If the last line there was cut short, by a kill or a full disk, it is cut off first: the new line would be lost
    with it. NaN and infinity, which JSON does not have, become null.

    Raises:
        OutputError: it cannot be written to.
    """
    line = (json_text(without_nan(record)) + "\n").encode("utf-8")

    def write() -> None:
        path.touch()
        with path.open("r+b") as stream:
            end = _end_of_whole_lines(stream)
            stream.seek(end)
            missing = b""
            if end:
                stream.seek(end - 1)
                missing = b"" if stream.read(1) == b"\n" else b"\n"
            stream.truncate()
            stream.write(missing + line)
            stream.flush()
            os.fsync(stream.fileno())

    try:
        insist(write)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {advice(error)}") from error


def without_nan(value: Any) -> Any:
    """A JSON value with None for the numbers that JSON does not have: NaN and the infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return value


def _end_of_whole_lines(stream: IO[bytes]) -> int:
    """The byte behind the last whole line; an object that only lacks its line break is whole."""
    size = place = stream.seek(0, os.SEEK_END)
    tail = b""
    while place > 0 and b"\n" not in tail:
        step = min(place, 1 << 16)
        place -= step
        stream.seek(place)
        tail = stream.read(step) + tail
    cut = tail.rfind(b"\n") + 1
    rest = tail[cut:]
    if not rest:
        return size
    try:
        whole = len(rest) <= MAX_LINE and isinstance(parse_json(rest, "", finite=False), dict)
    except GanformerError:
        whole = False
    return size if whole else place + cut


def ensure_writable_folder(path: Path, option: str) -> None:
    """Create folder ``path`` and check that files can be made in it; errors name ``option``."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OutputError(f"{option} {path}: cannot be written to: {advice(error)}") from error


# ----- JSON and TOML of other people, or damaged by a crash: within limits, and errors say the file and the line -----


def read_json(
    path: Path,
    *,
    kind: type[GanformerError] = DataError,
    remedy: str = "",
    max_bytes: int = MAX_BYTES,
    finite: bool = True,
) -> Any:
    """What a JSON file holds; UTF-8, with or without a byte order mark. Its shape is the caller's to check.

    Args:
        kind: the error to raise.
        remedy: what to do about it, for the end of the message.
        max_bytes: of the file.
        finite: refuse NaN and infinity, which Python writes though JSON does not have them.

    Raises:
        GanformerError: of ``kind``: the file cannot be read, is no JSON, or is beyond the limits.
    """
    return parse_json(_read(path, max_bytes, kind, remedy), str(path), kind=kind, remedy=remedy, finite=finite)


def read_json_lines(
    path: Path,
    *,
    damaged: Callable[[GanformerError], None] | None = None,
    finite: bool = True,
) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a file that has a JSON object a line, each with the number of its line, from 1.

    Empty lines are skipped.

    Args:
        damaged: is given the error of each line that is damaged, and the others are read; None raises the first.
        finite: as for ``read_json``.

    Raises:
        DataError: the file cannot be read or is too large; without ``damaged``, a line is damaged.
    """
    found = []
    memory = 0
    for number, line in enumerate(_read(path, MAX_LINES_BYTES, DataError).split(b"\n"), 1):
        if not line.strip(b" \t\r\xef\xbb\xbf"):
            continue
        memory += _memory(line)
        if memory > MAX_MEMORY:
            raise _fault(DataError, str(path), number, "holds more than a file of this kind can")
        try:
            if len(line) > MAX_LINE:
                raise _fault(DataError, str(path), number, f"is longer than {MAX_LINE >> 20} MiB")
            value = parse_json(line, str(path), finite=finite, first_line=number)
            if not isinstance(value, dict):
                raise _fault(DataError, str(path), number, "is not a JSON object")
        except GanformerError as error:
            if damaged is None:
                raise
            damaged(error)
            continue
        found.append((number, value))
    return found


def parse_json(
    data: bytes | str,
    where: str,
    *,
    kind: type[GanformerError] = DataError,
    remedy: str = "",
    max_memory: int = MAX_MEMORY,
    finite: bool = True,
    first_line: int = 1,
) -> Any:
    """What JSON text holds, of at most about ``max_memory`` bytes as values; otherwise as ``read_json``.

    ``where`` and the line begin the message of an error.

    Raises:
        GanformerError: of ``kind``: it is no JSON, or is beyond the limits.
    """

    def fault(what: str, place: int) -> GanformerError:
        return _fault(kind, where, first_line + text.count("\n", 0, place), what, remedy)

    text = _decoded(data, where, kind, remedy, first_line) if isinstance(data, bytes) else data
    if _memory(text) > max_memory and _memory(_JSON_STRING.sub('""', text)) + len(text) > max_memory:
        raise _fault(kind, where, None, "holds more than a file of this kind can", remedy)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if not text.strip():
            raise _fault(kind, where, None, "is empty", remedy) from error
        raise fault(f"is not JSON ({error.msg}, column {error.colno})", error.pos) from error
    except (RecursionError, ValueError, MemoryError, OverflowError) as error:
        # Nested too deeply, or a number of thousands of digits: where, is looked for in the text.
        found = _first_violation(text, finite)
        what, place = found or (f"cannot be read ({type(error).__name__})", 0)
        raise fault(what, place) from error
    if _violation(value, finite):
        what, place = _first_violation(text, finite) or ("is beyond the limits", 0)
        raise fault(what, place)
    return value


def read_toml(path: Path, *, kind: type[GanformerError] = DataError) -> dict[str, Any]:
    """What a TOML file holds; UTF-8, with or without a byte order mark. Its shape is the caller's to check.

    Raises:
        GanformerError: of ``kind``: the file cannot be read, is no TOML, or is beyond the limits of ``read_json``.
    """
    data = _read(path, MAX_TOML_BYTES, kind, "give the path of a TOML file")
    text = _decoded(data, str(path), kind).replace("\r\n", "\n")
    # Readers of TOML recurse into brackets, and take time that grows with the square of the dots in a key.
    bare = _TOML_STRING.sub(lambda found: "\n" * found[0].count("\n"), text)
    depth = 0
    for number, line in enumerate(bare.split("\n"), 1):
        if line.count(".") > _MAX_DOTS:
            raise _fault(kind, str(path), number, "names tables in one another, too deeply")
        for letter in line.partition("#")[0]:
            depth += (letter in "[{") - (letter in "]}")
            if depth > MAX_DEPTH:
                raise _fault(kind, str(path), number, f"is nested more than {MAX_DEPTH} deep")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        said = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", str(error), re.DOTALL)
        last = text.count("\n") + 1  # what has no line is the end of the file
        what = f"is not TOML ({said[1]}, column {said[3]})" if said else f"is not TOML ({error})"
        raise _fault(kind, str(path), int(said[2]) if said else last, what) from error
    except (RecursionError, ValueError, MemoryError, OverflowError) as error:
        long = _LONG_NUMBER.search(text)
        what = "has a number that is too large" if long else f"cannot be read ({type(error).__name__})"
        raise _fault(kind, str(path), long and text.count("\n", 0, long.start()) + 1, what) from error
    if violation := _violation(values, finite=True):
        odd = _ODD_NUMBER.search(bare)
        raise _fault(kind, str(path), odd and bare.count("\n", 0, odd.start()) + 1, violation)
    return values


_JSON_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
_JSON_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[\]{}]|-?Infinity|NaN|-?\d[\d.eE+-]*', re.DOTALL)
_TOML_STRING = re.compile(
    r'"""[^"\\]*(?:(?:\\.|""?(?!"))[^"\\]*)*(?:"""|\Z)|\'\'\'.*?(?:\'\'\'|\Z)'
    r'|"[^"\\\n]*(?:\\.[^"\\\n]*)*(?:"|$)|\'[^\'\n]*(?:\'|$)|#[^\n]*',
    re.DOTALL | re.MULTILINE,
)
_SURROGATE = re.compile("[\ud800-\udfff]")
# Control characters beyond ASCII's (those JSON escapes by itself), separators of lines, marks of direction, half pairs.
_UNSEEN = re.compile("[\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
_MAX_DIGITS = 400  # more than any number of 64 bits has, exponents written out
_LONG_NUMBER = re.compile(rf"\d[\d_]{{{_MAX_DIGITS}}}")
_ODD_NUMBER = re.compile(r"(?<![\w.-])[+-]?(?:inf|nan)(?!\w)|0[xob][\da-fA-F_]{17,}|\d[\d_]{19,}|\de\+?\d{3,}")
_MAX_DOTS = 256


def _read(path: Path, max_bytes: int, kind: type[GanformerError], remedy: str = "") -> bytes:
    try:
        with open_regular(path) as stream:
            data = stream.read(max_bytes + 1)
    except (OSError, ValueError) as error:  # the latter: a name with a zero byte
        reason = error_reason(error) if isinstance(error, OSError) else error
        raise _fault(kind, str(path), None, f"cannot be read ({reason})", remedy) from error
    except MemoryError as error:
        raise _fault(kind, str(path), None, "does not fit into memory", remedy) from error
    if len(data) > max_bytes:
        raise _fault(kind, str(path), None, f"is larger than {max_bytes / MIB:g} MiB", remedy)
    return data


def _decoded(data: bytes, where: str, kind: type[GanformerError], remedy: str = "", first_line: int = 1) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _fault(kind, where, None, "is UTF-16, not UTF-8; save it as UTF-8", remedy)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = first_line + data.count(b"\n", 0, error.start)
        what = f"is not UTF-8 (byte {error.start} is 0x{data[error.start]:02x})"
        raise _fault(kind, where, line, what, remedy) from error


def _fault(kind: type[GanformerError], where: str, line: int | None, what: str, remedy: str = "") -> GanformerError:
    return kind(f"{where}{'' if line is None else f', line {line}'}: {what}{remedy and f'; {remedy}'}")


def _memory(text: bytes | str) -> int:
    """About the bytes that Python needs for the values in JSON text, at most; strings' own letters not counted."""
    if isinstance(text, bytes):
        commas, lists, tables, quotes = (text.count(sign) for sign in (b",", b"[", b"{", b'"'))
    else:
        commas, lists, tables, quotes = (text.count(sign) for sign in ',[{"')
    return 32 * commas + 88 * lists + 232 * tables + 30 * quotes


def _violation(value: Any, finite: bool) -> str | None:
    """What is beyond the limits anywhere in a value, in words; None if nothing is."""
    level, depth = [value], 0
    while level:
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                if not item.isascii() and _SURROGATE.search(item):
                    return "has half of a surrogate pair in a string"
            elif isinstance(item, int):
                if abs(item) > MAX_INTEGER:
                    return "has a number that is too large"
            elif isinstance(item, float):
                if finite and not math.isfinite(item):
                    return "has a number that is not finite"
            elif isinstance(item, dict):
                below.extend(item)
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        level, depth = below, depth + 1
        if depth >= MAX_DEPTH and any(isinstance(item, (dict, list)) for item in level):
            return f"is nested more than {MAX_DEPTH} deep"
    return None


def _first_violation(text: str, finite: bool) -> tuple[str, int] | None:
    """What is beyond the limits first in JSON text, in words, and where."""
    depth = 0
    for match in _JSON_TOKEN.finditer(text):
        token, what = match[0], None
        if token in ("[", "{"):
            depth += 1
            if depth > MAX_DEPTH:
                what = f"is nested more than {MAX_DEPTH} deep"
        elif token in ("]", "}"):
            depth -= 1
        elif not token.startswith('"') and len(token) > _MAX_DIGITS:
            what = "has a number that is too large"
        else:
            with contextlib.suppress(ValueError):
                what = _violation(json.loads(token), finite)
        if what is not None:
            return what, match.start()
    return None
