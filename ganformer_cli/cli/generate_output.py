"""Where ``ganformer generate`` puts its pictures: names, what lies there already, writing behind the drawing.

A picture says in its file which model, seed and settings made it. So the same command goes on where it was cut off:
what it has made is kept. What anybody else has put there stops it before it begins.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from ganformer_cli.cli.options import warn
from ganformer_cli.errors import OutputError
from ganformer_cli.files import atomic_open, remove
from ganformer_cli.npy_header import check_npy

if TYPE_CHECKING:
    import numpy.typing as npt

#: More pictures than this lie in sub-folders of ``IN_FOLDER``: a folder of a million files is slow everywhere.
MOST_IN_FOLDER = 10_000
IN_FOLDER = 1000
IMAGES_FILE = "images.npy"
#: Which picture each row of ``IMAGES_FILE`` is.
ROWS_FILE = "images.json"
LATENTS_FILE = "latents.npy"
GRID_FILE = "grid.png"
TRUNCATION_FILE = "truncation.png"
#: Behind the name of the folder of images: the folder of sheets, maps and films that are drawn of them.
SHEETS = "-sheets"

#: What an image says of its model for people: the run folder's name and the file's. The checksum says which it is.
MODEL_NAMES = ("run", "file")
#: Names that say enough: pictures, what belongs to one, and the folders of many.
_OUR_NAMES = re.compile(r"(seed|image)\d{4,}(-[^/\\]+)?\.\w+|\d{6}|interpolation[\w.-]*|disentanglement\.\w+")
_OUR_ARRAYS = {IMAGES_FILE, ROWS_FILE, LATENTS_FILE}
#: Left by the system in every folder.
_LITTER = {"thumbs.db", "desktop.ini"}
#: What is half written: ``.NAME.XXXXXXXX.part``.
_PART = re.compile(r"\.(?P<name>.+)\.[^.]+\.part")


class Picture(NamedTuple):
    """One picture to be made."""

    place: int  # among all
    number: int  # its seed; of given latents its row
    psi: float
    stem: str  # of its files' names
    file: Path


@dataclass(frozen=True)
class Plan:
    """All pictures of a command: every seed, or row of given latents, with the first psi, then with the next one."""

    folder: Path
    format: str  # png, jpg, webp or npy
    numbers: Sequence[int]
    psis: tuple[float, ...]
    settings: Mapping[str, Any]  # what all pictures share: the model, ...
    latents: npt.NDArray[Any] | None = None
    sheets_dir: Path | None = None  # None: beside the folder, see :attr:`sheets`

    def __len__(self) -> int:
        return len(self.numbers) * len(self.psis)

    @property
    def in_folders(self) -> bool:
        """Whether the pictures lie in sub-folders."""
        return len(self) > MOST_IN_FOLDER

    @property
    def folders(self) -> list[Path]:
        """The sub-folders."""
        return [self.picture(index).file.parent for index in range(0, len(self), IN_FOLDER)]

    @property
    def sheets(self) -> Path:
        """The folder of everything that is drawn of the images: it is no image of the model's.

        It lies beside the folder of the images, not in it, because other programs take every image of a folder, many
        of them with all below it.
        """
        if self.sheets_dir is not None:
            return self.sheets_dir
        folder = self.folder if self.folder.name not in ("", "..") else self.folder.resolve()
        return folder.with_name(f"{folder.name}{SHEETS}") if folder.name else folder / SHEETS.lstrip("-")

    def sheet_folder(self, picture: Picture) -> Path:
        """The folder of what is drawn of one image."""
        return self.sheets / picture.file.parent.name if self.in_folders and self.format != "npy" else self.sheets

    def picture(self, index: int) -> Picture:
        """One of all."""
        turn, place = divmod(index, len(self.numbers))
        number, psi = self.numbers[place], self.psis[turn]
        stem = f"{'seed' if self.latents is None else 'image'}{number:04d}"
        if len(self.psis) > 1:
            short = f"{psi:g}"
            stem += f"-psi{short if float(short) == psi else psi}"
        folder = self.folder / f"{index // IN_FOLDER:06d}" if self.in_folders else self.folder
        file = self.folder / IMAGES_FILE if self.format == "npy" else folder / f"{stem}.{self.format}"
        return Picture(index, number, psi, stem, file)

    def about(self, picture: Picture) -> dict[str, Any]:
        """What a picture says of itself."""
        return {**self.settings, "truncation_psi": picture.psi, **self._source(picture.number)}

    def about_all(self, **figure: Any) -> dict[str, Any]:
        """What a sheet of several pictures says of itself: which ones, as a checksum."""
        digest = hashlib.sha256()
        for number in self.numbers:
            digest.update(repr(self._source(number)).encode())
        psi = self.psis[0] if len(self.psis) == 1 else list(self.psis)
        return {**self.settings, "truncation_psi": psi, "pictures": digest.hexdigest()[:16], **figure}

    def _source(self, number: int) -> dict[str, Any]:
        if self.latents is None:
            return {"seed": number}
        return {"row": number, "latents": hashlib.sha256(self.latents[number].tobytes()).hexdigest()[:16]}


class Kept:
    """What of a plan is there already.

    Args:
        plan: what is to be made.
        beside: what else belongs to a picture, by the end of its file's name, and what that says of itself beside what
            the picture says.
        overwrite: replace what is in the way, instead of complaining.
        update: called now and then with how many pictures have been looked for.

    Raises:
        OutputError: something else is in the way, or the folder holds what is not ganformer's.
    """

    def __init__(
        self,
        plan: Plan,
        beside: Mapping[str, Mapping[str, Any]],
        *,
        overwrite: bool,
        update: Callable[[int], None] | None = None,
    ) -> None:
        self.plan, self._beside, self._overwrite = plan, beside, overwrite
        self._listings: dict[Path, _Listing] = {}  # of the folders looked at last
        if not overwrite:
            refuse_strangers(plan.folder, "--output-dir")
        #: For each picture, whether all that belongs to it is there.
        self.done = bytearray(len(plan))
        if plan.folder.is_dir() or (beside and plan.sheets.is_dir()):
            for index in range(len(plan)):
                # Of one array no picture is there for itself, though sheets beside it may be in the way.
                self.done[index] = self._is_done(plan.picture(index)) and plan.format != "npy"
                if update is not None and index % IN_FOLDER == 0:
                    update(index)

    def __len__(self) -> int:
        return sum(self.done)

    def holds(self, path: Path, about: Mapping[str, Any]) -> bool:
        """Whether this very sheet is there.

        Raises:
            OutputError: another one is in its way.
        """
        from ganformer_cli.sampling.image_files import read_metadata

        if not path.exists():
            return False
        found = read_metadata(path)
        same = found is not None and without_names(found) == without_names(about)
        if not same and not self._overwrite:
            raise OutputError(taken(path, _difference(found, about)))
        return same

    def _is_done(self, picture: Picture) -> bool:
        about = self.plan.about(picture)
        files = [] if self.plan.format == "npy" else [(picture.file, about)]
        sheets = self.plan.sheet_folder(picture)
        files += [(sheets / f"{picture.stem}{end}", {**about, **more}) for end, more in self._beside.items()]
        there = []
        for path, said in files:
            listing = self._list(path.parent)
            for part in listing.parts.get(path.name, ()):  # half written by a command that was killed
                remove(path.parent / part, warn=warn)
            # All are looked at, so that whatever is in the way is found before anything is drawn.
            there.append(path.name in listing.names and self.holds(path, said))
        return all(there)

    def _list(self, folder: Path) -> _Listing:
        """What is in a folder; those looked at last are remembered."""
        if folder not in self._listings:
            if len(self._listings) > 1:
                self._listings.pop(next(iter(self._listings)))
            self._listings[folder] = _Listing(folder)
        return self._listings[folder]


class _Listing:
    """The names in a folder, and by name what is half written of it."""

    def __init__(self, folder: Path) -> None:
        self.names = set(os.listdir(folder)) if folder.is_dir() else set()
        self.parts: dict[str, list[str]] = {}
        for name in self.names:
            if part := _PART.fullmatch(name):
                self.parts.setdefault(part["name"], []).append(name)


def refuse_strangers(folder: Path, option: str) -> None:
    """Raise OutputError, which names ``option``, if a folder holds what ganformer has not made."""
    from ganformer_cli.sampling.image_files import read_metadata

    if not folder.is_dir():
        return
    for name in sorted(os.listdir(folder)):
        if not _is_ours(name) and read_metadata(folder / name) is None:
            raise OutputError(
                f"{option} {folder}: holds other files, such as {name}; choose an empty folder, or say --overwrite "
                "to write beside them all the same"
            )


def _is_ours(name: str) -> bool:
    return name in _OUR_ARRAYS or name.startswith(".") or name.lower() in _LITTER or bool(_OUR_NAMES.fullmatch(name))


def without_names(about: Mapping[str, Any]) -> dict[str, Any]:
    """What decides how an image looks: its model's checksum does, the names of run and file may change."""
    return {name: value for name, value in about.items() if name not in MODEL_NAMES}


