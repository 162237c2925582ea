"""``ganformer convert``: converts a snapshot to a safetensors file."""

from __future__ import annotations

from pathlib import Path

import click

from ganformer_cli import __version__
from ganformer_cli.cli.completion import complete_models
from ganformer_cli.cli.model_choice import named_model, offline_option
from ganformer_cli.cli.options import GroupedCommand, json_option, section, switch
from ganformer_cli.cli.output import echo, echo_json
from ganformer_cli.config.names import quoted
from ganformer_cli.errors import OutputError
from ganformer_cli.files import MIB, remove_parts
from ganformer_cli.outputs import check_output


@click.command("convert", cls=GroupedCommand)
@click.argument("snapshot", metavar="SNAPSHOT", shell_complete=complete_models)
@click.argument("out", metavar="OUT.safetensors", type=click.Path(path_type=Path, dir_okay=False))
@section("Output")
@switch(
    "--ema-only",
    help="Write the averaged generator only: a smaller file that can generate images, but not be trained further.",
)
@switch("--overwrite", help="Replace OUT.safetensors if it exists.")
@json_option
@offline_option
def command(snapshot: str, out: Path, ema_only: bool, overwrite: bool, as_json: bool, offline: bool) -> None:
    """Convert a snapshot to one safetensors file, which contains weights and settings, but no code.

    SNAPSHOT is a file of the authors' (.pkl, PyTorch or TensorFlow), a published one such as gdrive:clevr-snapshot.pkl,
    a run folder, or a file of ours. No code in it is executed: a file that contains any is refused.

    \b
      ganformer convert network-snapshot-005000.pkl clevr.safetensors
      ganformer convert results/faces-000 faces.safetensors --ema-only
    """
    if out.suffix != ".safetensors":
        raise OutputError(f"{out}: must end in .safetensors; change the name")
    check_output(out, "", overwrite=overwrite)
    file = named_model(snapshot, "--model", offline=offline)
    check_output(out, "", overwrite=overwrite, inputs=[file])

    from ganformer_cli.checkpoints.snapshots import save_snapshot
    from ganformer_cli.original_snapshots.model_files import load_all

    found = load_all(file)
    remove_parts(out)
    provenance = {key: value for key, value in found.header.items() if key not in ("format", "config", "kimg")}
    save_snapshot(
        out,
        config=found.config,
        ema=found.ema,
        generator=None if ema_only else found.generator,
        discriminator=None if ema_only else found.discriminator,
        kimg=found.header.get("kimg"),
        provenance={"version": __version__, **provenance},
    )
    left_out: dict[str, str] = {} if ema_only else found.header.get("left_out", {})
    if as_json:
        record = {"model": str(out), "source": str(file), "bytes": out.stat().st_size, "left_out": left_out}
        echo_json({**record, "notes": list(found.notes)}, indent=None)
        return
    echo(f"{out} ({out.stat().st_size / MIB:.1f} MiB) from {file}")
    for name, why in left_out.items():
        echo(f"left out   {name}: {why}")
    for note in found.notes:
        echo(f"note       {note}")
    echo(f"more       ganformer generate --model {quoted(str(out))}")
