"""``ganformer explore``: take hold of the components of an image, in the browser."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ganformer_cli.cli.devices import gpus_option, pick_device
from ganformer_cli.cli.local_pages import local_server, page_options, serve_page
from ganformer_cli.cli.model_choice import ModelChoice, model_metadata, model_options, psi_option
from ganformer_cli.cli.option_types import MAX_SEED
from ganformer_cli.cli.options import GroupedCommand, folder_option, given_options, option, path_option, section
from ganformer_cli.cli.verbosity import verbosity_options
from ganformer_cli.errors import ConfigError

#: What a browser counts exactly.
_MAX_BROWSER_SEED = min(MAX_SEED, 2**53 - 1)


@click.command("explore", cls=GroupedCommand)
@model_options
@section("Image")
@option("--seed", type=click.IntRange(0, _MAX_BROWSER_SEED), default=0, help="Seed of the first image.")
@path_option(
    "--latents",
    metavar="FILE.npy",
    help="Explore these latents instead of seeds, such as projected.npy: float [N, m+1, w], or [N, m+1, L, w] in "
    "space w.",
)
@option(
    "--space",
    type=click.Choice(["z", "w"]),
    default="w",
    help="Space of --latents: z (standard normal), or w (outputs of the mapping network, used without truncation).",
)
@psi_option(default=0.7, help="Truncation at first: 1 is the most varied, 0 the mean image. The page has a slider.")
@section("Output")
@folder_option("--output-dir", default="explored", help="Folder of what the page saves.")
@page_options
@gpus_option
@verbosity_options
def command(
    model: ModelChoice,
    seed: int,
    latents: Path | None,
    space: Any,
    truncation_psi: float,
    output_dir: Path,
    port: int,
    open_browser: bool,
    as_json: bool,
    gpus: tuple[int, ...] | None,
) -> None:
    """Take hold of single components of an image in the browser, until Ctrl+C.

    The page shows the region of each component. Components can be re-rolled, moved, removed, copied and swapped, each
    step undone, and images, latents and films saved. Only this machine can open the page, and only with the address
    that is printed.

    \b
      ganformer explore                                  the newest run
      ganformer explore --model results/faces-002 --seed 7
      ganformer explore --model gdrive:clevr-snapshot.pkl
    """
    given = given_options(click.get_current_context())
    if "space" in given and latents is None:
        raise click.UsageError(
            f"--space {space} says what --latents are; give --latents FILE.npy, or leave out --space"
        )
    if "seed" in given and latents is not None:
        raise click.UsageError("--seed and --latents each say which image; give one of them")
    file = model.find()

    from ganformer_cli.original_snapshots.model_files import load_model
    from ganformer_cli.web.explorer import Explorer, LoadedFile
    from ganformer_cli.web.server import html, page_html

    explorer: Explorer
    routes: dict[str, Callable[..., Any]] = {
        "GET ": lambda: html(page_html("explore")),
        "POST api/*": lambda place, body: explorer.answer(place, body),
    }
    # The server comes first: that its port is taken is said before the model is loaded.
    with local_server(routes, port) as server:
        device = pick_device(gpus)
        source = LoadedFile.of(file, model_metadata(file))
        loaded = load_model(file, device)
        generator = loaded.generator
        if generator.config.vqgan:
            raise ConfigError(f"{file}: a VQGAN has no latents to take hold of; explore a model of another kind")
        if "truncation_psi" not in given and loaded.own_psi is not None:
            truncation_psi = loaded.own_psi
        array = None if latents is None else _read_latents(latents, generator, space, truncation_psi)
        explorer = Explorer(generator, source, output_dir, psi=truncation_psi, seed=seed, latents=array)
        with contextlib.closing(explorer):
            serve_page(server, "explore", open_browser=open_browser, as_json=as_json)


def _read_latents(path: Path, generator: Any, space: Any, psi: float) -> Any:
    """The latents of a file, in space w."""
    import torch

    from ganformer_cli.sampling import map_latents, read_latents

    found = read_latents(path, generator, space)
    if space == "w":
        return found
    return map_latents(generator, torch.from_numpy(found.astype("float32")), truncation_psi=psi).numpy()
