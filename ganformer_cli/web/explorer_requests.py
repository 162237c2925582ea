"""What the explorer's page asks for: JSON objects, whose every field is checked."""

from __future__ import annotations

from typing import Any

from ganformer_cli.errors import ConfigError


class Request:
    """The JSON object of a request, read field by field.

    Raises:
        ConfigError: by every method, for a value of a wrong type or out of range.
    """

    def __init__(self, body: dict[str, Any]) -> None:
        self._body = body

    def check(self, names: set[str]) -> None:
        """Refuse fields of other names."""
        if others := self._body.keys() - names - {"what"}:
            raise ConfigError(f"{min(others)[:40]!r}: is not a field of this request; reload the page")

    def _take(self, name: str, optional: bool) -> Any:
        value = self._body.get(name)
        if value is None and not optional:
            raise ConfigError(f"{name}: is missing")
        return value

    def text(self, name: str, *, optional: bool = False) -> Any:
        """A short text."""
        value = self._take(name, optional)
        if value is not None and (not isinstance(value, str) or len(value) > 100):
            raise ConfigError(f"{name}: is no short text")
        return value

    def choice(self, name: str, names: tuple[str, ...]) -> str:
        """One of several words."""
        value: str = self.text(name)
        if value not in names:
            raise ConfigError(f"{name} {value!r}: choose one of {', '.join(names)}")
        return value

    def names(self, name: str, known: tuple[str, ...], *, optional: bool = False) -> tuple[str, ...] | None:
        """Several words, each once."""
        value = self._take(name, optional)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(each, str) and each in known for each in value):
            raise ConfigError(f"{name}: give a list of {', '.join(known)}")
        return tuple(each for each in known if each in value)

    def boolean(self, name: str) -> bool:
        """True or false."""
        value = self._take(name, False)
        if not isinstance(value, bool):
            raise ConfigError(f"{name}: is neither true nor false")
        return value

    def integer(self, name: str, low: int, high: int, *, optional: bool = False) -> Any:
        """A whole number within bounds."""
        value = self._take(name, optional)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ConfigError(f"{name} {str(value)[:40]}: give a whole number from {low} to {high}")
        return value

    def number(self, name: str, low: float, high: float) -> float:
        """A number within bounds."""
        return _number(name, self._take(name, False), low, high)

    def numbers(self, name: str, count: int, limit: float, *, optional: bool = False) -> tuple[float, ...] | None:
        """So many numbers."""
        value = self._take(name, optional)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != count:
            raise ConfigError(f"{name}: give a list of {count} numbers")
        return tuple(_number(name, each, -limit, limit) for each in value)


def _number(name: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ConfigError(f"{name} {str(value)[:40]}: give a number from {low:g} to {high:g}")
    return float(value)
