"""Our model files: safetensors in, safetensors out, strict.

One file holds the EMA generator (``ema.*``), the generator (``generator.*``) and the discriminator
(``discriminator.*``); its header's metadata entry ``ganformer`` is a JSON object with the whole configuration.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ganformer_cli.config import ModelConfig
from ganformer_cli.errors import ConfigError, SnapshotError
from ganformer_cli.file_magic import is_truncated_safetensors, kind_of_file
from ganformer_cli.files import open_regular, parse_json, why_no_file, write_bytes
from ganformer_cli.models import Discriminator, Generator, LabelDistribution
from ganformer_cli.models.labels import HEADER as LABELS_HEADER
from ganformer_cli.text import printable

Network = TypeVar("Network", Generator, Discriminator)

FORMAT_VERSION = 1
MAX_HEADER = 16 << 20  # bytes: the names of 65,536 classes take some
MAX_TENSORS = 20_000
METADATA_KEY = "ganformer"
SNAPSHOT_FOLDER = "snapshots"
SNAPSHOT_PATTERN = "network-snapshot-*.safetensors"

_SNAPSHOT_NAME = re.compile(r"network-snapshot-(\d{1,15})(?:_(\d{3}))?\.safetensors")


class NewerError(SnapshotError):
    """A file that a newer version wrote."""


def kimg_in_name(kimg: float) -> str:
    """``kimg`` thousand images in a file name: ``000012``, or to the image ``000012_345``.

    No two numbers of images share a name, and names that are sorted as text are sorted by number.
    """
    thousands, rest = divmod(round(kimg * 1000), 1000)
    return f"{thousands:06d}_{rest:03d}" if rest else f"{thousands:06d}"


def snapshot_name(kimg: float) -> str:
    """File name of the snapshot taken after ``kimg`` thousand images."""
    return f"network-snapshot-{kimg_in_name(kimg)}.safetensors"


def images_in_name(path: Path) -> int | None:
    """How many images the file name of a snapshot says; None where a user has named it.

    Names of earlier versions said whole thousands only.
    """
    match = _SNAPSHOT_NAME.fullmatch(path.name)
    return int(match[1]) * 1000 + int(match[2] or 0) if match else None


def snapshots_of(run: Path) -> list[Path]:
    """The snapshots of a run folder, oldest first; those that a user has named come before all others."""

    def order(path: Path) -> tuple[int, str]:
        images = images_in_name(path)
        return -1 if images is None else images, path.name

    return sorted((run / SNAPSHOT_FOLDER).glob(SNAPSHOT_PATTERN), key=order)


def resolve_model(path: str | Path, option: str = "--model") -> Path:
    """The model file that ``path``, given with ``option``, means: itself, or the newest snapshot of a run folder.

    Raises:
        SnapshotError: there is none.
    """
    path = Path(path)
    if path.is_dir():
        found = snapshots_of(path)
        if not found:
            raise SnapshotError(
                f"{option} {path}: no snapshot in {path / SNAPSHOT_FOLDER}; give a run folder or a file"
            )
        return found[-1]
    if why := why_no_file(path):
        why = ": no such file or run folder" if why == "does not exist" else f" {why}"
        raise SnapshotError(f"{option} {path}{why}; give one, for example results/NAME-000")
    return path


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and a JSON header to ``path``, whole or not at all.

    Raises:
        OutputError: the place cannot be written to.
    """
    flat = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    header = {METADATA_KEY: json.dumps({"format": FORMAT_VERSION, **metadata}, ensure_ascii=False)}
    write_bytes(path, save(flat, metadata=header))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file. Its header is read as a whole, and may say that it is of any length."""
    with open_regular(path) as stream:
        length = int.from_bytes(stream.read(8), "little")
        if MAX_HEADER < length < stream.seek(0, os.SEEK_END):
            raise SnapshotError(f"{path}: its header is larger than {MAX_HEADER >> 20} MiB; give another snapshot")
    with safe_open(path, framework="pt") as file:
        if (count := len(file.keys())) > MAX_TENSORS:
            raise SnapshotError(f"{path}: holds {count} tensors, more than any network here; give another snapshot")
        yield file


def read_header(path: Path) -> dict[str, Any]:
    """The JSON header of one of our files.

    Raises:
        SnapshotError: the file is damaged, or not one of ours.
    """
    try:
        with _opened(path) as file:
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
    """Why a file is no safetensors file, and what it is instead."""
    kind = kind_of_file(path)
    if kind is not None:
        return f"not a model of ganformer's but {kind}. Give a .safetensors file or a snapshot of the authors' (.pkl)"
    if is_truncated_safetensors(path):
        return f"not a readable safetensors file, truncated ({error}): copy or download it again"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror}); check the path"
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


def read_tensors(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, under their names without it, in memory of their own.

    None is a view of the file, which Windows would not let anybody replace or delete then.

    Raises:
        SnapshotError: the file is damaged.
    """
    try:
        with _opened(path) as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118  # not a dict
            return {name[len(prefix) :]: file.get_tensor(name).clone() for name in names}
    except (SafetensorError, OSError) as error:
        raise SnapshotError(f"{path}: cannot be read ({error}); copy or download it again") from error


