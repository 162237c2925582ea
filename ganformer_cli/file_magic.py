"""What a file is, by its first bytes: for messages about a file that is not what it should be."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

from ganformer_cli.errors import GanformerError
from ganformer_cli.files import open_regular, parse_json

#: How much of a file is looked at.
HEAD = 4096

_MAGICS = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file (Keras writes models so)",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it first",
    b"Rar!": "a rar archive; unpack it first",
    b"BZh": "a bzip2 archive; unpack it first",
    b"\xfd7zXZ\x00": "an xz archive; unpack it first",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"%PDF": "a PDF document",
    b"\x93NUMPY": "a numpy array (.npy)",
    b"SQLite format 3": "an SQLite database",
    b"GGUF": "a GGUF language model",
    b"\x7fELF": "a program",
    b"MZ": "a program",
}
#: How torch.save began a file before it wrote zip archives: the pickle of a number.
_LEGACY_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def kind_of_file(path: Path) -> str | None:
    """What ``path`` is, with its article, where it is something that people have instead of a model; None if not known.

    A pickle and a safetensors file are None: they may be a model.
    """
    try:
        with open_regular(path) as file:
            head = file.read(HEAD)
    except (OSError, GanformerError):
        return None
    return kind_of_bytes(head) or _kind_of_zip(path, head)


def kind_of_bytes(head: bytes) -> str | None:
    """The same by the first bytes alone."""
    if not head:
        return "an empty file"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text[:1] == b"<":
        return (
            "a web page (the download gave a warning or an error page, not the file: open the link in a browser and "
            "download it by hand)"
        )
    if head.startswith(b"version https://git-lfs.github.com/"):
        return "a Git LFS pointer, which stands for the file (fetch that with git lfs pull, or download it by hand)"
    if head[2:].startswith(_LEGACY_TORCH):
        return "a file of torch.save (.pt, .pth) by another program"
    for magic, kind in _MAGICS.items():
        if head.startswith(magic):
            return kind
    # A protobuf: the version of the format, then who made it or the graph.
    if head[:1] == b"\x08" and any(word in head.lower() for word in (b"pytorch", b"onnx", b"keras")):
        return "an ONNX model of another program"
    if head.startswith(b"PK") or b"\x00" in head:
        return None
    try:
        head.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return "a text file"


def _kind_of_zip(path: Path, head: bytes) -> str | None:
    if not head.startswith(b"PK"):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return "the beginning of a zip archive, which ends too early: download it again"
    if any(name.endswith("/data.pkl") for name in names):
        if any("/code/" in name for name in names):
            return "a TorchScript model (torch.jit.save) of another program"
        return "a file of torch.save (.pt, .pth) by another program"
    if any(name.endswith(".npy") for name in names):
        return "a file of numpy arrays (.npz)"
    if any(name.endswith((".pkl", ".safetensors")) for name in names):
        return "a zip archive that holds a model: unpack it first"
    return "a zip archive"


def is_truncated_safetensors(path: Path) -> bool:
    """Whether ``path`` begins as a safetensors file does and is shorter than it says."""
    try:
        size = path.stat().st_size
        with open_regular(path) as file:
            head = file.read(9)
            if len(head) < 9 or head[8:] != b"{":
                return False
            (length,) = struct.unpack("<Q", head[:8])
            if length > 100_000_000:
                return False
            if size < 8 + length:
                return True
            file.seek(8)
            header = file.read(length)
    except (OSError, GanformerError):
        return False
    try:
        entries = parse_json(header, str(path))
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
        return size < 8 + length + max(ends, default=0)
    except (GanformerError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        return False
