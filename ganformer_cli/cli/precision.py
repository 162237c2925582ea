"""``--precision``: what the networks compute in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ganformer_cli.cli.options import option
from ganformer_cli.errors import ConfigError

if TYPE_CHECKING:
    import torch

precision_option = option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    default="fp32",
    group="Device",
    rare=True,
    help="bf16 or fp16 (GPU only): compute the image features of the four highest resolutions in 16 bits, in about "
    "half the memory. Images and scores differ a little from those of fp32.",
)


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
