"""The card in an exported file: where the model comes from, and how to call it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ganformer_cli import __version__
from ganformer_cli.export.function import DecoderFunction, GeneratorFunction
from ganformer_cli.files import sha256_of
from ganformer_cli.sampling.latents import DEFAULT_PSI

_CODES = (
    "rows of the code grid, top to bottom, each from left to right; numbers from 0 to codebook_size - 1, as the "
    "model's transformer draws them in ganformer generate (in Python: model.mapping(z, c)). The transformer is not in "
    "this file."
)


def exported_card(file: Path, header: dict[str, Any], function: DecoderFunction | GeneratorFunction) -> dict[str, Any]:
    """What the exported file says of itself, as JSON values."""
    config = function.generator.config
    kept = ("kimg", "dataset", "licence", "source")
    if isinstance(function, GeneratorFunction):
        own = _latents_card(header, function)
    else:
        own = {"code_grid": list(config.code_grid), "codebook_size": config.codebook_size, "codes": _CODES}
    return {
        "model": file.name,
        "model_sha256": sha256_of(file),
        "ganformer": __version__,
        **{name: header[name] for name in kept if header.get(name) is not None},
        **own,
        **function.described(),
        "config": config.to_dict(),
    }


def _latents_card(header: dict[str, Any], function: GeneratorFunction) -> dict[str, Any]:
    """Of any network but a VQGAN: truncation, noise and classes."""
    generator = function.generator
    labels, psi = generator.label_distribution, header.get("truncation_psi")
    names = list(labels.names) if function.takes_class and labels is not None and labels.names is not None else None
    return {
        "truncation_psi": psi if isinstance(psi, float) else DEFAULT_PSI,
        "noise": function.settings.noise,
        **(
            {"noise_maps": {k: list(v) for k, v in generator.noise_shapes().items()}}
            if function.settings.noise == "input"
            else {}
        ),
        "classes": names,
    }
