"""Edits of single components: re-roll, move toward another seed or the mean, remove, copy, swap.

Edits act in space w, after the mapping network. Components attend to one another there, so a change of z would change
all of them; in space w one component changes alone. ``ws`` are latents ``[m+1, L, w]`` of one image, for each of L
layers; the last is the global one (k-GAN has m, and none that is global).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ganformer_cli.errors import ConfigError
from ganformer_cli.models import Generator
from ganformer_cli.sampling.drawing import map_latents
from ganformer_cli.sampling.latents import (
    as_float32,
    check_latents,
    default_psi,
    expand_labels,
    labels_from_seeds,
    latents_from_seeds,
    with_layers,
)

#: ``reroll``: the component becomes that of another seed. ``toward-seed``: it moves there by ``amount``.
#: ``toward-mean``: it moves to the mean of w by ``amount``. ``remove``: no place of the image attends to it.
#: ``copy``: it becomes component ``other`` of another seed's image, or of given latents. ``swap``: it and ``other``
#: change places.
EditAction = Literal["reroll", "toward-seed", "toward-mean", "remove", "copy", "swap"]
LayerGroup = Literal["coarse", "middle", "fine"]

#: The layers in three groups: of the first, second and last third of the blocks.
LAYER_GROUPS: tuple[LayerGroup, ...] = get_args(LayerGroup)
#: Largest magnitude of ``amount``; beyond 1 a component moves past the target, below 0 away from it.
MAX_AMOUNT = 4.0

_NEEDS_SEED = ("reroll", "toward-seed")
_TAKES_OTHER = ("copy", "swap")


@dataclass(frozen=True)
class ComponentEdit:
    """One edit of one component.

    Args:
        action: see ``EditAction``.
        component: its index, 0 to m - 1; m is the global latent, which cannot be removed.
        seed: of the other image (``reroll``, ``toward-seed``, ``copy``).
        amount: how far to move (``toward-seed``, ``toward-mean``): 0 changes nothing, 1 arrives.
        other: the other component (``swap``; ``copy``, where None is the same index).
        layers: change only what these layers read: a group, or the first layer and the one after the last.
        latents: float ``[m+1, L, w]``, of the image to ``copy`` from, instead of a seed.
    """

    action: EditAction
    component: int
    seed: int | None = None
    amount: float = 1.0
    other: int | None = None
    layers: LayerGroup | tuple[int, int] | None = None
    latents: Tensor | npt.NDArray[Any] | None = field(default=None, compare=False)

    def check(self, generator: Generator) -> None:
        """Raise ConfigError unless this edit is one for ``generator``."""
        if self.action not in get_args(EditAction):
            raise ConfigError(f"edit {str(self.action)[:40]!r}: choose one of {', '.join(get_args(EditAction))}")
        count, components = generator.z_shape[0], generator.config.components_num
        for value in (self.component, *(() if self.other is None else (self.other,))):
            _check_component(value, count)
            if value == components and not generator.config.reads_global_latent:
                raise ConfigError(f"{self}: nothing in this model reads its global latent; choose 0 to {count - 2}")
        if (self.other is not None) > (self.action in _TAKES_OTHER):
            raise ConfigError(f"{self}: there is no other component in this edit; leave it out")
        if self.action == "swap" and self.other is None:
            raise ConfigError(f"{self}: give the component to swap with (other)")
        needs = self.action in _NEEDS_SEED or (self.action == "copy" and self.latents is None)
        if needs != (self.seed is not None):
            raise ConfigError(f"{self}: {'give a seed' if needs else 'a seed does nothing here; leave it out'}")
        if self.latents is not None and self.action != "copy":
            raise ConfigError(f"{self}: only copy takes latents; leave them out")
        if not isinstance(self.amount, (int, float)) or not (
            math.isfinite(self.amount) and abs(self.amount) <= MAX_AMOUNT
        ):
            raise ConfigError(f"{self}: amount {self.amount}: choose a number from {-MAX_AMOUNT:g} to {MAX_AMOUNT:g}")
        if self.amount != 1 and not self.action.startswith("toward"):
            raise ConfigError(f"{self}: an amount does nothing here; leave it out")
        if self.action == "remove":
            if not generator.config.attention_resolutions:
                raise ConfigError(f"{self}: no layer of this model attends, so a component cannot be removed")
            if self.component == components:
                raise ConfigError(f"{self}: this is the global latent, which cannot be removed")
            if self.layers is not None:
                raise ConfigError(f"{self}: a component is removed from all layers; leave out the layers")
        edited_layers(generator, self.layers)

    def __str__(self) -> str:
        other = "" if self.other is None else f" and {self.other}"
        return f"{self.action} component {self.component}{other}"


class EditedLatents(NamedTuple):
    """What edits have made of images; the arguments of ``sample_latents`` with space w."""

    latents: Tensor  # float32 [N, m+1, L, w], on the CPU
    dropped: Tensor | None  # bool [N, m], True where a component is removed; None for none


def edit_components(
    generator: Generator,
    images: Sequence[int] | Tensor | npt.NDArray[Any] | EditedLatents,
    edits: Sequence[ComponentEdit],
    *,
    truncation_psi: float | None = None,
    labels: npt.ArrayLike | None = None,
) -> EditedLatents:
    """Edit components of images, one edit after the other.

    Args:
        generator: the model.
        images: integers ``[N]``, seeds; or latents of space w, float ``[N, m+1, w]`` or ``[N, m+1, L, w]`` (k-GAN has
            m instead of m + 1); or what earlier edits have returned, to continue.
        edits: what to do, in this order. A removed component comes back when it is re-rolled or copied.
        truncation_psi: of all seeds, those of the edits included; given latents are taken as they are. None is 0.7, or
            what the model's file says.
        labels: float ``[c_dim]``, of all seeds; None draws one for each seed (``labels_from_seeds``).

    Returns:
        The latents and which components are removed: ``sample(generator, latents=edited)`` draws them.

    Raises:
        ConfigError: an edit, seed, label or array that does not fit the model.
    """
    if generator.config.vqgan:
        raise ConfigError("a VQGAN has no components to edit; choose another model")
    truncation_psi = default_psi(generator) if truncation_psi is None else truncation_psi
    for edit in edits:
        edit.check(generator)
    earlier = images.dropped if isinstance(images, EditedLatents) else None
    given = images.latents if isinstance(images, EditedLatents) else images
    ws = _latents_of(generator, given, truncation_psi, labels)
    dropped = torch.zeros(len(ws), generator.config.components_num, dtype=torch.bool)
    if earlier is not None:
        dropped |= earlier
    for edit in edits:
        for image, gone in zip(ws, dropped, strict=True):
            _apply(generator, edit, image, gone, truncation_psi, labels)
    return EditedLatents(ws, dropped if dropped.any() else None)


def map_seeds(
    generator: Generator, seeds: Sequence[int], *, truncation_psi: float = 1.0, labels: npt.ArrayLike | None = None
) -> Tensor:
    """The latents of seeds in space w, float32 ``[N, m+1, L, w]`` on the CPU; ``labels`` as in ``sample_seeds``."""
    given = expand_labels(generator, seeds, labels)
    c = labels_from_seeds(generator, seeds) if given is None else given
    return map_latents(generator, latents_from_seeds(generator, seeds), labels=c.numpy(), truncation_psi=truncation_psi)


def mean_latents(generator: Generator) -> Tensor:
    """The mean of w, ``[m+1, w]`` on the CPU; released networks have one mean for all components."""
    return generator.mapping_network.w_avg.detach().cpu().expand(generator.z_shape)


def layer_groups(generator: Generator) -> dict[str, range]:
    """The layers of each of ``LAYER_GROUPS``; of fewer than three blocks, of the first groups."""
    starts, index = {}, 0
    for block in generator.synthesis_network.blocks():
        starts[block.resolution] = index
        index += block.num_convs
    parts = np.array_split(list(starts), len(LAYER_GROUPS))
    firsts = [starts[int(part[0])] for part in parts if len(part)]
    ends = [*firsts[1:], generator.config.num_ws]
    return {name: range(*edges) for name, edges in zip(LAYER_GROUPS, zip(firsts, ends, strict=True), strict=False)}


def edited_layers(generator: Generator, layers: LayerGroup | tuple[int, int] | None) -> range:
    """The layers that an edit is of; None is all.

    Raises:
        ConfigError: the model has no such group or no such layers.
    """
    count = generator.config.num_ws
    if layers is None:
        return range(count)
    if isinstance(layers, str):
        groups = layer_groups(generator)
        if layers not in groups:
            raise ConfigError(f"layers {layers[:40]!r}: choose one of {', '.join(groups)}")
        return groups[layers]
    ends = tuple(layers)
    if len(ends) != 2 or not all(isinstance(end, int) for end in ends) or not 0 <= ends[0] < ends[1] <= count:
        raise ConfigError(f"layers {str(layers)[:40]}: give the first and the one after the last, within 0 to {count}")
    return range(*ends)


# ----- Latents of one image -----


def take_component(ws: Tensor, other: Tensor, component: int, source: int | None = None) -> Tensor:
    """``ws`` with one component of ``other``: the same, or ``source``."""
    source = component if source is None else source
    _check_component(component, len(ws))
    _check_component(source, len(other))
    mixed = ws.clone()
    mixed[component] = other[source]
    return mixed


def pull_component(generator: Generator, ws: Tensor, component: int, psi: float) -> Tensor:
    """``ws`` with one component truncated: ``w_avg + psi·(w − w_avg)``; psi 0 is its mean, 1 changes nothing."""
    _check_component(component, len(ws))
    pulled = ws.clone()
    pulled[component] = torch.lerp(mean_latents(generator)[component].expand_as(ws[component]), ws[component], psi)
    return pulled


def mix_layers(ws: Tensor, other: Tensor, layers: range) -> Tensor:
    """``ws`` with the latents that some layers read from ``other`` (style mixing; StyleGAN, section 3.1)."""
    mixed = ws.clone()
    mixed[:, layers.start : layers.stop] = other[:, layers.start : layers.stop]
    return mixed


def _check_component(component: int, count: int) -> None:
    if isinstance(component, bool) or not isinstance(component, int) or not 0 <= component < count:
        raise ConfigError(f"component {str(component)[:40]}: an image of this model has latents 0 to {count - 1}")


def _latents_of(
    generator: Generator,
    images: Sequence[int] | Tensor | npt.NDArray[Any],
    truncation_psi: float,
    labels: npt.ArrayLike | None,
) -> Tensor:
    """``[N, m+1, L, w]`` that may be written to."""
    array = images.detach().cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)
    if array.ndim == 1 and array.dtype.kind in "iu":
        return map_seeds(generator, array.tolist(), truncation_psi=truncation_psi, labels=labels)
    check_latents(generator, array, "w", "latents")
    return with_layers(generator, torch.from_numpy(as_float32(array))).contiguous()


def _apply(
    generator: Generator,
    edit: ComponentEdit,
    ws: Tensor,
    gone: Tensor,
    truncation_psi: float,
    labels: npt.ArrayLike | None,
) -> None:
    """One edit of one image's ``ws [m+1, L, w]`` and ``gone [m]``, in place."""
    component, has_mask = edit.component, edit.component < len(gone)
    if has_mask and gone[component] and edit.action.startswith("toward"):
        raise ConfigError(f"{edit}: it has been removed, so it cannot be moved; re-roll it or copy one")
    if edit.action == "remove":
        gone[component] = True
        if gone.all():
            raise ConfigError(f"{edit}: it is the last one, and the image needs one; keep a component")
        return
    other = component if edit.other is None else edit.other
    layers = edited_layers(generator, edit.layers)
    if edit.action == "swap":
        target = ws.clone()
        target[[component, other]] = ws[[other, component]]
        if has_mask and other < len(gone) and edit.layers is None:
            gone[[component, other]] = gone[[other, component]].clone()
    elif edit.action == "toward-mean":
        target = pull_component(generator, ws, component, 1 - edit.amount)
    else:
        source = _source(generator, edit, truncation_psi, labels)
        target = take_component(ws, source, component, other)
        target[component] = torch.lerp(ws[component], target[component], edit.amount)
        if has_mask:
            gone[component] = False
    ws.copy_(mix_layers(ws, target, layers))


def _source(generator: Generator, edit: ComponentEdit, truncation_psi: float, labels: npt.ArrayLike | None) -> Tensor:
    """The latents ``[m+1, L, w]`` of the image that a component comes from."""
    if edit.latents is not None:
        given = edit.latents[None]
        return _latents_of(generator, given, truncation_psi, labels)[0]
    assert edit.seed is not None
    return map_seeds(generator, [edit.seed], truncation_psi=truncation_psi, labels=labels)[0]
