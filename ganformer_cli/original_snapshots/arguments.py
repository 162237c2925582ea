"""Arguments that a snapshot says its networks were made with, read one by one and checked (``Arguments``)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from ganformer_cli.config import ModelConfig, settings_of
from ganformer_cli.config.model import MAX_CHANNELS, MAX_LATENT
from ganformer_cli.errors import SnapshotError
from ganformer_cli.text import printable

#: The longest value that is shown in a message.
_SHOWN = 60
#: What only networks with attention read; both of the authors' programs call it so.
ATTENTION_ARGUMENTS = (
    "use_pos", "num_heads", "start_res", "end_res", "norm", "integration", "kmeans", "kmeans_iters", "pos_dim",
    "pos_type", "pos_init", "pos_directions_num", "img_gate", "ltnt_gate", "attention_dropout", "iterative",
)  # fmt: skip


class Arguments:
    """Named values of one network, from the sources that may have them: the first that says one is right.

    Reading one checks its type and range. ``check_the_rest`` refuses those that were never read,
    so that nothing that changes what a network computes is ignored.

    Args:
        where: the file, for messages.
        part: what the arguments are those of, for messages: ``"synthesis_kwargs"``.
        sources: as they were found in the file; anything but a dictionary counts as empty.
    """

    def __init__(self, where: str, part: str, *sources: object) -> None:
        self.where, self.part = where, part
        self._sources = [source for source in sources if isinstance(source, Mapping)]
        self._read: set[str] = set()

    def get(self, *names: str) -> Any:
        """The value of the first of ``names`` (of the same argument) that is there and not None."""
        self._read.update(names)
        for source in self._sources:
            for name in names:
                if source.get(name) is not None:
                    return source[name]
        return None

    def integer(self, *names: str, default: int, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``."""
        found = self.get(*names)
        if found is None:
            return default
        whole = isinstance(found, int) or (isinstance(found, float) and found.is_integer())
        if not whole or isinstance(found, bool) or not low <= found <= high:
            raise self._wrong(names, found, f"a whole number from {low} to {high}")
        return int(found)

    def optional_integer(self, *names: str, low: int, high: int) -> int | None:
        """The same, or None where it is not there."""
        return None if self.get(*names) is None else self.integer(*names, default=low, low=low, high=high)

    def number(self, *names: str, default: float, low: float, high: float) -> float:
        """A number from ``low`` to ``high``."""
        found = self.get(*names)
        if found is None:
            return default
        number = isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found)
        if not number or not low <= found <= high:
            raise self._wrong(names, found, f"a number from {low:g} to {high:g}")
        return float(found)

    def flag(self, *names: str, default: bool) -> bool:
        """True or False."""
        found = self.get(*names)
        if found is None:
            return default
        if not isinstance(found, bool | int | float) or found not in (0, 1):
            raise self._wrong(names, found, "True or False")
        return bool(found)

    def choice(self, *names: str, default: str, choices: Collection[str]) -> str:
        """One of ``choices``."""
        found = self.get(*names)
        if found is None:
            return default
        if not isinstance(found, str) or found not in choices:
            raise self._wrong(names, found, f"one of {', '.join(choices)}")
        return found

    def refuse(self, name: str, why: str) -> None:
        """Raise SnapshotError where the argument is there and not switched off."""
        found = self.get(name)
        if not _is_off(found):
            raise SnapshotError(f"{self.where}: made with {self._said(name)} {_shown(found)}, {why}; it is refused")

    def check_the_rest(self, without_effect: Collection[str] = (), fixed: Mapping[str, Any] | None = None) -> None:
        """Raise SnapshotError for what was not read and may change what the network computes.

        Args:
            without_effect: names of arguments that do not affect images.
            fixed: what an argument has to be, where only one value can be read.
        """
        for source in self._sources[:1]:
            for name, value in source.items():
                if name in self._read or name in without_effect or _is_off(value):
                    continue
                if not isinstance(name, str):
                    raise SnapshotError(f"{self.where}: {self.part} has names that are not text; the file is damaged")
                if fixed is not None and name in fixed and _equal(value, fixed[name]):
                    continue
                only = f" (only {fixed[name]!r} can be read)" if fixed and name in fixed else ""
                raise SnapshotError(
                    f"{self.where}: made with {self._said(name)} = {_shown(value)}{only}, and what that changes in the "
                    "network is not known here, so the file is refused"
                )

    def _said(self, name: str) -> str:
        return f"{self.part}.{name}" if self.part else name

    def _wrong(self, names: tuple[str, ...], value: object, expected: str) -> SnapshotError:
        said = next((name for name in names if any(source.get(name) is not None for source in self._sources)), names[0])
        return SnapshotError(
            f"{self.where}: its setting {self._said(said)} is {_shown(value)}, not {expected}: the file is damaged, or "
            "of a network that cannot be read"
        )


def read_attention(given: Arguments, *, kmeans: bool, size: int, use_pos: bool) -> dict[str, Any]:
    """The fields of ``ModelConfig`` that describe attention and that both programs name alike.

    Args:
        size: of a component's latent, which is the default of ``pos_dim``.
        use_pos: what it is where no argument says so.

    Raises:
        SnapshotError: an argument is damaged.
    """
    fields = settings_of(ModelConfig)
    settings: dict[str, Any] = {
        "num_heads": given.integer("num_heads", default=1, low=1, high=MAX_CHANNELS),
        "integration": given.choice("integration", default="add", choices=fields["integration"].choices),
        "normalize": given.choice("norm", default="none", choices=fields["normalize"].choices),
        "g_start_res": given.integer("start_res", default=0, low=0, high=64),
        "g_end_res": given.integer("end_res", default=8, low=0, high=64),
        "img_gate": given.flag("img_gate", default=False),
        "ltnt_gate": given.flag("ltnt_gate", default=False),
        "use_pos": given.flag("use_pos", default=use_pos),
        "attention_dropout": given.number(
            "attention_dropout", default=ModelConfig.attention_dropout, low=0, high=0.999
        ),
        "pos_type": given.choice("pos_type", default="sinus", choices=fields["pos_type"].choices),
        "pos_dim": given.optional_integer("pos_dim", low=1, high=MAX_LATENT),
    }
    iterations = given.integer("kmeans_iters", default=1, low=1, high=64)
    directions = given.integer("pos_directions_num", default=2, low=1, high=64)
    if settings["pos_dim"] == size:
        settings["pos_dim"] = None
    if kmeans:
        settings["kmeans_iters"] = iterations
    if settings["pos_type"] in ("sinus", "linear"):
        settings["pos_directions_num"] = directions
    return settings


def _is_off(value: object) -> bool:
    """None, False, zero or nothing at all: what an argument is that asks for nothing."""
    return value is None or (isinstance(value, bool | int | float | str | list | tuple | dict) and not value)


def _equal(value: object, expected: object) -> bool:
    if isinstance(value, list | tuple) and isinstance(expected, list):
        return list(value) == expected
    return type(value) in (type(expected), int, float) and value == expected


def _shown(value: object) -> str:
    """A value on one line, not too long: these are other people's."""
    return printable(repr(value), limit=_SHOWN)
