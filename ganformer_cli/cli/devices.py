"""The options of section Device: GPUs, processes, batch size and precision; and which devices they mean."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from ganformer_cli.cli.option_types import ReadType, read_gpus
from ganformer_cli.cli.options import MAX_BATCH_SIZE, MAX_PROCESSES, F, option, warn
from ganformer_cli.errors import ConfigError
from ganformer_cli.memory import EVALUATION_MIB, TRAINING_MIB, keep_large_blocks

if TYPE_CHECKING:
    import torch

gpus_option = option(
    "--gpus",
    type=ReadType("gpus", read_gpus),
    metavar="N",
    group="Device",
    help="Number of the GPU to use, or none for the CPU.  [default: the first GPU, or the CPU]",
)
precision_option = option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    default="fp32",
    group="Device",
    rare=True,
    help="bf16 or fp16 (GPU only): compute the image features of the four highest resolutions in 16 bits, in about "
    "half the memory. Images and scores differ a little from those of fp32.",
)


def processes_option(does: str, default: str = "one; on GPUs one for each of --gpus") -> Callable[[F], F]:
    """``--processes``, whose help begins with ``does``, such as "Train"."""
    text = f"{does} in N processes on the CPU.  [default: {default}]"
    return option("--processes", type=click.IntRange(1, MAX_PROCESSES), group="Device", rare=True, help=text)


def batch_size_option(help: str) -> Callable[[F], F]:
    """``--batch-size``."""
    return option("--batch-size", type=click.IntRange(1, MAX_BATCH_SIZE), group="Device", help=help)


def pick_devices(gpus: tuple[int, ...] | None, *, training: bool = False) -> list[torch.device]:
    """The devices for ``--gpus``; ``None`` (left out) means the first GPU if there is one.

    On a machine without a GPU, asking for one warns and returns the CPU, so that a command line works everywhere;
    asking for several to train on is an error. In ``training``, a single number that equals the number of GPUs
    means all of them, as in the authors' scripts. The allocator is also told to keep the memory of freed tensors, less
    of it in ``training``.

    Raises:
        ConfigError: there is no GPU of that number.
    """
    keep_large_blocks(TRAINING_MIB if training else EVALUATION_MIB)
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus is None:
        return [torch.device("cuda", 0) if found else torch.device("cpu")]
    if not gpus:
        return [torch.device("cpu")]
    said = f"--gpus {','.join(map(str, gpus))}"
    if not found:
        if training and len(gpus) > 1:
            raise ConfigError(
                f"{said}: torch finds no GPU here (see ganformer doctor); --gpus none is the CPU{_cuda_hint()}"
            )
        warn(f"{said}: torch finds no GPU here; using the CPU{_cuda_hint()}")
        return [torch.device("cpu")]
    if training and found > 1 and gpus == (found,):
        gpus = tuple(range(found))
    if missing := [number for number in gpus if number >= found]:
        last = f"0 to {found - 1}" if found > 1 else "0"
        raise ConfigError(f"{said}: there is no GPU {missing[0]} here; choose from {last}")
    return [torch.device("cuda", number) for number in gpus]


def _cuda_hint() -> str:
    """Where torch is built for the CPU only, as pip installs it on Windows: how to get one for GPUs."""
    import torch

    if torch.version.cuda or torch.version.hip:
        return ""
    from ganformer_cli.operators.checks import find_cards, how_to_install_cuda

    return f". This torch is for the CPU only; for an NVIDIA GPU, {how_to_install_cuda(find_cards(os.environ))}"


def pick_device(gpus: tuple[int, ...] | None) -> torch.device:
    """The device for ``--gpus`` of a command that uses a single one; see ``pick_devices``.

    Raises:
        ConfigError: there is no GPU of that number, or several are given.
    """
    devices = pick_devices(gpus)
    if len(devices) > 1 and gpus is not None:
        said = ",".join(map(str, gpus))
        raise ConfigError(f"--gpus {said}: this command uses one GPU; give one, for example --gpus {gpus[0]}")
    return devices[0]


def check_precision(precision: str, devices: list[torch.device]) -> None:
    """Raise ConfigError unless the devices can compute in ``--precision``."""
    import torch

    if precision == "fp16" and devices[0].type != "cuda":
        raise ConfigError("--precision fp16 is for GPUs; choose bf16 or fp32 on a CPU")
    if precision == "bf16" and devices[0].type == "cuda":
        for device in devices:
            if torch.cuda.get_device_capability(device) < (8, 0):
                name = torch.cuda.get_device_name(device)
                raise ConfigError(f"--precision bf16: {name} does not support bfloat16; choose fp16 or fp32")
