"""Products of bf16 on CPUs that have no instructions for them.

There, torch multiplies number by number: a matrix product takes 64 times, and a convolution 8 times as long as in
float32 (AMD EPYC with AVX2). Products are computed in float32 instead and rounded, which is what the instructions do:
they multiply bf16 exactly, and add in float32.
"""

from __future__ import annotations

import functools
import platform

import torch
from torch import Tensor

#: By name, torch's checks for what oneDNN multiplies bf16 with on x86.
_CHECKS = {"AVX512_BF16": "_is_avx512_bf16_supported", "AMX": "_is_amx_tile_supported"}


@functools.cache
def bf16_instructions() -> tuple[str, ...]:
    """The instructions for products of bf16 that this CPU has and torch uses; those of other CPUs than x86 are BF16."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        return tuple(name for name, check in _CHECKS.items() if getattr(torch.cpu, check, lambda: False)())
    return ("BF16",) if torch.ops.mkldnn._is_mkldnn_bf16_supported() else ()


def are_products_widened(x: Tensor) -> bool:
    """Whether products of ``x`` are computed in float32 and rounded to its dtype."""
    return x.dtype is torch.bfloat16 and x.device.type == "cpu" and not bf16_instructions()
