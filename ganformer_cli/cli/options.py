"""How commands declare options: sections of the help, rare options, booleans, and those that many commands have.

A command is made with ``@click.command("name", cls=GroupedCommand)``, and its options with :func:`option`,
:func:`boolean_option` and the like, below headings of :func:`section`; some are ready at the end of this file.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from ganformer_cli.cli.config_file import read_config_file
from ganformer_cli.cli.option_types import check_word
from ganformer_cli.cli.output import echo

F = TypeVar("F", bound=Callable[..., Any])

HELP_ALL = "ganformer.help_all"  # key in Context.meta: whether to show rare options
WARNED = "ganformer.warned"  # key in Context.meta: the warnings so far
MAX_PROCESSES = 1024
MAX_BATCH_SIZE = 65_536
MAX_PSI = 100.0  # of a truncation, in either direction; beyond it images are saturated

_METAVARS = {"integer": "N", "integer range": "N", "float": "NUMBER", "float range": "NUMBER"}
_TRUE = frozenset({"true", "t", "yes", "y", "on", "1"})
_FALSE = frozenset({"false", "f", "no", "n", "off", "0"})


# ----- Sections and rare options -----


class GroupedOption(click.Option):
    """An option in section ``group`` of the help (empty: not known yet); a rare one is shown by ``--help-all`` only."""

    def __init__(self, *args: Any, group: str = "", rare: bool = False, **kwargs: Any) -> None:
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
                title = (parameter.group or "Options") if isinstance(parameter, GroupedOption) else "Help"
                sections.setdefault(title, []).append(record)
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
    joined: list[str] = []
    words = list(args)
    while words:
        word = words.pop(0)
        if word == "--":
            return [*joined, word, *words]
        if word in positive:
            follows = bool(words) and words[0].lower() in _TRUE | _FALSE
            word = f"{word}={words.pop(0) if follows else True}"
        elif word in negative:
            word = f"{negative[word]}=False"
        joined.append(word)
    return joined


# ----- Declarations -----


def option(*names: str, rare: bool = False, **attributes: Any) -> Callable[[F], F]:
    """``click.option`` in the section of the heading above, or ``group``; ``rare`` ones are in ``--help-all`` only."""
    return click.option(*names, cls=GroupedOption, rare=rare, **attributes)


def boolean_option(*names: str, rare: bool = False, **attributes: Any) -> Callable[[F], F]:
    """A ``BooleanOption``: its value is a bool, or ``default`` (None unless given) if it is left out."""
    return click.option(*names, cls=BooleanOption, rare=rare, **attributes)


def switch(*names: str, **attributes: Any) -> Callable[[F], F]:
    """A boolean option that is off unless given."""
    return boolean_option(*names, default=False, **attributes)


def choice_option(*names: str, of: Sequence[str], **attributes: Any) -> Callable[[F], F]:
    """An option whose value is one ``of`` these, the first if it is left out."""
    return option(*names, type=click.Choice(of), default=of[0], **attributes)


def path_option(*names: str, **attributes: Any) -> Callable[[F], F]:
    """An option whose value is a ``Path``."""
    return option(*names, type=click.Path(path_type=Path), **attributes)


def file_option(*names: str, **attributes: Any) -> Callable[[F], F]:
    """An option whose value is the ``Path`` of a file, there or not."""
    return option(*names, type=click.Path(path_type=Path, dir_okay=False), **attributes)


def folder_option(*names: str, **attributes: Any) -> Callable[[F], F]:
    """An option whose value is the ``Path`` of a folder, there or not."""
    return option(*names, type=click.Path(path_type=Path, file_okay=False), **attributes)


def section(title: str) -> Callable[[F], F]:
    """A heading: the section of all options of the command below it that have none yet."""

    def decorate(function: F) -> F:
        for parameter in getattr(function, "__click_params__", ()):
            if isinstance(parameter, GroupedOption) and not parameter.group:
                parameter.group = title
        return function

    return decorate


def combined(*options: Callable[[Any], Any]) -> Callable[[F], F]:
    """Several options, and headings, as one decorator."""

    def decorate(function: F) -> F:
        for each in reversed(options):
            function = each(function)
        return function

    return decorate


def collected(
    name: str, *options: Callable[[Any], Any], into: Callable[..., Any] = dict
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Several options as one parameter ``name`` of the command: ``into(**values)``, by their own parameter names."""

    def probe() -> None:
        """Collects the names."""

    names = [parameter.name for parameter in combined(*options)(probe).__click_params__]  # type: ignore[attr-defined]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def command(**values: Any) -> Any:
            return function(**{name: into(**{each: values.pop(each) for each in names})}, **values)

        return combined(*options)(command)

    return decorate


def ignored_option(*names: str, why: str) -> Callable[[F], F]:
    """A flag of the authors' scripts that is accepted without effect, such as ``--train`` of ``ganformer train``."""
    return switch(*names, group="Compatibility", rare=True, expose_value=False, help=f"Accepted: {why}.")


# ----- What the user gave -----


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


json_option = switch("--json", "as_json", group="Output", help="Print the result as JSON on stdout.")
