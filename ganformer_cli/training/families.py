"""Which trainer a configuration needs."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ganformer_cli.config import RunConfig
from ganformer_cli.training.distributed import ONE_PROCESS, Group
from ganformer_cli.training.gan import GANTrainer
from ganformer_cli.training.network_trainer import NetworkTrainer
from ganformer_cli.training.vqgan import VQGANTrainer


def network_trainer(
    config: RunConfig,
    device: torch.device,
    shrunk: Callable[[int], None] = lambda micro_batch: None,
    group: Group = ONE_PROCESS,
) -> NetworkTrainer:
    """The networks of a run and what trains them; arguments as for ``NetworkTrainer``."""
    kind = VQGANTrainer if config.model.vqgan else GANTrainer
    return kind(config, device, shrunk, group)
