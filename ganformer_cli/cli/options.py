"""What the commands' options share: sections of the help, booleans, seeds, the choice of a device.

A command is made with ``@click.command("name", cls=GroupedCommand)``, and its options with :func:`option` and
:func:`boolean_option`; some are ready at the end of this file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
from click.core import ParameterSource

from ganformer_cli.cli.config_file import read_config_file
from ganformer_cli.cli.output import VERBOSITY, echo
from ganformer_cli.errors import ConfigError
from ganformer_cli.memory import EVALUATION_MIB, TRAINING_MIB, keep_large_blocks
from ganformer_cli.text import printable

if TYPE_CHECKING:
    import torch

F = TypeVar("F", bound=Callable[..., Any])

HELP_ALL = "ganformer.help_all"  # key in Context.meta: whether to show rare options
WARNED = "ganformer.warned"  # key in Context.meta: the warnings so far
MAX_SEEDS = 10_000_000
MAX_PROCESSES = 1024
MAX_BATCH_SIZE = 65_536
MAX_PSI = 100.0  # of a truncation, in either direction; beyond it images are saturated
MAX_SEED = 2**63 - 1  # the limit of torch's generators

_METAVARS = {"integer": "N", "integer range": "N", "float": "NUMBER", "float range": "NUMBER"}
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
MAX_DIGITS = 40
MAX_FLOAT = 3.4e38  # of single precision
_TRUE = frozenset({"true", "t", "yes", "y", "on", "1"})
_FALSE = frozenset({"false", "f", "no", "n", "off", "0"})


# ----- Sections and rare options -----


class GroupedOption(click.Option):
    """An option in a section of the help; a rare one is shown by ``--help-all`` only."""

    def __init__(self, *args: Any, group: str = "Options", rare: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group
        self.rare = rare

    def make_metavar(self, ctx: click.Context) -> str:
        return self.metavar or _METAVARS.get(self.type.name) or super().make_metavar(ctx)

    def get_help_extra(self, ctx: click.Context) -> Any:
        extra = super().get_help_extra(ctx)
        if (getattr(self.type, "max", None) or 0) >= 1000:  # a limit that nobody needs to know
            extra.pop("range", None)
        return extra

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        for word in (value,) if isinstance(value, str) else value if isinstance(value, (tuple, list)) else ():
            check_word(word, self.type, ctx, self)
        try:
            return super().type_cast_value(ctx, value)
        except ValueError as error:  # of Windows: a path of more than 32,767 letters
            raise click.BadParameter(str(error), ctx=ctx, param=self) from error


def check_word(word: object, kind: click.ParamType, ctx: click.Context, parameter: click.Parameter) -> None:
    """Refuse an empty text, and what Python reads as a number but people do not: ``nan``, ``1_000``, other scripts.

    Raises:
        click.BadParameter: ``word`` is no valid value of type ``kind``.
    """
    if not isinstance(word, str):
        return
    shown = printable(word, limit=40)

    def refuse(why: str) -> NoReturn:
        raise click.BadParameter(why, ctx=ctx, param=parameter)

    if isinstance(kind, (type(click.INT), type(click.FLOAT))):
        whole = isinstance(kind, type(click.INT))
        if word.strip().lower().lstrip("+-") in ("nan", "inf", "infinity") and not whole:
            refuse(f"{shown} is not a finite number; write, for example, 0.5")
        if not (_WHOLE if whole else NUMBER).fullmatch(word):
            refuse(f"{shown!r} is not a valid {'integer' if whole else 'float'}.")
        if len(word) > MAX_DIGITS or not abs(float(word)) <= (MAX_SEED if whole else MAX_FLOAT):
            refuse(f"{shown} is too large")
    elif isinstance(kind, (type(click.STRING), click.Path)):
        if not word.strip():
            refuse("is empty; give a value, or leave it out")
        if "\0" in word:
            refuse(f"{shown!r} holds a null character")
        try:
            os.fsencode(word)
        except UnicodeEncodeError:
            refuse(f"{shown} cannot be encoded on this system")


class BooleanOption(GroupedOption):
    """A boolean option: ``--style``, ``--style True``, ``--style=False``, ``--no-style``."""

    def __init__(self, *args: Any, default: bool | None = None, usually_no: bool | None = None, **kwargs: Any) -> None:
        # If the default is no, the help shows neither it nor the negation, which is accepted nevertheless.
        self.usually_no = default is False if usually_no is None else usually_no
        if self.usually_no:
            kwargs.setdefault("show_default", False)
        super().__init__(*args, type=click.BOOL, is_flag=False, default=default, **kwargs)

    @property
    def negations(self) -> list[str]:
        """The names that switch it off, such as ``--no-style``."""
        return [f"--no-{name[2:]}" for name in self.opts if name.startswith("--")]

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        names = ", ".join(self.opts)
        return record and (names if self.usually_no else f"{names} / {self.negations[0]}", record[1])


class GroupedCommand(click.Command):
    """A command whose help has sections, and shows rare options with ``--help-all`` only."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        settings = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 110}
        kwargs["context_settings"] = {**settings, **(kwargs.get("context_settings") or {})}
        super().__init__(*args, **kwargs)
        self.params.append(
            GroupedOption(
                ["--config"],
                type=click.Path(path_type=Path),
                is_eager=True,
                expose_value=False,
                callback=read_config_file,
                metavar="FILE.toml",
                group="Configuration",
                help="Read options from a TOML file, by their long names; the command line wins.",
            )
        )
        if any(isinstance(parameter, GroupedOption) and parameter.rare for parameter in self.params):
            self.params.append(
                click.Option(
                    ["--help-all"],
                    is_flag=True,
                    is_eager=True,
                    expose_value=False,
                    callback=_show_all_help,
                    help="Show all options, including rarely used ones, and exit.",
                )
            )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, join_booleans(args, self.params))
        for parameter in self.params if not ctx.resilient_parsing else ():
            if isinstance(parameter, click.Argument):
                given = ctx.params.get(parameter.name or "")
                for word in given if isinstance(given, tuple) else (given,):
                    check_word(str(word) if isinstance(word, Path) else word, parameter.type, ctx, parameter)
        return rest

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, records in self.help_sections(ctx, rare=ctx.meta.get(HELP_ALL, False)):
            with formatter.section(title):
                formatter.write_dl(records)

    def help_sections(self, ctx: click.Context, *, rare: bool) -> list[tuple[str, list[tuple[str, str]]]]:
        """Sections of the help as (title, [(names, text), ...]), in order of declaration, ``--help`` last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if not isinstance(parameter, click.Option) or (getattr(parameter, "rare", False) and not rare):
                continue
            record = parameter.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(parameter, "group", "Help"), []).append(record)
        if "Help" in sections:
            sections["Help"] = sections.pop("Help")
        return list(sections.items())


def _show_all_help(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta[HELP_ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


def join_booleans(args: Iterable[str], params: Iterable[click.Parameter]) -> list[str]:
    """Join boolean options with their values: ``--style False`` and ``--no-style`` become ``--style=False``, a lone
    ``--style`` becomes ``--style=True``.

    click cannot do this: an option with an optional value would take whatever follows as its value, such as the source
    in ``prepare --strict images.zip``.
    """
    booleans = [parameter for parameter in params if isinstance(parameter, BooleanOption)]
    positive = {name for boolean in booleans for name in boolean.opts}
    negative = {negation: boolean.opts[0] for boolean in booleans for negation in boolean.negations}
    process_group: list[str] = []
    words = list(args)
    while words:
        word = words.pop(0)
        if word == "--":
            return [*process_group, word, *words]
        if word in positive:
            follows = bool(words) and words[0].lower() in _TRUE | _FALSE
            word = f"{word}={words.pop(0) if follows else True}"
        elif word in negative:
            word = f"{negative[word]}=False"
        process_group.append(word)
    return process_group


def option(*names: str, group: str = "Options", rare: bool = False, **attributes: Any) -> Callable[[F], F]:
    """``click.option`` in section ``group`` of the help; ``rare`` ones are shown by ``--help-all`` only."""
    return click.option(*names, cls=GroupedOption, group=group, rare=rare, **attributes)


def boolean_option(*names: str, group: str = "Options", rare: bool = False, **attributes: Any) -> Callable[[F], F]:
    """A ``BooleanOption``: its value is a bool, or ``default`` (None unless given) if it is left out."""
    return click.option(*names, cls=BooleanOption, group=group, rare=rare, **attributes)


def ignored_option(*names: str, why: str) -> Callable[[F], F]:
    """A flag of the authors' scripts that is accepted without effect, such as ``--train`` of ``ganformer train``."""
    attributes: dict[str, Any] = {"group": "Compatibility", "rare": True, "expose_value": False}
    return boolean_option(*names, default=False, help=f"Accepted: {why}.", **attributes)


