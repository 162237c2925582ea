"""What a tab of the explorer shows, and how it came about: states are values, a history is a list of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ganformer_cli.errors import ConfigError
from ganformer_cli.models import NoiseMode
from ganformer_cli.sampling.components import ComponentEdit

#: Steps that a history keeps; then the oldest are dropped.
MAX_STEPS = 200


@dataclass(frozen=True)
class BlendEdit:
    """All latents of the image move toward those of another seed."""

    seed: int
    amount: float  # 0 changes nothing, 1 arrives
    layers: tuple[int, int] | None = None  # only what these layers read: the first, and the one after the last


@dataclass(frozen=True)
class ImageState:
    """Everything that an image is drawn from."""

    source: int = 0  # its seed, or the row of the given latents
    edits: tuple[ComponentEdit | BlendEdit, ...] = ()  # what was done with its latents, in this order
    psi: float = 1.0  # truncation of all seeds; given latents are taken as they are
    label: tuple[float, ...] | None = None  # of all seeds; None is that of ``source``
    noise: NoiseMode = "const"
    noise_seed: int = 0  # of random noise

    def edited(self, *edits: ComponentEdit | BlendEdit) -> ImageState:
        """This state with more edits."""
        return replace(self, edits=(*self.edits, *edits))

    def record(self) -> dict[str, Any]:
        """The state as JSON values, for the metadata of what is saved."""
        edits = []
        for edit in self.edits:
            fields = {name: value for name, value in vars(edit).items() if value is not None and name != "latents"}
            edits.append({"action": "blend", **fields} if isinstance(edit, BlendEdit) else fields)
        noise = {"noise_seed": self.noise_seed} if self.noise == "random" else {}
        return {"truncation_psi": self.psi, "noise": self.noise, **noise, "edits": edits}


class HistoryStep(NamedTuple):
    """One entry of a history."""

    number: int  # unique in its history
    state: ImageState
    title: str
    gesture: str | None  # of a slider: the steps of one movement replace one another
    starts: bool  # a new image begins here


class History:
    """The steps of a tab, and which one it shows; it begins with the state ``first``."""

    def __init__(self, first: ImageState, title: str) -> None:
        self._next = 0
        self.steps = [self._step(first, title, None, True)]
        self.at = 0
        self.dropped = 0

    @property
    def current(self) -> HistoryStep:
        """The step that is shown."""
        return self.steps[self.at]

    @property
    def beginning(self) -> HistoryStep:
        """The step at which the image that is shown began, or the oldest that is left."""
        return next((step for step in reversed(self.steps[: self.at + 1]) if step.starts), self.steps[0])

    def base(self, gesture: str | None) -> ImageState:
        """The state that the next change applies to: within a gesture, the one before it."""
        replaces = gesture is not None and self.current.gesture == gesture and self.at > 0
        return self.steps[self.at - 1].state if replaces else self.current.state

    def push(self, state: ImageState, title: str, *, gesture: str | None = None, starts: bool = False) -> None:
        """Show a new state; what was undone is forgotten."""
        keep = self.at + 1
        if gesture is not None and self.current.gesture == gesture and self.at > 0:
            keep = self.at
        self.steps[keep:] = [self._step(state, title, gesture, starts)]
        if surplus := max(0, len(self.steps) - MAX_STEPS):
            del self.steps[:surplus]
            self.dropped += surplus
        self.at = len(self.steps) - 1

    def undo(self) -> None:
        """Show the step before.

        Raises:
            ConfigError: there is none.
        """
        if self.at == 0:
            raise ConfigError("nothing to undo")
        self.at -= 1

    def redo(self) -> None:
        """Show the step after.

        Raises:
            ConfigError: there is none.
        """
        if self.at == len(self.steps) - 1:
            raise ConfigError("nothing to redo")
        self.at += 1

    def show(self, number: int) -> None:
        """Show the step of that number.

        Raises:
            ConfigError: there is none.
        """
        self.at = self.index(number)

    def index(self, number: int) -> int:
        """The place of the step of that number; raises as ``show``."""
        for index, step in enumerate(self.steps):
            if step.number == number:
                return index
        raise ConfigError(f"step {number} is no longer in the history; choose another")

    def _step(self, state: ImageState, title: str, gesture: str | None, starts: bool) -> HistoryStep:
        self._next += 1
        return HistoryStep(self._next, state, title, gesture, starts)


def changed_components(edits: Sequence[ComponentEdit | BlendEdit], count: int) -> list[int]:
    """The latents, of ``count``, that some edit has touched."""
    touched: set[int] = set()
    for edit in edits:
        if isinstance(edit, BlendEdit):
            return list(range(count))
        touched.add(edit.component)
        if edit.action == "swap" and edit.other is not None:
            touched.add(edit.other)
    return sorted(touched)


def edit_title(edit: ComponentEdit | BlendEdit, global_latent: int | None) -> str:
    """A few words for an edit, whatever its layers."""
    if isinstance(edit, BlendEdit):
        return f"all to seed {edit.seed}" + ("" if edit.amount == 1 else f" by {edit.amount:.2g}")
    name = component_name(edit.component, global_latent)
    other = "" if edit.other is None else component_name(edit.other, global_latent)
    return {
        "reroll": f"re-roll {name}",
        "toward-seed": f"{name} to seed {edit.seed} by {edit.amount:.2g}",
        "toward-mean": f"{name} to mean by {edit.amount:.2g}",
        "remove": f"remove {name}",
        "copy": f"{name} from seed {edit.seed}" if edit.seed is not None else f"{name} restored",
        "swap": f"swap {name} and {other}",
    }[edit.action]


def component_name(component: int, global_latent: int | None) -> str:
    """``global``, or the component's number."""
    return "global" if component == global_latent else str(component)