def _difference(found: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> str:
    """How what lies there differs from what is wanted."""
    if found is None:
        return "holds something that ganformer did not make, or that is damaged"
    names = [name for name in without_names({**wanted, **found}) if found.get(name) != wanted.get(name)]
    known = {"model": "the model", "latents": "the latents", "pictures": "the choice of pictures"}
    said = [
        known.get(name) or f"{name.replace('_', ' ')} {_said(found.get(name))} instead of {_said(wanted.get(name))}"
        for name in names
    ]
    return f"holds a picture that was made otherwise ({', '.join(said)})"


def _said(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


class Writer:
    """Encodes and writes in other threads while the next pictures are drawn; what waits is bounded.

    As a context manager it waits for everything at the end, and raises what went wrong.
    """

    def __init__(self) -> None:
        threads = max(1, min(8, (os.cpu_count() or 1) - 1))
        self._pool = ThreadPoolExecutor(threads)
        self._most = 4 * threads
        self._waiting: deque[Future[None]] = deque()

    def submit(self, function: Callable[..., None], *args: Any) -> None:
        """Call ``function(*args)`` soon; raises what an earlier one has raised."""
        self._waiting.append(self._pool.submit(function, *args))
        while len(self._waiting) > self._most:
            self._waiting.popleft().result()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while error is None and self._waiting:
                self._waiting.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def array_file(path: Path, shape: Sequence[int]) -> Iterator[Callable[[npt.NDArray[Any]], None]]:
    """A ``.npy`` file of float32 ``shape``, whole or not at all: gives a function that appends a part of it."""
    import numpy as np

    for name in _Listing(path.parent).parts.get(path.name, ()):  # half written by a command that was killed
        remove(path.parent / name, warn=warn)
    with atomic_open(path) as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_1_0(stream, header)

        def append(part: npt.NDArray[Any]) -> None:
            stream.write(part.astype("<f4").tobytes())

        yield append


def holds_array(path: Path, shape: Sequence[int], rows: Iterable[npt.NDArray[Any]]) -> bool:
    """Whether a ``.npy`` file is this very float32 array."""
    import numpy as np

    try:
        check_npy(path)
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    if not isinstance(found, np.ndarray) or found.dtype != np.float32 or found.shape != tuple(shape):
        return False
    return all(np.array_equal(one, np.asarray(other, np.float32)) for one, other in zip(found, rows, strict=True))


def taken(path: Path, why: str) -> str:
    """What to say of a file that is in the way."""
    return f"{path}: {why}; choose another --output-dir, or say --overwrite to replace it"