def read_shapes(path: Path, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors that ``read_tensors`` would give, without reading them.

    Raises:
        SnapshotError: the file is damaged.
    """
    try:
        with _opened(path) as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118  # not a dict
            return {name[len(prefix) :]: tuple(file.get_slice(name).get_shape()) for name in names}
    except (SafetensorError, OSError) as error:
        raise SnapshotError(f"{path}: cannot be read ({error}); copy or download it again") from error


def check_fit(module: nn.Module, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Check that tensors of these ``shapes`` are exactly the state of ``module``, which may be on the meta device.

    Raises:
        SnapshotError: they are not; every missing, surplus and misshapen one is named.
    """
    own = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    problems = [
        _listing("missing", sorted(set(own) - set(shapes))),
        _listing("surplus", sorted(set(shapes) - set(own))),
        _listing(
            "of another shape",
            [
                f"{name} {list(shapes[name])} instead of {list(own[name])}"
                for name in sorted(set(own) & set(shapes))
                if shapes[name] != own[name]
            ],
        ),
    ]
    found = "; ".join(problem for problem in problems if problem)
    if found:
        raise SnapshotError(f"{where}: a snapshot of another architecture: {found}; give one that fits")


def _listing(what: str, names: list[str]) -> str:
    if not names:
        return ""
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"{what}: {shown}"


def save_snapshot(
    path: Path,
    *,
    config: ModelConfig,
    ema: Generator,
    generator: Generator | None,
    discriminator: Discriminator | None,
    kimg: float | None,
    provenance: Mapping[str, Any],
) -> None:
    """Write the networks and their configuration to ``path``, whole or not at all.

    Args:
        path: the file.
        config: of the networks.
        ema: the averaged generator, the one to sample from; the labels that it knows are kept, too.
        generator: the generator being trained, or None to leave it out.
        discriminator: its adversary, or None to leave it out.
        kimg: thousands of real images shown so far; None where nobody knows.
        provenance: further JSON values for the header, such as ``dataset`` and ``version``.
    """
    tensors = {
        f"{name}.{key}": value
        for name, module in (("ema", ema), ("generator", generator), ("discriminator", discriminator))
        if module is not None
        for key, value in module.state_dict().items()
    }
    header: dict[str, Any] = {"config": config.to_dict(), "kimg": kimg, **provenance}
    labels = ema.label_distribution
    if labels is not None:
        tensors |= labels.tensors()
        header[LABELS_HEADER] = labels.header()
    save_tensors(path, tensors, header)


def load_networks(path: Path, networks: Mapping[str, nn.Module]) -> None:
    """Load networks by their names in the file: ``ema``, ``generator``, ``discriminator``.

    Raises:
        SnapshotError: the file is damaged or of another architecture.
    """
    for name, module in networks.items():
        check_fit(module, read_shapes(path, f"{name}."), f"{path} ({name})")
        module.load_state_dict(read_tensors(path, f"{name}."))


def load_available(path: Path) -> tuple[Generator, Generator | None, Discriminator | None]:
    """The averaged generator, and the generator and the discriminator if the file holds them; on the CPU.

    Raises:
        SnapshotError: it is damaged, or of another architecture.
    """
    config = read_config(path)
    present = [name for name in ("generator", "discriminator") if read_shapes(path, f"{name}.")]
    ema = _load_network(path, "ema", Generator, config)
    generator = _load_network(path, "generator", Generator, config) if "generator" in present else None
    discriminator = _load_network(path, "discriminator", Discriminator, config) if "discriminator" in present else None
    return ema, generator, discriminator


def _load_network(path: Path, name: str, kind: type[Network], config: ModelConfig) -> Network:
    """One network of a file, on the CPU, in evaluation mode."""
    # First without memory: a header may describe networks far larger than what the file holds.
    with torch.device("meta"):
        check_fit(kind(config), read_shapes(path, f"{name}."), f"{path} ({name})")
    network = kind(config)
    network.load_state_dict(read_tensors(path, f"{name}."))
    if isinstance(network, Generator):
        network.label_distribution = read_label_distribution(path, config)
    return network.eval().requires_grad_(False)


def read_label_distribution(path: Path, config: ModelConfig) -> LabelDistribution | None:
    """The labels that a model file keeps; None where it keeps none.

    Raises:
        SnapshotError: they are damaged.
    """
    tensors, header = read_tensors(path, "labels."), read_header(path).get(LABELS_HEADER)
    if not tensors and header is None:
        return None
    try:
        named = {f"labels.{name}": tensor for name, tensor in tensors.items()}
        return LabelDistribution.from_file(named, header, config.c_dim)
    except ValueError as error:
        raise SnapshotError(f"{path}: the labels that it keeps are damaged ({error}); give another snapshot") from error


def load_generator(path: str | Path, device: str | torch.device = "cpu", which: str = "ema") -> Generator:
    """A generator ready to sample from, in evaluation mode.

    Args:
        path: a model file, or a run folder (its newest snapshot).
        device: where to put it.
        which: ``ema`` (the averaged one) or ``generator``.

    Raises:
        SnapshotError: no such file, a damaged one, or one of another architecture.
    """
    file = resolve_model(path)
    return _load_network(file, which, Generator, read_config(file)).to(device)
