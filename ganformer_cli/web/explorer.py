"""``ganformer explore``: what the page asks for, checked, and what it gets. One model, a session for each tab."""

from __future__ import annotations

import base64
import io
import secrets
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy.typing as npt
import PIL.Image

from ganformer_cli.errors import ConfigError
from ganformer_cli.models import Generator, NoiseMode
from ganformer_cli.sampling.components import MAX_AMOUNT, ComponentEdit, EditAction, layer_groups
from ganformer_cli.sampling.image_files import Images
from ganformer_cli.visualization.palette import PALETTE
from ganformer_cli.web.explorer_drawing import Drawer, Drawing, DrawingJob, Superseded
from ganformer_cli.web.explorer_requests import Request
from ganformer_cli.web.explorer_saving import Saver
from ganformer_cli.web.explorer_state import (
    BlendEdit,
    History,
    ImageState,
    changed_components,
    component_name,
    edit_title,
)

#: Larger integers are no exact numbers in a browser.
MAX_BROWSER_SEED = 2**53 - 1
MAX_PSI = 4.0
MAX_SESSIONS = 16
MAX_LABEL = 3.4e38
NEIGHBOURS = 6
_THUMBNAIL = 128

#: The fields of each kind of change, beside those of all.
_CHANGES = {
    "undo": set[str](),
    "redo": set[str](),
    "step": {"step"},
    "image": {"source"},
    "edit": {"action", "component", "layers", "seed", "amount", "other"},
    "blend": {"seed", "amount", "component", "layers"},
    "psi": {"psi"},
    "noise": {"noise", "noise_seed"},
    "label": {"class", "vector"},
}


@dataclass
class Session:
    """One tab."""

    history: History
    lock: threading.Lock = field(default_factory=threading.Lock)
    job: DrawingJob | None = None
    rerolls: int = 0
    thumbnails: dict[int, str] = field(default_factory=dict)  # small images of steps that were drawn


@dataclass(frozen=True)
class LoadedFile:
    """Where the model is from."""

    path: Path
    metadata: Mapping[str, Any]  # of what is saved: its checksum, ...
    state: tuple[int, int]  # size and time of the last change, when it was loaded

    @classmethod
    def of(cls, path: Path, metadata: Mapping[str, Any]) -> LoadedFile:
        """The file as it is now."""
        return cls(path, metadata, _file_state(path))

    def changed(self) -> bool:
        """Whether the file is no longer that which was loaded."""
        return _file_state(self.path) != self.state


