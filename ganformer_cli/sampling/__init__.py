"""Seeds to latents to images. A seed always gives the same image: in every run, in every order, in every batch.

That holds by construction. Each seed has random numbers of its own. And since the libraries below choose another
algorithm, hence another rounding, for another batch size or number of threads, both are fixed: images are computed in
groups of one size for a model, a seed always in the same slot of its group, and empty slots are filled up; on a CPU
each group is computed by one thread, several groups at once. That costs nothing, because the size is the fastest one.

Latents may be given instead: image k of them has the slot, the random noise and the label of seed k.

Two kinds of processor, or two releases of torch, may still differ in the last bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ganformer_cli.lazy import lazy_attributes

if TYPE_CHECKING:
    from ganformer_cli.checkpoints.snapshots import load_snapshot
    from ganformer_cli.models import AttentionMap, Generator, NoiseMode
    from ganformer_cli.sampling.api import attention_maps, sample
    from ganformer_cli.sampling.drawing import (
        DEFAULT_BATCH,
        GROUP_SIZE,
        MAP_SIZE,
        Sample,
        evaluating,
        from_uint8,
        image_mib,
        map_latents,
        reconstruct_images,
        sample_attention,
        sample_images,
        sample_latents,
        sample_seeds,
        to_uint8,
    )
    from ganformer_cli.sampling.latents import Space, labels_from_seeds, latents_from_seeds, read_latents, slerp

__all__ = [
    "DEFAULT_BATCH",
    "GROUP_SIZE",
    "MAP_SIZE",
    "AttentionMap",
    "Generator",
    "NoiseMode",
    "Sample",
    "Space",
    "attention_maps",
    "evaluating",
    "from_uint8",
    "labels_from_seeds",
    "latents_from_seeds",
    "load_snapshot",
    "map_latents",
    "image_mib",
    "read_latents",
    "reconstruct_images",
    "sample",
    "sample_attention",
    "sample_images",
    "sample_latents",
    "sample_seeds",
    "slerp",
    "to_uint8",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "checkpoints.snapshots": "load_snapshot",
        "models": "AttentionMap Generator NoiseMode",
        "sampling.api": "attention_maps sample",
        "sampling.drawing": "DEFAULT_BATCH GROUP_SIZE MAP_SIZE Sample evaluating from_uint8 image_mib map_latents "
        "reconstruct_images sample_attention sample_images sample_latents sample_seeds to_uint8",
        "sampling.latents": "Space labels_from_seeds latents_from_seeds read_latents slerp",
    },
)
