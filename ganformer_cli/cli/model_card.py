"""``MODEL.md``, the card of a model: where it lies, what goes into it, and when it may be replaced."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ganformer_cli.cli.kept_scores import snapshot_scores
from ganformer_cli.cli.model_card_text import Card, card_text, owner_of_card, without_markup
from ganformer_cli.cli.model_choice import model_name, run_of
from ganformer_cli.cli.options import combined, option, path_option
from ganformer_cli.config import NOT_OF_VQGAN
from ganformer_cli.errors import ConfigError, DataError, GanformerError, OutputError
from ganformer_cli.files import error_reason, read_regular, write_bytes

CARD = "MODEL.md"
#: Kinds of images that a card may show.
SAMPLE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif"})
#: A licence as the Hub names it, such as ``cc-by-nc-sa-4.0``.
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
#: Settings of a run that a card lists, where the run's configuration is there.
_SETTINGS = (
    "batch_size", "g_lr", "d_lr", "gamma", "pl_weight", "style_mixing", "ema_kimg", "precision", "augment",
    "mirror_augment", "labels", "seed", "total_kimg",
)  # fmt: skip
_VQGAN_SETTINGS = ("vq_stage", "vq_kimg", "vq_warmup_kimg", "vq_gan_weight", "commitment", "transformer_lr")


def check_licence(licence: str | None) -> str | None:
    """``--licence`` in lower case.

    Raises:
        ConfigError: it is no identifier.
    """
    if licence is None:
        return None
    if not _LICENCE.fullmatch(licence.lower()):
        raise ConfigError(
            f"--licence {licence}: not a licence as the Hugging Face Hub names them; write, for example, apache-2.0, "
            "cc-by-nc-4.0 or other"
        )
    return licence.lower()


#: ``--samples`` and ``--licence``, as parameters ``samples`` and ``licence``.
card_options = combined(
    path_option(
        "--samples",
        multiple=True,
        metavar="IMAGE",
        group="Model card",
        help="An image for the card; may be given several times.  [default: the grids of the snapshot in its run]",
    ),
    option(
        "--licence",
        "--license",
        metavar="NAME",
        group="Model card",
        help="Licence of the model, as the Hugging Face Hub names it, such as apache-2.0.  [default: what is recorded]",
    ),
)


def write_card_of(
    file: Path, record: Mapping[str, Any], samples: Sequence[Path], licence: str | None, *, overwrite: bool
) -> Path:
    """Write the card of a model file; where it was written.

    Raises:
        OutputError: somebody has edited the card that is there, or it cannot be written.
        DataError, ConfigError: a sample or the licence is invalid.
    """
    licence = check_licence(licence)
    path = card_path(file)
    check_card(path, model_name(file), overwrite=overwrite)
    links = relative_links(card_images(file, samples), path.parent)
    write_bytes(path, make_card(file, record, links, licence=licence).encode())
    return path


def card_path(file: Path) -> Path:
    """Where the card of a model file belongs: in its run, else beside it."""
    return (run_of(file) or file.parent) / CARD


def card_images(file: Path, given: Sequence[Path]) -> list[Path]:
    """The images for a card: those that were ``given``, else the grids of the snapshot's run.

    Raises:
        DataError: one of them is not there, or no image.
    """
    for path in given:
        if path.suffix.lower() not in SAMPLE_SUFFIXES or not path.is_file():
            raise DataError(f"--samples {path}: no such image; give PNG, JPEG, WebP or GIF files")
    if given:
        return list(given)
    from ganformer_cli.checkpoints.run_folder import SAMPLE_FOLDER, images_in_name, kimg_in_name

    run, images = run_of(file), images_in_name(file)
    if run is None or images is None:
        return []
    grids = (run / SAMPLE_FOLDER / f"{kind}-{kimg_in_name(images / 1000)}.png" for kind in ("fakes", "attention"))
    return [path for path in grids if path.is_file()]


def run_settings(file: Path) -> dict[str, Any]:
    """The settings of the run that a snapshot lies in, those that a card lists; none if it lies in no run."""
    from ganformer_cli.checkpoints.run_folder import read_run_config

    run = run_of(file)
    if run is None:
        return {}
    try:
        config = read_run_config(run)
    except GanformerError:
        return {}
    names: Sequence[str] = _SETTINGS
    if config.model.vqgan:
        names = [name for name in _SETTINGS if name not in NOT_OF_VQGAN] + list(_VQGAN_SETTINGS)
    train = config.train.to_dict()
    return {name: train[name] for name in names if train.get(name) is not None}


def make_card(
    file: Path, record: Mapping[str, Any], links: Sequence[str], *, licence: str | None, address: str | None = None
) -> str:
    """The card of a model file.

    Args:
        file: the model.
        record: of ``ganformer info``.
        links: to its sample images, as Markdown has them.
        licence: of the model, as the Hub names it, if the user says it.
        address: how ``--model`` names the model for those who read the card; None: by its file name.
    """
    name = model_name(file)
    shown = {link: "attention maps" if "attention" in link.rpartition("/")[2] else "samples" for link in links}
    return card_text(
        record,
        Card(name, address or file.name, snapshot_scores(file, record["sha256"]), run_settings(file), shown, licence),
    )


def relative_links(images: Sequence[Path], folder: Path) -> list[str]:
    """Links to images from a card in ``folder``.

    Raises:
        OutputError: an image lies on another drive.
    """
    try:
        return [Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix() for path in images]
    except ValueError as error:
        raise OutputError(f"--samples: {error}; copy the images next to the model") from error


def check_card(path: Path, name: str, *, overwrite: bool) -> None:
    """Refuse to replace a card that somebody has edited, or that belongs to another model.

    Raises:
        OutputError: so it is, and ``overwrite`` was not said.
    """
    if overwrite or not path.exists():
        return
    remedy = "rename it, or --overwrite to replace it"
    owner, edited = owner_of_card(read_card(path))
    if owner is None or edited:
        raise OutputError(f"{path}: was written or edited by hand; {remedy}")
    if owner != without_markup(name):
        raise OutputError(f"{path}: is the card of another model, {owner}; {remedy}")


def read_card(path: Path) -> str:
    """The text of a card.

    Raises:
        OutputError: it cannot be read.
    """
    try:
        return read_regular(path).decode("utf-8", "replace").replace("\r\n", "\n")
    except OSError as error:
        raise OutputError(f"{path}: cannot be read ({error_reason(error)}); remove or rename it") from error