class Explorer:
    """Answers the requests of the page; each method that a request calls has its name and takes its JSON object.

    Args:
        model: its file.
        output: where images, latents and films are saved.
        psi: truncation at first.
        seed: of the first image, or its row in ``latents``.
        latents: see ``Drawer``; None draws seeds.
    """

    def __init__(
        self,
        generator: Generator,
        model: LoadedFile,
        output: Path,
        *,
        psi: float = 0.7,
        seed: int = 0,
        latents: npt.NDArray[Any] | None = None,
    ) -> None:
        self.generator, self.model = generator, model
        self.drawer = Drawer(generator, latents)
        self.saver = Saver(self.drawer, output, model.metadata)
        self.first = ImageState(seed, psi=psi)
        self.sessions: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()
        self.groups = {name: (layers.start, layers.stop) for name, layers in layer_groups(generator).items()}
        # The first page then finds its image drawn.
        self.drawer.start(self.first)

    def close(self) -> None:
        """Draw nothing more."""
        self.drawer.close()

    def answer(self, place: str, body: Any) -> dict[str, Any]:
        """The JSON values that the request named ``place`` with the JSON value ``body`` gets.

        Raises:
            ConfigError: it asks for what there is not, or is malformed; the message is for the user.
        """
        requests: dict[str, tuple[Callable[[Request], dict[str, Any]], set[str] | None]] = {
            "open": (self.open, {"session"}),
            "change": (self.change, None),  # has other fields for each kind of change
            "drawing": (self.finished, {"session", "step"}),
            "thumbnail": (self.thumbnail, {"session", "step", "small"}),
            "neighbours": (self.neighbours, {"session", "amount", "component", "layers", "first"}),
            "seed": (self.seed, {"session", "seed"}),
            "save": (self.save, {"session", "kind"}),
        }
        if place not in requests:
            raise ConfigError(f"no request {place[:40]!r}; reload the page")
        if not isinstance(body, dict):
            raise ConfigError("the request is not a JSON object")
        request = Request(body)
        method, fields = requests[place]
        if fields is not None:
            request.check(fields)
        return method(request)

    # ----- Requests -----

    def open(self, request: Request) -> dict[str, Any]:
        """A tab begins, or comes back: the model, and the image that it shows."""
        name = request.text("session", optional=True)
        with self._lock:
            if name not in self.sessions:
                name = secrets.token_urlsafe(9)
                self.sessions[name] = Session(History(self.first, self._source_title(self.first)))
                while len(self.sessions) > MAX_SESSIONS:
                    self.sessions.popitem(last=False)
            session = self.sessions[name]
        return {"session": name, "model": self._describe(), **self._show(session)}

    def change(self, request: Request) -> dict[str, Any]:
        """Another step: an edit, a setting, another image, or a move in the history."""
        session = self._session(request)
        what = request.choice("what", tuple(_CHANGES))
        request.check({"session", "gesture"} | _CHANGES[what])
        gesture = request.text("gesture", optional=True)
        history = session.history
        with session.lock:
            if what == "undo":
                history.undo()
            elif what == "redo":
                history.redo()
            elif what == "step":
                history.show(request.integer("step", 0, MAX_BROWSER_SEED))
            else:
                state, title = self._changed(session, history.base(gesture), what, request)
                self.drawer.edited_latents(state)  # complains before the history has it
                history.push(state, title, gesture=gesture, starts=what == "image")
        return self._show(session)

    def finished(self, request: Request) -> dict[str, Any]:
        """The whole image, after a small one."""
        session = self._session(request)
        step = request.integer("step", 0, MAX_BROWSER_SEED)
        job, shown = session.job, session.history.current
        if job is None or shown.number != step:
            return {"superseded": True}
        try:
            return {"step": step, "drawing": self._drawing(session, step, job.drawing.result())}
        except Superseded:
            return {"superseded": True}

    def thumbnail(self, request: Request) -> dict[str, Any]:
        """The image of one step, whole or small."""
        session = self._session(request)
        number = request.integer("step", 0, MAX_BROWSER_SEED)
        small = request.boolean("small")
        with session.lock:
            state = session.history.steps[session.history.index(number)].state
            kept = session.thumbnails.get(number)
        if small and kept is not None:
            return {"step": number, "image": kept}
        image = next(self.drawer.images([state]))
        return {"step": number, "image": _png(image, _THUMBNAIL if small else None)}

    def neighbours(self, request: Request) -> dict[str, Any]:
        """Images around the one that is shown: each a little toward another seed."""
        session = self._session(request)
        amount = request.number("amount", -MAX_AMOUNT, MAX_AMOUNT)
        component = request.integer("component", 0, self._latents - 1, optional=True)
        layers = request.names("layers", tuple(self.groups), optional=True)
        first = request.integer("first", 0, MAX_BROWSER_SEED - NEIGHBOURS)
        with session.lock:
            step = session.history.current
        states = [
            step.state.edited(*self._toward(component, seed, amount, layers))
            for seed in range(first, first + NEIGHBOURS)
        ]

        def wanted() -> bool:
            return session.history.current is step

        images = [_png(image, _THUMBNAIL) for image in self.drawer.images(states, wanted)]
        if len(images) < len(states):
            return {"superseded": True}
        return {"step": step.number, "seeds": [first + k for k in range(NEIGHBOURS)], "images": images}

    def seed(self, request: Request) -> dict[str, Any]:
        """The small image of another seed, with the settings of the one that is shown."""
        session = self._session(request)
        seed = request.integer("seed", 0, MAX_BROWSER_SEED)
        with session.lock:
            shown = session.history.current.state
        image = next(self.drawer.images([replace(shown, edits=(BlendEdit(seed, 1.0),))]))
        return {"seed": seed, "image": _png(image, _THUMBNAIL)}

    def save(self, request: Request) -> dict[str, Any]:
        """Save the image, its latents, or a film of the steps so far."""
        session = self._session(request)
        what = request.choice("kind", ("image", "latents", "webp", "gif", "mp4"))
        with session.lock:
            history = session.history
            steps = history.steps[: history.at + 1]
        state = steps[-1].state
        origin = {"seed" if self.drawer.latents is None else "row": state.source}
        if what == "image":
            return self.saver.save_image(state, origin)
        if what == "latents":
            return self.saver.save_latents(state)
        return self.saver.save_film([step.state for step in steps], what, origin)

    # ----- Changes -----

    def _changed(self, session: Session, base: ImageState, what: str, request: Request) -> tuple[ImageState, str]:
        """The state after a change of ``base``, and its title."""
        if what == "image":
            last = MAX_BROWSER_SEED if self.drawer.latents is None else len(self.drawer.latents) - 1
            state = replace(base, source=request.integer("source", 0, last), edits=())
            return state, self._source_title(state)
        if what == "edit":
            return self._edited(session, base, request)
        if what == "blend":
            seed, amount = request.integer("seed", 0, MAX_BROWSER_SEED), request.number("amount", 0, 1)
            component = request.integer("component", 0, self._latents - 1, optional=True)
            edits = self._toward(component, seed, amount, request.names("layers", tuple(self.groups), optional=True))
            return base.edited(*edits), self._title(edits)
        if what == "psi":
            psi = request.number("psi", -MAX_PSI, MAX_PSI)
            return replace(base, psi=psi), f"truncation {psi:.2f}"
        if what == "noise":
            noise: NoiseMode = request.choice("noise", get_args(NoiseMode))  # type: ignore[assignment]
            seed = request.integer("noise_seed", 0, MAX_BROWSER_SEED, optional=True)
            if noise != "const" and not self.generator.config.local_noise:
                raise ConfigError("this model has no noise")
            number = f" {seed}" if noise == "random" and seed is not None else ""
            return replace(base, noise=noise, noise_seed=seed or 0), f"noise {noise}{number}"
        if what == "label":
            label, title = self._label(request)
            return replace(base, label=label), title
        raise AssertionError(what)

    def _edited(self, session: Session, base: ImageState, request: Request) -> tuple[ImageState, str]:
        action = request.choice("action", (*get_args(EditAction), "restore"))
        component = request.integer("component", 0, self._latents - 1)
        layers = request.names("layers", tuple(self.groups), optional=True)
        fields: dict[str, Any] = {"component": component}
        if action == "restore":
            title = f"restore {component_name(component, self.generator.config.components_num)}"
            return base.edited(*self._restored(base, component)), title
        if action in ("reroll", "toward-seed", "copy"):
            seed = request.integer("seed", 0, MAX_BROWSER_SEED, optional=action == "reroll")
            if seed is None:
                session.rerolls += 1
                # Any seed will do that is new in this tab, and the same again in another.
                seed = zlib.crc32(f"{base.source} {component} {session.rerolls}".encode())
            fields["seed"] = seed
        if action.startswith("toward"):
            fields["amount"] = request.number("amount", -MAX_AMOUNT, MAX_AMOUNT)
        if action in ("swap", "copy"):
            fields["other"] = request.integer("other", 0, self._latents - 1, optional=action == "copy")
        if action == "remove":
            edits = [ComponentEdit("remove", component)]
        else:
            edits = [ComponentEdit(action, layers=each, **fields) for each in self._groups(layers)]  # type: ignore[arg-type]
        return base.edited(*edits), self._title(edits)

    def _restored(self, base: ImageState, component: int) -> list[ComponentEdit]:
        """Edits that give a component back what it was when the image began."""
        if self.drawer.latents is None:
            return [ComponentEdit("copy", component, seed=base.source)]
        origin = self.drawer.edited_latents(replace(base, edits=()))
        return [ComponentEdit("copy", component, latents=origin.latents[0])]

    def _toward(
        self, component: int | None, seed: int, amount: float, layers: tuple[str, ...] | None
    ) -> list[ComponentEdit | BlendEdit]:
        """One latent, or all, toward a seed."""
        edits: list[ComponentEdit | BlendEdit] = []
        for group in self._groups(layers):
            if component is None:
                edits.append(BlendEdit(seed, amount, None if group is None else self.groups[group]))
            else:
                edits.append(ComponentEdit("toward-seed", component, seed=seed, amount=amount, layers=group))
        return edits

    def _groups(self, layers: tuple[str, ...] | None) -> list[Any]:
        """A group for each edit; None is all layers."""
        if layers is not None and not layers:
            raise ConfigError(f"no layers chosen; choose {', '.join(self.groups)} or several")
        return [None] if layers is None or set(layers) == set(self.groups) else list(layers)

    def _label(self, request: Request) -> tuple[tuple[float, ...] | None, str]:
        size, kept = self.generator.config.c_dim, self.generator.label_distribution
        if not size:
            raise ConfigError("this model was trained without labels")
        number = request.integer("class", 0, size - 1, optional=True)
        vector = request.numbers("vector", size, MAX_LABEL, optional=True)
        if number is not None and (vector is not None or (kept is not None and kept.kind == "vectors")):
            raise ConfigError(f"the labels of this model are vectors of {size} numbers; give one")
        if number is not None:
            name = kept.names[number] if kept is not None and kept.names else number
            return tuple(float(k == number) for k in range(size)), f"class {name}"
        return vector, "label of the seed" if vector is None else "label"

    # ----- Replies -----

    @property
    def _latents(self) -> int:
        return self.generator.z_shape[0]

    def _session(self, request: Request) -> Session:
        name = request.text("session")
        with self._lock:
            session = self.sessions.get(name)
            if session is None:
                raise ConfigError("this tab's session has ended (too many tabs, or the program was restarted); reload")
            self.sessions.move_to_end(name)
        return session

    def _show(self, session: Session) -> dict[str, Any]:
        """The tab's history and image; a small image first, if the whole one takes long."""
        with session.lock:
            history, step = session.history, session.history.current
            changed = (
                f"{self.model.path.name} has changed on disk or is gone; this page continues with the model as it was. "
                "Start ganformer explore again for the new one."
            )
            job = session.job = self.drawer.start(step.state, lambda: session.history.current is step)
            reply: dict[str, Any] = {
                "step": step.number,
                "steps": [{"number": each.number, "title": each.title} for each in history.steps],
                "dropped": history.dropped,
                "beginning": history.beginning.number,
                "state": self._state(step.state),
                "warning": changed if self.model.changed() else None,
            }
        job.ready.wait()
        if job.drawing.done():
            try:
                return {**reply, "drawing": self._drawing(session, step.number, job.drawing.result())}
            except Superseded:
                return {**reply, "superseded": True}
        assert job.preview is not None
        return {**reply, "preview": _png(job.preview)}

    def _state(self, state: ImageState) -> dict[str, Any]:
        dropped = self.drawer.edited_latents(state).dropped
        label = self.drawer.labels(state)
        return {
            "source": state.source,
            "psi": state.psi,
            "noise": state.noise,
            "noise_seed": state.noise_seed,
            "label": label,
            "own_label": state.label is None,
            "changed": changed_components(state.edits, self._latents),
            "removed": [] if dropped is None else dropped[0].nonzero()[:, 0].tolist(),
        }

    def _drawing(self, session: Session, step: int, drawing: Drawing) -> dict[str, Any]:
        """An image and its regions, in one reply; regions as deflated 16-bit numbers."""
        with session.lock:
            known = {each.number for each in session.history.steps}
            session.thumbnails = {number: each for number, each in session.thumbnails.items() if number in known}
            session.thumbnails[step] = _png(drawing.image, _THUMBNAIL)
        regions = drawing.regions.astype("<u2")
        return {
            "image": _png(drawing.image),
            "regions": base64.b64encode(zlib.compress(regions.tobytes(), 1)).decode("ascii"),
            "region_size": list(regions.shape[1:]),
            "layers": list(drawing.layers),
            "shares": [[round(share, 5) for share in row] for row in drawing.shares.tolist()],
            "information": [round(each, 4) for each in drawing.information.tolist()],
            "seconds": round(drawing.seconds, 4),
        }

    def _describe(self) -> dict[str, Any]:
        """What the page must know of the model."""
        config, kept = self.generator.config, self.generator.label_distribution
        components = config.components_num
        has_global = self._latents > components and config.reads_global_latent
        return {
            "name": self.model.path.name,
            "run": self.model.metadata.get("run"),
            "size": list(self.generator.output_size),
            "components": components,
            "global": components if has_global else None,
            "can_remove": bool(config.attention_resolutions),
            "has_maps": config.has_maps,
            "has_noise": config.local_noise,
            "groups": list(self.groups),
            "rows": None if self.drawer.latents is None else len(self.drawer.latents),
            "labels": {
                "size": config.c_dim,
                "kind": "classes" if kept is None else kept.kind,
                "names": None if kept is None or kept.names is None else list(kept.names),
            },
            "palette": ["#" + bytes(colour).hex() for colour in PALETTE],
            "output": str(self.saver.folder),
        }

    def _title(self, edits: list[Any]) -> str:
        """Of edits that differ in their layers at most."""
        names = {edges: name for name, edges in self.groups.items()}
        groups = [names.get(edit.layers, edit.layers) for edit in edits if edit.layers is not None]
        title = edit_title(edits[0], self.generator.config.components_num)
        return f"{title}, {' and '.join(groups)}" if groups else title

    def _source_title(self, state: ImageState) -> str:
        return f"{'seed' if self.drawer.latents is None else 'row'} {state.source}"


def _png(image: Images, size: int | None = None) -> str:
    """A uint8 ``[3, H, W]`` image as base64; with ``size`` its longer side is that at most."""
    pixels = PIL.Image.fromarray(image.transpose(1, 2, 0).copy())
    if size is not None:
        pixels.thumbnail((size, size), PIL.Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    pixels.save(stream, "PNG", compress_level=1)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _file_state(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
