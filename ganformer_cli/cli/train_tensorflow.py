"""Options of the authors' TensorFlow version that are no settings here: understood, or answered with what to use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from ganformer_cli.cli.options import boolean_option, ignored_option, option
from ganformer_cli.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])

GROUP = "Compatibility"


def _replaced(
    *names: str, instead: str, kind: Any = None, accept: tuple[Any, ...] = (), metavar: str | None = None
) -> Callable[[F], F]:
    """An option that says what happens anyway with the values of ``accept``, and with others what to use ``instead``.

    Without ``kind`` it is a boolean, and False is fine.
    """

    def answer(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value is None or value is False or value in accept:
            return
        said = parameter.opts[0] if kind is None else f"{parameter.opts[0]} {value}"
        raise ConfigError(f"{said}: {instead}")

    same = f", or {' or '.join(map(str, accept))}" if accept else ""
    text = f"Of the TensorFlow version; leave it out{same}: {instead}."
    attributes: dict[str, Any] = {"group": GROUP, "rare": True, "expose_value": False, "callback": answer, "help": text}
    if kind is None:
        return boolean_option(*names, default=False, **attributes)
    return option(*names, type=kind, default=None, metavar=metavar, **attributes)


_OPTIONS = (
    ignored_option("--summarize", why="log.jsonl has what TensorFlow's summaries had"),
    ignored_option("--recompile", why="operators are built again when they have changed"),
    ignored_option("--fused-modconv", why="it computes the same"),
    boolean_option("--kgan", "tf_kgan", group=GROUP, rare=True, default=None, help="Same as --baseline kGAN."),
    option(
        "--g-reg-weight", type=float, default=None, metavar="NUMBER", group=GROUP, rare=True,
        help="Same as --pl-weight.",
    ),
    option(
        "--mapping-layersnum", type=int, default=None, metavar="N", group=GROUP, rare=True,
        help="Same as --mapping-num-layers.",
    ),
    option(
        "--d-reg", type=click.Choice(["r1", "none"], case_sensitive=False), default=None, group=GROUP, rare=True,
        help="r1 happens anyway, with the weight --gamma; none is --gamma 0.",
    ),
    _replaced(
        "--clip", kind=float, accept=(0.0,), metavar="NUMBER",
        instead="gradients are not clipped here; lower --g-lr and --d-lr if they explode",
    ),
    _replaced(
        "--mapping-lrmul", kind=float, accept=(0.01,), metavar="NUMBER",
        instead="the mapping network learns at 0.01 of --g-lr, which is fixed; change --g-lr",
    ),
    _replaced(
        "--mapping-shared-dim", kind=int, accept=(0,), metavar="N",
        instead="use --mapping-dim, which is the hidden width of a shared mapping network (--mapping-shared), too",
    ),
    _replaced(
        "--d-img2img", kind=int, accept=(0,), metavar="N",
        instead="the discriminator has no self-attention of the picture; use --d-transformer with --d-ltnt2img, or "
        "--baseline SAGAN",
    ),
    _replaced(
        "--d-ltnt2ltnt", instead="the discriminator's components do not attend to each other; use --d-transformer",
    ),
)  # fmt: skip


def tensorflow_options(command: F) -> F:
    """Give a command all of them."""
    for each in reversed(_OPTIONS):
        command = each(command)
    return command


def meanings(given: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """What the options that a user gave stand for: the words, and the settings."""
    found: list[tuple[str, dict[str, Any]]] = []
    for name, field in (("g_reg_weight", "pl_weight"), ("mapping_layersnum", "mapping_num_layers")):
        if given.get(name) is not None:
            found.append((f"--{name.replace('_', '-')} {given[name]}", {field: given[name]}))
    if (given.get("d_reg") or "").lower() == "none":
        found.append(("--d-reg none", {"gamma": 0.0}))
    return found
