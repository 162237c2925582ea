"""``ganformer export``: a model as a file that other programs run, checked before it is declared done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ganformer_cli.cli.model_choice import ModelChoice, model_name, model_options
from ganformer_cli.cli.options import (
    GroupedCommand,
    choice_option,
    file_option,
    given_options,
    json_option,
    option,
    section,
    switch,
)
from ganformer_cli.cli.output import echo, echo_json
from ganformer_cli.cli.progress import ProgressBar
from ganformer_cli.cli.verbosity import verbosity_options
from ganformer_cli.errors import ConfigError
from ganformer_cli.files import MIB
from ganformer_cli.outputs import check_output

#: Options that have no meaning for a VQGAN, by parameter name.
_NOT_OF_VQGAN = {"space": "--input", "noise": "--noise", "maps": "--maps"}


@click.command("export", cls=GroupedCommand)
@model_options
@section("File")
@choice_option(
    "--to",
    of=["onnx", "torch-export"],
    help="Format: onnx (for onnxruntime, also in a browser), or torch-export (.pt2, which torch.export.load reads).",
)
@file_option("--output", metavar="FILE", help="The file.  [default: the name of the run or model, with .onnx or .pt2]")
@switch("--overwrite", help="Replace the file if it exists.")
@option(
    "--opset", type=click.IntRange(18, 23), default=18, help="Version of ONNX's operators, 18 to 23; of --to onnx only."
)
@section("Function")
@choice_option(
    "--input",
    "space",
    of=["z", "w"],
    help="The latents that the file takes: z (standard normal; with inputs psi and class or label), or w (outputs of "
    "the mapping network, for every component and layer, as in projected.npy).",
)
@choice_option(
    "--noise",
    of=["const", "none", "input"],
    help="Noise of the feature maps: the model's fixed noise, none, or an input of the file.",
)
@switch("--maps", help="Also return the attention maps of every layer.")
@json_option
@verbosity_options
def command(
    model: ModelChoice,
    to: Any,
    output: Path | None,
    overwrite: bool,
    opset: int,
    space: Any,
    noise: Any,
    maps: bool,
    as_json: bool,
) -> None:
    """Export a model's averaged generator, or a VQGAN's decoder, as an ONNX file or a torch.export archive.

    The file takes any number of latents at once, and returns images as float32 [batch, 3, H, W], about -1 to 1. It
    holds the model card as JSON: configuration, data set, licence, names and shapes of inputs and outputs. Before it is
    written, onnxruntime (or torch) runs it, and its outputs are compared with the model's: they may differ by 1e-4.

    Of a VQGAN, in either stage, the file takes codes instead of latents, as int64 [batch, rows * columns].

    \b
      ganformer export                                          the newest run, to ONNX
      ganformer export --model results/faces-002 --maps --output faces.onnx
      ganformer export --model results/faces-002 --input w --noise input
      ganformer export --model gdrive:clevr-snapshot.pkl --to torch-export
    """
    given = given_options(click.get_current_context())
    if to != "onnx" and "opset" in given:
        raise click.UsageError(f"--opset {opset} is of --to onnx; leave it out")
    file = model.find()
    if output is None:
        output = Path(f"{model_name(file)}{'.onnx' if to == 'onnx' else '.pt2'}")
    check_output(output, "--output", overwrite=overwrite, inputs=[file])

    import torch

    from ganformer_cli.export.card import exported_card
    from ganformer_cli.export.files import STEPS, check_packages, export_generator
    from ganformer_cli.export.function import DecoderFunction, FunctionSettings, GeneratorFunction
    from ganformer_cli.models.vqgan import VQGAN
    from ganformer_cli.original_snapshots.model_files import load_model

    check_packages(to)
    generator, header = load_model(file, torch.device("cpu"))
    function: DecoderFunction | GeneratorFunction
    if isinstance(generator, VQGAN):
        if refused := [name for parameter, name in _NOT_OF_VQGAN.items() if parameter in given]:
            raise ConfigError(
                f"{', '.join(refused)}: has no meaning for {file}, a VQGAN, whose decoder is exported: its input is "
                "codes, and it has no latents, noise or maps; leave it out"
            )
        function = DecoderFunction(generator)
    else:
        function = GeneratorFunction(generator, FunctionSettings(space, noise, maps))
    card = exported_card(file, header, function)
    if to == "onnx":
        card["opset"] = opset
    done = 0

    with ProgressBar() as progress:

        def report(step: str) -> None:
            nonlocal done
            progress.start(STEPS, "steps", step, done=done)
            progress.update(done)
            done += 1

        check = export_generator(output, function, card, to=to, opset=opset, report=report)
        progress.update(STEPS)
    if as_json:
        about = {
            "format": to,
            "runtime": check.runtime,
            "batches": list(check.batches),
            "differences": check.differences,
        }
        echo_json({"file": str(output), "bytes": output.stat().st_size, **about, **card})
        return
    echo(
        f"{output} ({output.stat().st_size / MIB:.1f} MiB) of {file}"
        + (f", opset {opset}" if to == "onnx" else "")
        + f"; {check.runtime} differs from torch by {check.largest:.1g} at most"
    )
    for kind in ("inputs", "outputs"):
        for each in card[kind]:
            echo(f"{kind[:-1]:<8}{each['name']} {each['dtype']} {each['shape']}".replace("'", ""))