def given_options(ctx: click.Context) -> dict[str, Any]:
    """The options that the user gave, on the command line or in ``--config``, by parameter name."""
    untouched = {ParameterSource.DEFAULT, None}
    return {name: value for name, value in ctx.params.items() if ctx.get_parameter_source(name) not in untouched}


def warn(message: str) -> None:
    """Print a warning on stderr, each only once."""
    ctx = click.get_current_context(silent=True)
    warned = ctx.meta.setdefault(WARNED, set()) if ctx else set()
    if message not in warned:
        warned.add(message)
        echo(f"{ctx.command_path if ctx else 'ganformer'}: warning: {message}", err=True)


# ----- Seeds -----


class Seeds(click.ParamType):
    """``0-31,40`` as a tuple of ints: in the order given, each seed once."""

    name = "seeds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if not isinstance(value, str):
            return tuple(value)
        seeds: dict[int, None] = {}
        for part in value.split(","):
            first, dash, last = (piece.strip(" ") for piece in part.partition("-"))
            if not _is_number(first) or (dash and not _is_number(last)):
                self.fail(
                    f"{printable(part.strip(), limit=80)!r} is neither a seed nor a range; write, for example, 0-31,40",
                    param,
                    ctx,
                )
            if len(first) > MAX_DIGITS or len(last) > MAX_DIGITS:
                self.fail(f"{part[:MAX_DIGITS]}… is too large; seeds end at {MAX_SEED}", param, ctx)
            low, high = int(first), int(last or first)
            if high < low:
                self.fail(f"{part.strip()!r} ends before it begins; write {high}-{low}", param, ctx)
            if high > MAX_SEED:
                self.fail(f"{high} is too large; seeds end at {MAX_SEED}", param, ctx)
            if len(seeds) + high - low >= MAX_SEEDS:
                self.fail(f"more than {MAX_SEEDS} seeds; ask for fewer at a time", param, ctx)
            seeds.update(dict.fromkeys(range(low, high + 1)))
        return tuple(seeds)


