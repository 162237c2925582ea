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
    from ganformer_cli.models import AttentionMap as AttentionMap
    from ganformer_cli.models import Generator as Generator
    from ganformer_cli.models import NoiseMode as NoiseMode
    from ganformer_cli.sampling.api import attention_maps as attention_maps
    from ganformer_cli.sampling.api import sample as sample
    from ganformer_cli.sampling.drawing import DEFAULT_BATCH as DEFAULT_BATCH
    from ganformer_cli.sampling.drawing import GROUP_SIZE as GROUP_SIZE
    from ganformer_cli.sampling.drawing import MAP_SIZE as MAP_SIZE
    from ganformer_cli.sampling.drawing import Sample as Sample
    from ganformer_cli.sampling.drawing import evaluating as evaluating
    from ganformer_cli.sampling.drawing import from_uint8 as from_uint8
    from ganformer_cli.sampling.drawing import image_mib as image_mib
    from ganformer_cli.sampling.drawing import map_latents as map_latents
    from ganformer_cli.sampling.drawing import reconstruct_images as reconstruct_images
    from ganformer_cli.sampling.drawing import sample_latents as sample_latents
    from ganformer_cli.sampling.drawing import sample_seeds as sample_seeds
    from ganformer_cli.sampling.drawing import to_uint8 as to_uint8
    from ganformer_cli.sampling.latents import Space as Space
    from ganformer_cli.sampling.latents import labels_from_seeds as labels_from_seeds
    from ganformer_cli.sampling.latents import latents_from_seeds as latents_from_seeds
    from ganformer_cli.sampling.latents import read_latents as read_latents
    from ganformer_cli.sampling.latents import slerp as slerp

__getattr__ = lazy_attributes(
    __name__,
    {
        "models": "AttentionMap Generator NoiseMode",
        "sampling.api": "attention_maps sample",
        "sampling.drawing": "DEFAULT_BATCH GROUP_SIZE MAP_SIZE Sample evaluating from_uint8 image_mib map_latents "
        "reconstruct_images sample_latents sample_seeds to_uint8",
        "sampling.latents": "Space labels_from_seeds latents_from_seeds read_latents slerp",
    },
)
