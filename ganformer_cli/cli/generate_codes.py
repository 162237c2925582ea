"""How a VQGAN draws its codes for ``ganformer generate``, and which of the options have no meaning for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganformer_cli.config import option_name
from ganformer_cli.errors import ConfigError

if TYPE_CHECKING:
    from ganformer_cli.models import Generator

#: Parameters of the command that act on components, styles, noise or a space of latents, none of which a VQGAN has.
_MEANINGLESS = (
    *("psis", "noise", "space", "maps", "layer_maps", "maps_format", "map_style", "blending_alpha", "mix", "mix_from"),
    *("component_psi", "style_mix", "noise_variation", "disentanglement", "component", "rich_num", "interpolate"),
    *("interpolation_density", "interpolate_in", "loop", "film", "film_grid", "fps", "scale", "training_film"),
)


def choose_codes(
    generator: Generator, codes: Mapping[str, Any], given: Mapping[str, Any], file: Path
) -> dict[str, Any]:
    """Set how a VQGAN draws its codes; returns what belongs to the metadata of its images, nothing for other models.

    Args:
        codes: the fields of ``CodeSampling``; None where they are not given.
        given: all that the user gave, by parameter name.

    Raises:
        ConfigError: an option has no meaning for this model, or the model cannot draw yet.
    """
    from ganformer_cli.models.vqgan import VQGAN, CodeSampling

    asked = {name: value for name, value in codes.items() if value is not None}
    if not isinstance(generator, VQGAN):
        if asked:
            names = ", ".join(map(option_name, asked))
            raise ConfigError(f"{names}: {file} is not a VQGAN and draws no codes; leave it out, see --truncation-psi")
        return {}
    if unread := [name for name in _MEANINGLESS if name in given]:
        names = ", ".join("--truncation-psi" if name == "psis" else option_name(name) for name in unread)
        raise ConfigError(
            f"{names}: has no meaning for {file}, a VQGAN: it has no components, styles, noise or space of latents; "
            "leave it out, see --temperature, --top-k and --top-p"
        )
    if not generator.can_sample:
        raise ConfigError(
            f"{file}: a VQGAN in stage 1, whose transformer has not been trained: there is nothing to draw from yet; "
            "continue its training, or give a later snapshot"
        )
    generator.code_sampling = CodeSampling(**asked)
    generator.code_sampling.check(generator.config.codebook_size)
    return {"temperature": 1.0, "top_k": None, "top_p": 1.0} | asked
