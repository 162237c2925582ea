"""What every configuration shares: JSON there and back, and how a contradiction is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ganformer_cli.errors import ConfigError

Config = TypeVar("Config", bound="JsonConfig")

MOST = 2**63 - 1  # of any number in a configuration


def option_name(field: str) -> str:
    """The command-line option of a configuration field: ``components_num`` → ``--components-num``."""
    return "--" + field.replace("_", "-")


def require(condition: bool, message: str) -> None:
    """Raise ``ConfigError(message)`` unless ``condition`` holds."""
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True)
class JsonConfig:
    """JSON there and back, strictly."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls: type[Config], values: Mapping[str, Any], where: str = "configuration") -> Config:
        """Build from plain values; an unknown, mistyped or impossible one is a ConfigError that names ``where``."""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(fields))
        if unknown:
            names = ", ".join(repr(name)[1:60].rstrip("'") for name in unknown[:4])
            raise ConfigError(f"{where}: unknown setting {names}; it was written by another version")
        for name, value in values.items():
            kinds = _ACCEPTED[str(fields[name].type)]
            # bool is an int in Python; a truth value where a number belongs is a mistake all the same.
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                raise ConfigError(f"{where}: setting {name} has the value {repr(value)[:60]} of the wrong kind")
            if isinstance(value, (int, float)) and not abs(value) <= MOST:
                raise ConfigError(f"{where}: setting {name} has a value that is out of range")
        numbers = {k: float(v) if str(fields[k].type) == "float" else v for k, v in values.items()}
        try:
            return cls(**numbers)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error


_ACCEPTED: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "int | None": (int, type(None)),
    "float | None": (int, float, type(None)),
    "str | None": (str, type(None)),
}
