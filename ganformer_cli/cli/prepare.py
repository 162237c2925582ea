"""``ganformer prepare``: pictures from a folder or a zip, made into a data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ganformer_cli.cli.options import GroupedCommand, boolean_option, json_option, not_yet_option, option
from ganformer_cli.cli.progress import Progress
from ganformer_cli.errors import ConfigError, NotYetError

if TYPE_CHECKING:
    from ganformer_cli.data.prepare import Prepared

CATALOGUE = ("ffhq", "cityscapes", "clevr", "bedrooms")  # flags of the authors' script
SUFFIXES = {"png": frozenset({".png"}), "jpg": frozenset({".jpg", ".jpeg"})}
OTHER_FORMATS = ("npy", "hdf5", "tfds", "lmdb", "tfrecords")
SKIPPED_SHOWN = 5


def catalogue_options(function: Any) -> Any:
    """A flag for each known data set, ``--ffhq`` and so on; those given come as the tuple ``wanted``."""
    for name in reversed(CATALOGUE):
        function = option(
            f"--{name}", "wanted", flag_value=name, multiple=True, group="Known data sets", rare=True, default=(),
            help=f"Download {name} and prepare it (not yet).",
        )(function)  # fmt: skip
    return function


@click.command("prepare", cls=GroupedCommand)
@click.argument("sources", nargs=-1, metavar="SOURCE")
@option("--images-dir", metavar="DIR", group="Source", rare=True, help="Another way to name SOURCE.")
@option("--max-images", type=click.IntRange(min=1), group="Source", help="Stop after so many pictures.")
@option(
    "--format", "form", type=click.Choice([*SUFFIXES, *OTHER_FORMATS]), group="Source",
    help="Take pictures of this format only; left out, any that can be read. Others than png and jpg: not yet.",
)  # fmt: skip
@boolean_option("--strict", default=False, group="Source", help="A picture that cannot be used is an error.")
@option(
    "--name", "--task", metavar="NAME", group="Data set",
    help="What to call the data set. Left out: as the source is called.",
)  # fmt: skip
@option(
    "--data-dir", type=click.Path(path_type=Path), default=Path("datasets"), group="Data set",
    help="Folder that holds the data sets.",
)  # fmt: skip
@option(
    "--resolution", type=int, metavar="PIXELS", group="Data set",
    help="Longer side of the pictures, a power of two. Left out: the largest, up to 256, that nine in ten of the "
    "pictures reach.",
)  # fmt: skip
@option(
    "--ratio", type=float, metavar="NUMBER", group="Data set",
    help="Height / width. Left out: 1, or what is usual for a data set of the catalogue.",
)  # fmt: skip
@option(
    "--background", metavar="COLOR", default="white", group="Data set",
    help="What shows through transparent parts: a colour's name, or #rrggbb.",
)  # fmt: skip
@boolean_option("--overwrite", default=False, group="Data set", help="Replace a data set of this name.")
@not_yet_option("--shards-num", accept=("1",), metavar="N", help="Split the data set into so many files.")
@catalogue_options
@json_option
def command(
    sources: tuple[str, ...], images_dir: str | None, max_images: int | None, form: str | None, strict: bool,
    name: str | None, data_dir: Path, resolution: int | None, ratio: float | None, background: str, overwrite: bool,
    wanted: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Make a data set of the pictures in SOURCE, a folder (with all below it) or a zip.

    Pictures of any kind and size become RGB pictures of one size: turned upright, cropped to their middle, and shrunk.
    Those that cannot be used are skipped and listed.

    \b
      ganformer prepare holiday-photos --resolution 128
      ganformer train --dataset holiday-photos
    """
    from ganformer_cli.data.catalogue import load_catalogue
    from ganformer_cli.data.prepare import prepare

    source = _the_source(sources, images_dir, wanted)
    if form in OTHER_FORMATS:
        raise NotYetError(
            f"--format {form} is not in this version yet; unpack the pictures into a folder and give that"
        )
    if name is None:
        name = source.stem if source.is_file() else source.resolve().name
    if ratio is None:
        entry = load_catalogue().get(name)
        ratio = 1.0 if entry is None else entry.ratio

    with Progress() as progress:

        def report(done: int, total: int, skipped: int) -> None:
            if done == 0:
                progress.start(total, "pictures", "prepare")
            progress.update(done, skipped=skipped)

        prepared = prepare(
            source, name, data_dir=data_dir, resolution=resolution, ratio=ratio, background=background,
            suffixes=SUFFIXES[form] if form else None, max_images=max_images, strict=strict, overwrite=overwrite,
            progress=report,
        )  # fmt: skip
    if as_json:
        answer = {**prepared.manifest, "folder": str(prepared.folder), "unchanged": prepared.unchanged}
        click.echo(json.dumps(answer, ensure_ascii=False))
    else:
        _summarise(prepared, data_dir)


def _the_source(sources: tuple[str, ...], images_dir: str | None, wanted: tuple[str, ...]) -> Path:
    """The one folder or zip to read.

    Raises:
        click.UsageError: there is none, or several.
        ConfigError: the built-in data set is asked for.
        NotYetError: a data set of the catalogue is asked for.
    """
    from ganformer_cli.data.catalogue import SCENES, load_catalogue

    given = [*sources, *([images_dir] if images_dir is not None else [])]
    catalogue = load_catalogue()
    by_name = [*wanted, *(word for word in given if word in catalogue and not Path(word).exists())]
    if SCENES in by_name:
        raise ConfigError(f"{SCENES} is built in and needs no preparing; run: ganformer train --dataset {SCENES}")
    if by_name:
        entry = catalogue[by_name[0]]
        said = ", ".join(dict.fromkeys(f"--{word}" if word in wanted else word for word in by_name))
        raise NotYetError(
            f"{said}: downloading is not in this version yet; get the pictures of {entry.name} from {entry.homepage}, "
            f"then run: ganformer prepare FOLDER --name {entry.name}. Their licence: {entry.licence}"
        )
    if not any(given):
        raise click.UsageError("SOURCE is missing; give the path of a folder or a zip of pictures")
    if len(given) > 1:
        raise click.UsageError(f"one SOURCE at a time, not {' and '.join(given)}; put the pictures into one folder")
    return Path(given[0])


def _summarise(prepared: Prepared, data_dir: Path) -> None:
    manifest, skipped = prepared.manifest, prepared.manifest["skipped"]
    size = f"{manifest['width']}x{manifest['height']}"
    megabytes = manifest["images"]["bytes"] / 1e6
    state = "unchanged, made before from the same pictures" if prepared.unchanged else f"{megabytes:.1f} MB"
    click.echo(f"{prepared.folder}: {manifest['count']} pictures of {size} px ({state})")
    if manifest["labels"]:
        click.echo(f"labels: {manifest['labels']['kind']}, {manifest['labels']['size']}")
    if skipped:
        click.echo(f"skipped {len(skipped)}:")
        for item in skipped[:SKIPPED_SHOWN]:
            click.echo(f"  {item['file']}: {item['reason']}")
        if len(skipped) > SKIPPED_SHOWN:
            click.echo(
                f"  and {len(skipped) - SKIPPED_SHOWN} more; all are listed in {prepared.folder / 'manifest.json'}"
            )
    where = "" if data_dir == Path("datasets") else f" --data-dir {_quoted(str(data_dir))}"
    click.echo(f"next: ganformer train --dataset {_quoted(manifest['name'])}{where}")


def _quoted(word: str) -> str:
    """As bash, cmd and PowerShell all read it."""
    return f'"{word}"' if " " in word else word
