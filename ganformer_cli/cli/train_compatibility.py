"""Options of the authors' scripts, PyTorch and TensorFlow, that are no settings of their own here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import click

from ganformer_cli.cli.options import F, boolean_option, combined, ignored_option, option
from ganformer_cli.errors import ConfigError

_GROUP = "Compatibility"


class Synonym(NamedTuple):
    """An option that stands for settings of ours."""

    name: str
    kind: Any  # a type of click's
    help: str
    meaning: Callable[[Any], dict[str, Any]]  # from its value


class Replaced(NamedTuple):
    """An option that is refused, but for the values that say what happens anyway."""

    name: str
    kind: type
    accepted: Any
    instead: str


_SYNONYMS = (
    Synonym("--kmeans", bool, "Same as --attention kmeans.", lambda on: {"attention": "kmeans"} if on else {}),
    Synonym(
        "--g-img2ltnt",
        bool,
        "Same as --attention duplex-equation.",
        lambda on: {"attention": "duplex-equation"} if on else {},
    ),
    Synonym("--transformer", bool, "False is --attention none.", lambda on: {} if on else {"attention": "none"}),
    Synonym("--allow-tf32", bool, "False is --precision fp32.", lambda on: {} if on else {"precision": "fp32"}),
    Synonym("--g-reg-weight", float, "Same as --pl-weight.", lambda value: {"pl_weight": value}),
    Synonym("--mapping-layersnum", int, "Same as --mapping-num-layers.", lambda value: {"mapping_num_layers": value}),
    Synonym(
        "--d-reg",
        click.Choice(["r1", "none"], case_sensitive=False),
        "r1: the R1 penalty with the weight --gamma, as always; none: --gamma 0.",
        lambda value: {"gamma": 0.0} if value == "none" else {},
    ),
)
_REPLACED = (
    Replaced("--clip", float, 0.0, "gradients are not clipped here; lower --g-lr and --d-lr if they explode"),
    Replaced(
        "--mapping-lrmul", float, 0.01, "the mapping network's learning rate is always 0.01 of --g-lr; change --g-lr"
    ),
    Replaced("--mapping-shared-dim", int, 0, "use --mapping-dim, also with --mapping-shared"),
    Replaced(
        "--d-img2img",
        int,
        0,
        "the discriminator has no self-attention of the image; use --d-transformer with --d-ltnt2img, or --baseline "
        "SAGAN",
    ),
    Replaced("--d-ltnt2ltnt", bool, False, "the aggregators do not attend to each other; use --d-transformer"),
    Replaced("--merge-same", bool, False, "not described by the authors; use --merge-type and --merge-layer"),
)
_IGNORED = (
    ("--train", "this command trains"),
    ("--recompile", "operators are built again when they have changed"),
    ("--fused-modconv", "it computes the same"),
)


def _refuse(replaced: Replaced) -> Callable[[click.Context, click.Parameter, Any], None]:
    def answer(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value not in (None, replaced.accepted):
            raise ConfigError(f"{_said(replaced.name, value)}: {replaced.instead}")

    return answer


def _said(name: str, value: Any) -> str:
    """An option as the user gave it."""
    return name if value is True else f"{name} {value}"


def compatibility_options(command: F) -> F:
    """Give a command all of them."""
    common: dict[str, Any] = {"group": _GROUP, "rare": True, "default": None}
    made: list[Callable[[F], F]] = []
    made += [_option(name, kind, help=text, **common) for name, kind, text, _ in _SYNONYMS]
    made.append(boolean_option("--kgan", "baseline_kgan", help="Same as --baseline kGAN.", **common))
    made.append(boolean_option("--summarize", help="Same as --tensorboard.", **{**common, "default": False}))
    for replaced in _REPLACED:
        text = f"Leave it out, or say {replaced.accepted}: {replaced.instead}."
        refuse = _refuse(replaced)
        made.append(_option(replaced.name, replaced.kind, help=text, callback=refuse, expose_value=False, **common))
    made += [ignored_option(name, why=why) for name, why in _IGNORED]
    return combined(*made)(command)


def _option(name: str, kind: Any, **attributes: Any) -> Callable[[F], F]:
    return boolean_option(name, **attributes) if kind is bool else option(name, type=kind, **attributes)


def synonyms(given: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The synonyms among the parameters that a user gave: the words, and the settings that they stand for."""
    for name, _, _, meaning in _SYNONYMS:
        value = given.get(name[2:].replace("-", "_"))
        if value is not None:
            yield _said(name, value), meaning(value)