def _is_number(text: str) -> bool:
    # isdigit alone takes "²" too, which int() refuses.
    return text.isascii() and text.isdigit()


SEEDS = Seeds()


# ----- Devices -----


class Gpus(click.ParamType):
    """``0`` or ``0,1`` as a tuple of ints; ``none`` as an empty one."""

    name = "gpus"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if not isinstance(value, str):
            return tuple(value)
        if value.strip().lower() in {"none", "cpu", ""}:
            return ()
        numbers = [part.strip() for part in value.split(",")]
        if not all(_is_number(n) and len(n) <= 4 for n in numbers) or len({*map(int, numbers)}) != len(numbers):
            self.fail(
                f"{printable(value, limit=80)!r}: write a GPU's number such as 0, several such as 0,1, or none for "
                "the CPU",
                param,
                ctx,
            )
        return tuple(map(int, numbers))


gpus_option = option(
    "--gpus",
    type=Gpus(),
    default=None,
    metavar="N",
    group="Device",
    help="Number of the GPU to use, or none for the CPU.  [default: the first GPU, or the CPU]",
)


def processes_option(does: str, default: str = "one; on GPUs one for each of --gpus") -> Callable[[F], F]:
    """``--processes``, whose help begins with ``does``, such as "Train"."""
    return option(
        "--processes",
        type=click.IntRange(1, MAX_PROCESSES),
        default=None,
        metavar="N",
        group="Device",
        rare=True,
        help=f"{does} in N processes on the CPU.  [default: {default}]",
    )


