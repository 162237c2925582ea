"""The headers of our model files, read without torch.

A model file is safetensors; its header's metadata entry ``ganformer`` is a JSON object with the whole configuration.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from ganformer_cli.config import ModelConfig
from ganformer_cli.errors import ConfigError, SnapshotError
from ganformer_cli.file_magic import is_truncated_safetensors, kind_of_file
from ganformer_cli.files import error_reason, open_regular, parse_json
from ganformer_cli.text import printable

if TYPE_CHECKING:
    from ganformer_cli.models import LabelDistribution

FORMAT_VERSION = 1
MAX_HEADER = 16 << 20  # bytes: the names of 65,536 classes take some
MAX_TENSORS = 20_000
METADATA_KEY = "ganformer"
LABELS = "labels"  # entry of the header, and prefix of tensors: see models.labels
#: Last part of the names of tensors that are not trained.
BUFFERS = frozenset({"w_avg", "noise_const", "codebook", "counts", "totals", "transformer_steps"})


class NewerError(SnapshotError):
    """A file that a newer version wrote."""


@contextlib.contextmanager
def opened(path: Path, framework: str = "np") -> Iterator[Any]:
    """safetensors' reader of a file, after checks of the sizes that its header claims: it is read as a whole.

    Args:
        framework: what ``get_tensor`` of the reader gives, ``np`` or ``pt``; only the latter loads torch.

    Raises:
        SnapshotError: the header or the number of tensors is larger than in any of our files.
        SafetensorError, OSError: not a safetensors file, or not readable.
    """
    with open_regular(path) as stream:
        length = int.from_bytes(stream.read(8), "little")
        if MAX_HEADER < length < stream.seek(0, os.SEEK_END):
            raise SnapshotError(f"{path}: its header is larger than {MAX_HEADER >> 20} MiB; give another snapshot")
    try:
        reader = safe_open(path, framework=framework)
    except RuntimeError as error:  # of torch, which opens the file itself
        raise OSError(str(error)) from error
    with reader as file:
        if (count := len(file.keys())) > MAX_TENSORS:
            raise SnapshotError(f"{path}: holds {count} tensors, more than any network here; give another snapshot")
        yield file


def read_header(path: Path) -> dict[str, Any]:
    """The JSON header of one of our files.

    Raises:
        SnapshotError: the file is damaged, or not one of ours.
    """
    try:
        with opened(path) as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise SnapshotError(f"{path}: {_why_unreadable(path, error)}") from error
    if METADATA_KEY not in metadata:
        some = printable(", ".join(sorted(read_shapes(path))[:3]) or "none", limit=200)
        raise SnapshotError(
            f"{path}: holds no ganformer configuration: a safetensors file of another program, with tensors such as "
            f"{some}; give one that ganformer wrote"
        )
    text, where = metadata[METADATA_KEY], f"{path}: its header"
    header = parse_json(text, where, kind=SnapshotError, remedy="give another snapshot")
    if not isinstance(header, dict) or type(header.get("format")) is not int or header["format"] < 1:
        raise SnapshotError(f"{path}: its ganformer header is damaged; give another snapshot")
    if header["format"] > FORMAT_VERSION:
        raise NewerError(
            f"{path}: written by a newer ganformer (format {header['format']}, this one reads {FORMAT_VERSION}); "
            "install the newer version"
        )
    return header


def _why_unreadable(path: Path, error: Exception) -> str:
    """Why a file is not a readable safetensors file, and what it is instead."""
    kind = kind_of_file(path)
    if kind is not None:
        return f"not a model of ganformer's but {kind}. Give a .safetensors file or a snapshot of the authors' (.pkl)"
    if is_truncated_safetensors(path):
        return f"not a readable safetensors file, truncated ({error}): copy or download it again"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error_reason(error)}); check the path"
    return f"not a readable safetensors file ({error}); it is damaged, or something else"


def read_config(path: Path) -> ModelConfig:
    """The configuration of the networks in a model file.

    Raises:
        SnapshotError: it is damaged, missing, or describes networks that cannot be built.
    """
    config = read_header(path).get("config")
    if not isinstance(config, dict):
        raise SnapshotError(f"{path}: no network configuration in its header; give a model snapshot")
    try:
        return ModelConfig.from_dict(config, where=str(path))
    except ConfigError as error:
        raise SnapshotError(f"{path}: the configuration in its header does not fit: {error}") from error


def read_shapes(path: Path, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors whose names begin with ``prefix``, under their names without it.

    Raises:
        SnapshotError: the file is damaged.
    """
    try:
        with opened(path) as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118  # not a dict
            return {name[len(prefix) :]: tuple(file.get_slice(name).get_shape()) for name in names}
    except (SafetensorError, OSError) as error:
        raise SnapshotError(f"{path}: cannot be read ({error}); copy or download it again") from error


def parameter_counts(path: Path) -> dict[str, int]:
    """The parameters of each network (``ema``, ``generator``, ``discriminator``) in a model file.

    Raises:
        SnapshotError: the file is damaged.
    """
    counts: dict[str, int] = {}
    for name, shape in read_shapes(path).items():
        network, _, rest = name.partition(".")
        counts.setdefault(network, 0)
        counts[network] += math.prod(shape) if rest.rpartition(".")[2] not in BUFFERS else 0
    return counts


def read_label_distribution(path: Path, config: ModelConfig) -> LabelDistribution | None:
    """The labels that a model file keeps, or None.

    Raises:
        SnapshotError: they are damaged.
    """
    header, names = read_header(path).get(LABELS), read_shapes(path, f"{LABELS}.")
    if not names and header is None:
        return None
    from ganformer_cli.models.labels import LabelDistribution  # loads numpy

    try:
        with opened(path) as file:
            arrays = {f"{LABELS}.{name}": file.get_tensor(f"{LABELS}.{name}") for name in names}
        return LabelDistribution.from_file(arrays, header, config.c_dim)
    except (SafetensorError, OSError) as error:
        raise SnapshotError(f"{path}: cannot be read ({error}); copy or download it again") from error
    except (ValueError, TypeError, AttributeError) as error:  # the last two: types that numpy lacks
        raise SnapshotError(f"{path}: the labels that it keeps are damaged ({error}); give another snapshot") from error
