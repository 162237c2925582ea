"""What both configurations share: fields that describe themselves, their validation, and JSON there and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from ganformer_cli.errors import ConfigError

Config = TypeVar("Config", bound="JsonConfig")
T = TypeVar("T")

#: Largest magnitude of any number in a configuration.
MAX_NUMBER = 2**63 - 1
_METADATA = "ganformer"
_settings: dict[type, dict[str, Setting]] = {}  # what settings_of has found


class Bounds(NamedTuple):
    """The numbers that a field may have: from ``low`` to ``high``, both included unless excluded here."""

    low: float
    high: float
    above: bool = False  # excludes ``low``
    below: bool = False  # excludes ``high``

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, (int, float)):
            return False
        return (value > self.low if self.above else value >= self.low) and (
            value < self.high if self.below else value <= self.high
        )

    def __str__(self) -> str:
        return f"{'above' if self.above else 'from'} {self.low} {'and below' if self.below else 'to'} {self.high}"


class Description(NamedTuple):
    """What a field says of itself beside its name, type and default."""

    help: str = ""
    section: str = ""  # of the help of ``ganformer train``; "": the field has no option
    usual: bool = False  # shown by --help, not by --help-all alone
    bounds: Bounds | None = None
    default_text: str = ""  # what is shown as the default, where the value does not say it
    metavar: str | None = None


class Setting(NamedTuple):
    """A field of a configuration."""

    name: str
    kind: type  # bool, int, float or str
    is_optional: bool  # whether None is a value
    choices: tuple[str, ...]  # of a Literal; () where any text or number may stand
    default: Any
    description: Description

    @property
    def option(self) -> str:
        """The command-line option: ``components_num`` → ``--components-num``."""
        return option_name(self.name)

    def check(self, value: object) -> None:
        """Raise ConfigError unless ``value`` is one of the choices and within the bounds."""
        if value is None and self.is_optional:
            return
        if self.choices:
            require(value in self.choices, f"{self.option} {value}: choose one of {', '.join(self.choices)}")
        bounds = self.description.bounds
        require(bounds is None or value in bounds, f"{self.option} {value}: choose a number {bounds}")


def setting(default: T, description: Description) -> T:
    """A dataclass field that is described."""
    value: T = dataclasses.field(default=default, metadata={_METADATA: description})
    return value


class Section:
    """A section of the help of ``ganformer train``; called, it makes a field that has an option there."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, default: T, help: str, **more: Any) -> T:
        """A field whose ``Description`` has ``help`` and ``more``."""
        return setting(default, Description(help, self.name, **more))


def settings_of(config: type[Any]) -> dict[str, Setting]:
    """The fields of a configuration by name, in order of declaration."""
    if config in _settings:
        return _settings[config]
    hints = get_type_hints(config)
    found = {}
    for field in dataclasses.fields(config):
        hint, is_optional = hints[field.name], False
        if get_origin(hint) not in (None, Literal):  # int | None and the like
            (hint,), is_optional = [kind for kind in get_args(hint) if kind is not type(None)], True
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        description = field.metadata.get(_METADATA, Description())
        kind = str if choices else hint
        found[field.name] = Setting(field.name, kind, is_optional, choices, field.default, description)
    _settings[config] = found
    return found


def option_name(field: str) -> str:
    """The command-line option of a field: ``components_num`` → ``--components-num``."""
    return "--" + field.replace("_", "-")


def require(condition: bool, message: str) -> None:
    """Raise ``ConfigError(message)`` unless ``condition`` holds."""
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True)
class JsonConfig:
    """A configuration that checks its fields when it is built, and goes to JSON and back."""

    def __post_init__(self) -> None:
        for name, setting in settings_of(type(self)).items():
            setting.check(getattr(self, name))

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls: type[Config], values: Mapping[str, Any], where: str = "configuration") -> Config:
        """Build from plain values.

        Args:
            where: the file that the values come from, for messages.

        Raises:
            ConfigError: a field is unknown, or its value is of the wrong type or out of bounds.
        """
        settings = settings_of(cls)
        if unknown := sorted(set(values) - set(settings)):
            names = ", ".join(repr(name)[1:60].rstrip("'") for name in unknown[:4])
            raise ConfigError(f"{where}: unknown setting {names}; it was written by another version")
        for name, value in values.items():
            kinds = (int, float) if settings[name].kind is float else (settings[name].kind,)
            # bool is an int in Python; a truth value where a number belongs is a mistake all the same.
            right = isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)
            if not right and not (value is None and settings[name].is_optional):
                raise ConfigError(f"{where}: setting {name} has the value {repr(value)[:60]} of the wrong type")
            if isinstance(value, (int, float)) and not abs(value) <= MAX_NUMBER:
                raise ConfigError(f"{where}: setting {name} has a value that is out of range")
        try:
            return cls(**{k: float(v) if settings[k].kind is float and v is not None else v for k, v in values.items()})
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
