"""``ganformer generate``: pictures by seed or from given latents, and what the components attend to."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ganformer_cli.cli.model_choice import batch_size_option, find_model, load_model, model_options, psi_option
from ganformer_cli.cli.options import (
    SEEDS,
    GroupedCommand,
    boolean_option,
    given_options,
    gpus_option,
    ignored_option,
    json_option,
    not_yet_option,
    option,
    pick_device,
)
from ganformer_cli.cli.progress import Progress
from ganformer_cli.errors import ConfigError
from ganformer_cli.files import atomic_open, ensure_writable_folder, write_bytes

if TYPE_CHECKING:
    import numpy.typing as npt

    from ganformer_cli.sampling import Generator, Sample

DEFAULT_IMAGES = 32
#: More than this many pictures in one grid are more than anyone looks at.
MOST_IN_GRID = 1024
JPEG_QUALITY = 95
IMAGES_FILE = "images.npy"
LATENTS_FILE = "latents.npy"


class Wanted(NamedTuple):
    """What is to be written."""

    folder: Path
    format: str  # png, jpg or npy
    ratio: float | None
    grid: bool
    maps: bool
    layer_maps: bool
    alpha: float


@click.command("generate", cls=GroupedCommand)
@model_options
@option("--seeds", type=SEEDS, metavar="0-31,40", group="Pictures", help="A picture for each of these seeds.")
@option(
    "--images-num",
    "--vis-num",
    "images_num",
    type=click.IntRange(min=1, max=10_000_000),
    metavar="N",
    group="Pictures",
    help=f"Instead of --seeds: N pictures, of seeds 0 to N-1.  [default: {DEFAULT_IMAGES}]",
)
@option(
    "--latents",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE.npy",
    group="Pictures",
    help="Instead of --seeds: a picture from each row of this array of floats, [N, m+1, w] (k-GAN: [N, m, w]).",
)
@option(
    "--space",
    type=click.Choice(["z", "w"]),
    default="z",
    group="Pictures",
    help="What --latents are: z, standard normal, or w, after the mapping network and taken as they are, without "
    "truncation; these may also be [N, m+1, L, w], one for each layer.",
)
@psi_option(
    default=0.7,
    group="Pictures",
    help="Pull the latents towards their mean: 1 not at all (most varied), 0 entirely. 0.7 is the authors' choice.",
)
@option(
    "--noise",
    type=click.Choice(["const", "random", "none"]),
    default="const",
    group="Pictures",
    help="The model's fixed noise, noise of each seed's own, or none. Row k of --latents counts as seed k.",
)
@option(
    "--class",
    "class_index",
    type=click.IntRange(min=0),
    metavar="N",
    group="Pictures",
    help="For a model trained with labels: draw class N. Left out: each seed draws one; row k of --latents has that of "
    "seed k.",
)
@option(
    "--ratio",
    type=float,
    metavar="R",
    group="Pictures",
    help="Crop the pictures to height / width = R, keeping the middle; attention sheets stay whole.",
)
@option(
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default="images",
    group="Output",
    help="Where to; files of the same names there are replaced.",
)
@option(
    "--format",
    "image_format",
    type=click.Choice(["png", "jpg", "npy"]),
    default="png",
    group="Output",
    help=f"Of the pictures: PNG; JPEG of quality {JPEG_QUALITY} in full colour (4:4:4); or one file {IMAGES_FILE}, "
    "float32 [N, 3, H, W] as they leave the network, about -1 to 1. Grids and maps are PNG always.",
)
@boolean_option(
    "--save-latents",
    "--vis-latents",
    "save_latents",
    default=False,
    group="Output",
    help=f"Also save {LATENTS_FILE}, which --latents reads: float32 [N, m+1, w] in the order of the pictures; with "
    "--space w what was given.",
)
@boolean_option(
    "--grid",
    "--vis-grid",
    "grid",
    default=False,
    group="Output",
    help=f"Also save grid.png with all pictures (the first {MOST_IN_GRID}).",
)
@boolean_option(
    "--maps",
    "--vis-maps",
    "maps",
    default=False,
    group="Output",
    help="Also save seed…-maps.png: the picture, the regions of the last layer's attention (a colour a component) over "
    "it, and each component's share.",
)
@boolean_option(
    "--layer-maps",
    "--vis-layer-maps",
    "layer_maps",
    default=False,
    group="Output",
    help="Also save seed…-layer-maps.png: the picture and the regions of every layer's attention.",
)
@option(
    "--blending-alpha",
    type=click.FloatRange(0, 1),
    default=0.3,
    group="Output",
    rare=True,
    help="The picture's share where regions lie over it; 0 shows plain colours.",
)
@json_option
@gpus_option
@batch_size_option(help="Pictures fetched from the device at a time. It never changes a picture.")
@ignored_option("--vis", why="making pictures is what this command does")
@ignored_option("--vis-images", why="pictures are always saved")
@option(
    "--dataset",
    metavar="NAME",
    group="Compatibility",
    rare=True,
    expose_value=False,
    help="Accepted: a model makes pictures without its data set.",
)
@option(
    "--vis-section-size",
    metavar="N",
    group="Compatibility",
    rare=True,
    expose_value=False,
    help="Accepted: pictures and maps are made one by one in any case.",
)
@not_yet_option("--vis-interpolations", help="Move from one latent to another.", issue="Pictures")
@not_yet_option("--interpolation-density", help="Steps between two latents.", issue="Pictures", metavar="N")
@not_yet_option("--vis-noise-var", help="Show what the noise changes.", issue="Pictures")
@not_yet_option("--vis-style-mix", help="Mix the latents of two pictures.", issue="Pictures")
@not_yet_option("--vis-rich-num", help="Number of interpolations and mixtures.", issue="Pictures", metavar="N")
def command(
    model: str | None,
    expname: str | None,
    result_dir: Path,
    seeds: tuple[int, ...] | None,
    images_num: int | None,
    latents: Path | None,
    space: Any,
    truncation_psi: float,
    noise: Any,
    class_index: int | None,
    ratio: float | None,
    output_dir: Path,
    image_format: str,
    save_latents: bool,
    grid: bool,
    maps: bool,
    layer_maps: bool,
    blending_alpha: float,
    as_json: bool,
    gpus: tuple[int, ...] | None,
    batch_size: int,
    offline: bool,
) -> None:
    """Make pictures with a trained model.

    A picture for each seed, named after it: `seed0007.png`; those of --latents are `image0000.png` and so on. The same
    model and seed give the same picture, on every run and with every --batch-size.

    \b
      ganformer generate                                 the run that saved last
      ganformer generate --model results/faces-002 --seeds 0-63 --grid
      ganformer generate --expname faces --maps --images-num 8
      ganformer generate --images-num 4 --save-latents   and again, perhaps changed:
      ganformer generate --latents images/latents.npy
    """
    said_options = given_options(click.get_current_context())
    _check_line(said_options)
    file = find_model(model, expname, result_dir, offline=offline)

    import numpy as np

    from ganformer_cli.sampling import LANES, latents_from_seeds, read_latents, sample_latents, sample_seeds
    from ganformer_cli.visualization import crop_to_ratio

    generator, header = load_model(file, pick_device(gpus))
    if space == "w":
        truncation_psi = 1.0
    elif "truncation_psi" not in said_options and isinstance(header.get("truncation_psi"), float):
        truncation_psi = header["truncation_psi"]  # the model's own, as TensorFlow's networks have one
    if image_format == "npy":
        generator.keep_whole()
    options: dict[str, Any] = {
        "truncation_psi": truncation_psi,
        "noise_mode": noise,
        "labels": _label(generator, class_index),
        "attention": maps or layer_maps,
        "raw": image_format == "npy",
        # Few at a time where each brings its maps along.
        "batch_size": LANES if maps or layer_maps else batch_size,
    }
    if options["attention"] and not generator.config.has_maps:
        said = "--maps" if maps else "--layer-maps"
        raise ConfigError(f"{said}: this model has no attention (--attention none), so it has no maps; leave it out")
    if ratio is not None:
        crop_to_ratio(np.empty((3, *generator.config.image_size), np.uint8), ratio)  # complains before anything is done
    rows: Iterable[npt.NDArray[Any]]
    if latents is None:
        chosen = range(images_num or DEFAULT_IMAGES) if seeds is None else seeds
        shape: tuple[int, ...] = (len(chosen), *generator.z_shape)
        rows = (latents_from_seeds(generator, [seed]).numpy()[0] for seed in chosen)
        drawn = sample_seeds(generator, chosen, **options)
    else:
        given = read_latents(latents, generator, space)
        shape, rows = given.shape, given
        drawn = sample_latents(generator, given, space=space, **options)
    ensure_writable_folder(output_dir, "--output-dir")
    wanted = Wanted(output_dir, image_format, ratio, grid, maps, layer_maps, blending_alpha)
    with Progress() as progress:
        progress.start(shape[0], "images", "drawing")
        written = _write(drawn, shape[0], "seed" if latents is None else "image", generator, wanted, progress.update)
    if save_latents:
        written["latents"] = str(output_dir / LATENTS_FILE)
        with _array_file(output_dir / LATENTS_FILE, shape) as append:
            for row in rows:
                append(row)
    if as_json:
        record = {"model": str(file), "truncation_psi": truncation_psi, "noise": noise}
        if latents is not None:
            record |= {"given_latents": str(latents), "space": space}
        click.echo(json.dumps({**record, **written}, indent=2))
    else:
        where = output_dir / IMAGES_FILE if image_format == "npy" else output_dir
        extra = "".join(f", {written[name]}" for name in ("grid", "latents") if name in written)
        click.echo(f"{shape[0]} picture{'s' * (shape[0] > 1)} of {file} in {where}{extra}")


def _check_line(given: dict[str, Any]) -> None:
    """Refuse options that contradict each other, or that nothing would read."""
    sources = [name for name in ("seeds", "images_num", "latents") if given.get(name) is not None]
    if len(sources) > 1:
        said = " and ".join("--" + name.replace("_", "-") for name in sources)
        raise click.UsageError(f"{said} each say which pictures; give one of them")
    if given.get("space") == "w":
        if "latents" not in given:
            raise click.UsageError("--space w says what --latents are; give --latents FILE.npy, or leave out --space")
        psi = given.get("truncation_psi", 1.0)
        if psi != 1:
            raise click.UsageError(
                f"--truncation-psi {psi:g} with --space w: such latents are taken as they are; leave out one"
            )
        if given.get("class_index") is not None:
            raise click.UsageError(
                f"--class {given['class_index']} with --space w: a class acts before, in the mapping network; "
                "leave out one"
            )
    if given.get("image_format") == "npy" and given.get("ratio") is not None:
        raise click.UsageError(
            f"--ratio {given['ratio']:g} with --format npy: its pictures are as they leave the network, not cropped; "
            "leave out one"
        )


def _write(
    drawn: Iterable[Sample],
    count: int,
    prefix: str,
    generator: Generator,
    wanted: Wanted,
    update: Callable[[float], None],
) -> dict[str, Any]:
    """Save what is drawn, each picture under ``prefix`` and its number; the names of what was written."""
    import numpy as np
    import torch

    from ganformer_cli.sampling import to_uint8
    from ganformer_cli.visualization import component_sheet, crop_to_ratio, image_grid, layer_sheet, save_png

    folder = wanted.folder
    images, kept = [], []
    with contextlib.ExitStack() as stack:
        append = None
        if wanted.format == "npy":
            shape = (count, 3, *generator.output_size)
            append = stack.enter_context(_array_file(folder / IMAGES_FILE, shape))
        for done, sample in enumerate(drawn):
            stem = f"{prefix}{sample.seed:04d}"
            file = folder / (f"{stem}.{wanted.format}" if append is None else IMAGES_FILE)
            record: dict[str, Any] = {"seed" if prefix == "seed" else "row": sample.seed, "file": str(file)}
            image = picture = sample.image
            if append is not None:
                append(sample.image)
                image = picture = to_uint8(torch.from_numpy(sample.image)).numpy()
            if wanted.ratio is not None:
                picture = crop_to_ratio(image, wanted.ratio)
            if wanted.format == "png":
                save_png(file, picture)
            elif wanted.format == "jpg":
                _save_jpg(file, picture)
            if wanted.maps:
                record["maps"] = str(folder / f"{stem}-maps.png")
                save_png(folder / f"{stem}-maps.png", component_sheet(image, sample.maps[-1], wanted.alpha))
            if wanted.layer_maps:
                record["layer_maps"] = str(folder / f"{stem}-layer-maps.png")
                save_png(folder / f"{stem}-layer-maps.png", layer_sheet(image, sample.maps, wanted.alpha))
            images.append(record)
            if wanted.grid and done < MOST_IN_GRID:
                kept.append(picture)
            update(done + 1)
    written: dict[str, Any] = {"images": images}
    if wanted.grid:
        written["grid"] = str(folder / "grid.png")
        save_png(folder / "grid.png", image_grid(np.stack(kept)))
    return written


def _save_jpg(path: Path, image: npt.NDArray[Any]) -> None:
    """Write uint8 ``[3, H, W]`` as a JPEG without chroma subsampling, whole or not at all."""
    import PIL.Image

    stream = io.BytesIO()
    pixels = PIL.Image.fromarray(image.transpose(1, 2, 0).copy())
    pixels.save(stream, "JPEG", quality=JPEG_QUALITY, subsampling="4:4:4")
    write_bytes(path, stream.getvalue())


@contextlib.contextmanager
def _array_file(path: Path, shape: Sequence[int]) -> Iterator[Callable[[npt.NDArray[Any]], None]]:
    """A ``.npy`` file of float32 ``shape``, whole or not at all: gives a function that appends a part of it."""
    import numpy as np

    with atomic_open(path) as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_1_0(stream, header)

        def append(part: npt.NDArray[Any]) -> None:
            stream.write(part.astype("<f4").tobytes())

        yield append


def _label(generator: Generator, class_index: int | None) -> list[float] | None:
    """The one-hot label of ``--class``, or None."""
    if class_index is None:
        return None
    classes = generator.config.c_dim
    if class_index >= classes:
        has = f"its classes are 0 to {classes - 1}" if classes else "it was trained without labels"
        raise ConfigError(f"--class {class_index}: this model has no such class; {has}")
    return [float(index == class_index) for index in range(classes)]
