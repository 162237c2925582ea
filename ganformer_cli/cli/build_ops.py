"""``ganformer build-ops``: builds the native operators ahead of time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ganformer_cli.cli.options import GroupedCommand, choice_option, json_option, option, path_option, section
from ganformer_cli.cli.output import echo, echo_json
from ganformer_cli.errors import ConfigError, GanformerError
from ganformer_cli.files import ensure_writable_folder

if TYPE_CHECKING:
    from ganformer_cli.operators.build import Build
    from ganformer_cli.operators.compiling import Tools

_LEVELS = ("AVX512", "AVX2", "DEFAULT")  # best first
_TARGETS = ("windows-x86_64", "linux-x86_64", "linux-aarch64")


def _levels(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """The levels of ``--cpu``, best first."""
    if value is None:
        return None
    levels = {level.strip().upper() for level in value.split(",")}
    if unknown := sorted(levels - set(_LEVELS)):
        raise click.BadParameter(f"{', '.join(unknown)}: choose from {', '.join(_LEVELS)}")
    return tuple(level for level in _LEVELS if level in levels)


@click.command("build-ops", cls=GroupedCommand)
@section("What")
@choice_option(
    "--device",
    of=["auto", "cpu", "cuda"],
    help="cuda: build both libraries; auto: build both if torch has CUDA support and nvcc is found.",
)
@option(
    "--cpu",
    metavar="AVX512|AVX2|DEFAULT,...",
    callback=_levels,
    help="CPUs to build for, one library each. A CPU can use its own library and those further right.  [default: this "
    "CPU; with --target AVX512,AVX2, or DEFAULT on ARM]",
)
@option(
    "--target",
    type=click.Choice(_TARGETS),
    help="Build for another system, with the compiler of `pip install ziglang`.",
)
@option(
    "--torch",
    "torch_given",
    type=click.Path(exists=True, path_type=Path),
    metavar="WHEEL|DIRECTORY",
    help="With --target windows-x86_64: torch's wheel for Windows, packed or unpacked, to link with.  [default: "
    "downloaded by pip]",
)
@option(
    "--cuda-arch",
    metavar="N,...",
    help="Compute capabilities of the GPUs to build for.  [default: those of this machine, or 80,90]",
)
@section("Output")
@path_option(
    "--output-dir",
    help="Folder for the libraries; set GANFORMER_OPS_FOLDER to it where they are used.  [default: that variable, or "
    "the cache]",
)
@option("--force", is_flag=True, help="Build even if up to date.")
@json_option
def command(
    device: str,
    cpu: tuple[str, ...] | None,
    target: str | None,
    torch_given: Path | None,
    cuda_arch: str | None,
    output_dir: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Build the native operators ahead of time, for machines without a compiler.

    Other commands build them on first use and cache them. For a cluster whose nodes have no compiler, run this once on
    a machine that has one, with a shared folder. The libraries work with every version of torch from 2.10.

    \b
      ganformer build-ops                                            for this machine, into the cache
      ganformer build-ops --output-dir /shared/ops --cpu AVX2        for all nodes: GANFORMER_OPS_FOLDER=/shared/ops
      ganformer build-ops --device cuda --cuda-arch 80,90            the CUDA library, too
      ganformer build-ops --target windows-x86_64 --output-dir ops   on Linux, for Windows
    """
    import torch

    from ganformer_cli.operators import build
    from ganformer_cli.operators.compiling import BuildSpec, Library, cuda_capability, make_build_spec
    from ganformer_cli.operators.cuda_toolkit import USUAL_ARCHITECTURES, parse_architectures, present_architectures
    from ganformer_cli.operators.toolchain import TARGETS, BuildError, NoCompilerError

    if cuda_arch is not None and device == "cpu":
        raise click.UsageError(f"--cuda-arch {cuda_arch} is for GPUs, and --device is cpu; leave one of them out")
    architectures = present_architectures() or USUAL_ARCHITECTURES
    if cuda_arch is not None:
        try:
            architectures = parse_architectures(cuda_arch)
        except ConfigError as error:
            raise ConfigError(f"--cuda-arch: {error}") from error
    folder = output_dir or build.build_folders()[0]
    if output_dir is not None:
        ensure_writable_folder(output_dir, "--output-dir")
    if torch_given is not None and target is None:
        raise click.UsageError("--torch needs --target; give a target, or leave --torch out")
    if target is not None and (device == "cuda" or cuda_arch is not None):
        raise click.UsageError("--target builds the CPU library only; leave out --device cuda and --cuda-arch")
    find: Callable[[], Tools] = build.find_tools
    levels = cpu or (torch.backends.cpu.get_cpu_capability(),)
    if target is not None:
        system = TARGETS[target]
        if system.arm and cpu and cpu != ("DEFAULT",):
            raise click.UsageError(f"--cpu {','.join(cpu)} is for x86-64; leave it out for {target}")
        levels = ("DEFAULT",) if system.arm else cpu or ("AVX512", "AVX2")
        find = functools.cache(lambda: build.find_tools_for(system, torch_given))
    wanted: list[tuple[Library, str, Callable[[], Tools]]] = [("cpu", level, find) for level in levels]
    if device != "cpu" and target is None:
        wanted.append(("cuda", cuda_capability(architectures), build.find_cuda_tools))
    plans: list[tuple[BuildSpec, Tools]] = []
    for library, capability, find_tools in wanted:
        build_spec = make_build_spec(library, capability)
        optional = library == "cuda" and device == "auto" and cuda_arch is None
        if optional and (build_spec is None or torch.version.cuda is None):
            continue
        if build_spec is None:
            raise GanformerError(f"this installation has no sources of the {library} library; install it again")
        try:
            plans.append((build_spec, find_tools()))
        except NoCompilerError as error:
            if not optional:
                raise
            _say(f"without the CUDA library: {error}")
    try:
        built = build.build_ahead(plans, folder, force=force, say=_say)
    except BuildError as error:
        echo(error.output.rstrip("\n"), err=True, lines=True)
        raise
    _show(built, folder, as_json=as_json)


def _say(text: str) -> None:
    echo(f"ganformer build-ops: {text}", err=True)


def _show(built: list[Build], folder: Path, *, as_json: bool) -> None:
    records: list[dict[str, Any]] = [
        {"path": str(build.path), "built": build.fresh, **{key: build.metadata.get(key) for key in _SHOWN}}
        for build in built
    ]
    if as_json:
        echo_json({"folder": str(folder), "libraries": records})
        return
    for build, record in zip(built, records, strict=True):
        how = f"built in {record['seconds']:.1f} s" if build.fresh else "up to date"
        echo(
            f"{record['library']:<5} {build.capability}, {build.compiler}: {how}, {record['bytes'] / 1e6:.2f} MB, "
            f"{record['path']}"
        )


_SHOWN = ("library", "capability", "compiler", "nvcc", "bytes", "seconds")