def pick_devices(gpus: tuple[int, ...] | None, *, training: bool = False) -> list[torch.device]:
    """The devices for ``--gpus``; ``None`` (left out) means the first GPU if there is one.

    On a machine without a GPU, asking for one warns and returns the CPU, so that a command line works everywhere;
    asking for several to train on is an error. In ``training``, a single number that equals the number of GPUs
    means all of them, as in the authors' scripts. The allocator is also told to keep the memory of freed tensors, less
    of it in ``training``.

    Raises:
        ConfigError: there is no GPU of that number.
    """
    keep_large_blocks(TRAINING_MIB if training else EVALUATION_MIB)
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus is None:
        return [torch.device("cuda", 0) if found else torch.device("cpu")]
    if not gpus:
        return [torch.device("cpu")]
    said = f"--gpus {','.join(map(str, gpus))}"
    if not found:
        if training and len(gpus) > 1:
            raise ConfigError(
                f"{said}: torch finds no GPU here (see ganformer doctor); --gpus none is the CPU{_cuda_hint()}"
            )
        warn(f"{said}: torch finds no GPU here; using the CPU{_cuda_hint()}")
        return [torch.device("cpu")]
    if training and found > 1 and gpus == (found,):
        gpus = tuple(range(found))
    if missing := [number for number in gpus if number >= found]:
        last = f"0 to {found - 1}" if found > 1 else "0"
        raise ConfigError(f"{said}: there is no GPU {missing[0]} here; choose from {last}")
    return [torch.device("cuda", number) for number in gpus]


def _cuda_hint() -> str:
    """Where torch is built for the CPU only, as pip installs it on Windows: how to get one for GPUs."""
    import torch

    if torch.version.cuda or torch.version.hip:
        return ""
    from ganformer_cli.operators.checks import find_cards, how_to_install_cuda

    return f". This torch is for the CPU only; for an NVIDIA GPU, {how_to_install_cuda(find_cards(os.environ))}"


def pick_device(gpus: tuple[int, ...] | None) -> torch.device:
    """The device for ``--gpus`` of a command that uses a single one; see ``pick_devices``.

    Raises:
        ConfigError: there is no GPU of that number, or several are given.
    """
    devices = pick_devices(gpus)
    if len(devices) > 1 and gpus is not None:
        said = ",".join(map(str, gpus))
        raise ConfigError(f"--gpus {said}: this command uses one GPU; give one, for example --gpus {gpus[0]}")
    return devices[0]


json_option = boolean_option(
    "--json", "as_json", default=False, group="Output", help="Print the result as JSON on stdout."
)


# ----- What is printed -----


def _set_quiet(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    VERBOSITY.quiet = bool(value)


def _set_log_file(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    if path is None or ctx.resilient_parsing:
        return
    try:
        why = "is a folder; give a file" if path.is_dir() else ""
        why = why or ("" if path.parent.is_dir() else f"{path.parent} is not a folder; create it")
    except OSError as error:  # such as a name that is too long
        why = error.strerror or str(error)
    if why:
        raise click.BadParameter(f"{printable(path)}: {why}", ctx=ctx, param=parameter)
    if os.environ.get("RANK", "0") == "0":  # one of several processes writes
        VERBOSITY.log_file = path


def verbosity_options(command: F) -> F:
    """``--quiet`` and ``--log-file``, which ``output`` and ``progress`` obey."""
    common: dict[str, Any] = {"group": "Output", "is_eager": True, "expose_value": False}
    quiet: Callable[[F], F] = boolean_option(
        "--quiet", default=False, callback=_set_quiet, help="Show no progress.", **common
    )
    log_file: Callable[[F], F] = option(
        "--log-file",
        type=click.Path(path_type=Path),
        callback=_set_log_file,
        metavar="FILE",
        rare=True,
        help="Append everything that is printed, and the progress, to a file, with the time.",
        **common,
    )
    return quiet(log_file(command))
