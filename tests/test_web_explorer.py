"""The explorer: its history, what its requests do and refuse, what it saves, and its server."""

from __future__ import annotations

import base64
import http.client
import io
import itertools
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from ganformer_cli.config import ModelConfig
from ganformer_cli.errors import ConfigError, OutputError
from ganformer_cli.models import Generator
from ganformer_cli.sampling import latents_from_seeds, map_latents, sample_latents, sample_seeds
from ganformer_cli.sampling.components import ComponentEdit, EditedLatents
from ganformer_cli.sampling.image_files import read_metadata
from ganformer_cli.web.explorer import NEIGHBOURS, Explorer, LoadedFile
from ganformer_cli.web.explorer_drawing import Drawer, Superseded
from ganformer_cli.web.explorer_state import MAX_STEPS, BlendEdit, History, ImageState, changed_components, edit_title
from ganformer_cli.web.server import MAX_BODY, LocalServer, html, page_html
from tests.serving import serve_in_thread
from tests.small_generators import small_generator


@pytest.fixture(scope="module")
def model() -> Generator:
    return small_generator()


class Tab:
    """Asks an explorer as a tab of the browser does."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.opened = explorer.answer("open", {})
        self._finish(self.opened)

    def ask(self, place: str, **body: Any) -> dict[str, Any]:
        return self.explorer.answer(place, {"session": self.opened["session"], **body})

    def change(self, what: str, **body: Any) -> dict[str, Any]:
        reply = self.ask("change", what=what, **body)
        self._finish(reply)
        return reply

    def _finish(self, reply: dict[str, Any]) -> None:
        if "preview" in reply:  # this machine is slow
            reply["drawing"] = self.ask("drawing", step=reply["step"])["drawing"]


def start(model: Generator, folder: Path, **options: Any) -> Explorer:
    file = folder / "model.safetensors"
    file.write_bytes(b"weights")
    return Explorer(model, LoadedFile.of(file, {"model": "a checksum", "file": file.name}), folder / "saved", **options)


@pytest.fixture
def explorer(model: Generator, tmp_path: Path) -> Iterator[Explorer]:
    explorer = start(model, tmp_path)
    yield explorer
    explorer.close()


@pytest.fixture
def tab(explorer: Explorer) -> Tab:
    return Tab(explorer)


def pixels(text: str) -> np.ndarray[Any, Any]:
    """The image [3, H, W] of a base64 PNG."""
    return np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(text)))).transpose(2, 0, 1)


def image(reply: dict[str, Any]) -> np.ndarray[Any, Any]:
    return pixels(reply["drawing"]["image"])


# ----- History -----


def test_undo_and_redo_walk_the_steps_and_a_new_one_forgets_what_was_undone() -> None:
    history = History(ImageState(), "first")
    history.push(ImageState(psi=0.5), "second")
    history.push(ImageState(psi=0.6), "third")
    history.undo()
    assert history.current.title == "second"
    history.redo()
    assert history.current.title == "third"
    history.undo()
    history.undo()
    history.push(ImageState(psi=0.7), "another")
    assert [step.title for step in history.steps] == ["first", "another"]
    with pytest.raises(ConfigError, match="nothing to redo"):
        history.redo()
    history.undo()
    with pytest.raises(ConfigError, match="nothing to undo"):
        history.undo()


def test_the_positions_of_a_slider_are_one_step() -> None:
    history = History(ImageState(), "first")
    for psi in (0.1, 0.2, 0.3):
        assert history.base("slider") == ImageState()
        history.push(ImageState(psi=psi), f"{psi}", gesture="slider")
    assert [step.title for step in history.steps] == ["first", "0.3"]
    assert history.base("another") == ImageState(psi=0.3)


def test_a_history_says_how_many_steps_it_has_dropped() -> None:
    history = History(ImageState(), "first")
    for number in range(MAX_STEPS + 4):
        history.push(ImageState(source=number), "more")
    assert (len(history.steps), history.dropped, history.at) == (MAX_STEPS, 5, MAX_STEPS - 1)
    with pytest.raises(ConfigError, match="no longer in the history"):
        history.show(1)


def test_an_image_begins_where_its_seed_was_chosen() -> None:
    history = History(ImageState(), "seed 0")
    history.push(ImageState(source=1), "seed 1", starts=True)
    history.push(ImageState(source=1, psi=0.5), "truncation")
    assert history.beginning.title == "seed 1"
    history.show(1)
    assert history.beginning.title == "seed 0"


def test_titles_and_what_edits_touch() -> None:
    edits = (ComponentEdit("swap", 1, other=3), ComponentEdit("toward-mean", 4, amount=0.5, layers="fine"))
    assert [edit_title(edit, 4) for edit in edits] == ["swap 1 and 3", "global to mean by 0.5"]
    assert changed_components(edits, 5) == [1, 3, 4]
    assert changed_components((BlendEdit(3, 0.5),), 3) == [0, 1, 2]


# ----- Images -----


def test_the_first_image_is_that_of_its_seed(model: Generator, tab: Tab) -> None:
    drawn = next(sample_seeds(model, [0], truncation_psi=0.7, attention=True))
    assert np.abs(image(tab.opened).astype(int) - drawn.image).max() <= 1  # one at a time rounds otherwise
    found = tab.opened["drawing"]
    assert found["layers"] == [each.layer for each in drawn.maps]
    regions = np.frombuffer(zlib.decompress(base64.b64decode(found["regions"])), "<u2")
    regions = regions.reshape(len(drawn.maps), *found["region_size"])
    shares = [[float((layer == k).mean()) for k in range(4)] for layer in regions]
    np.testing.assert_allclose(found["shares"], shares, atol=1e-4)
    assert tab.opened["model"]["components"] == 4
    assert tab.opened["model"]["global"] == 4


def test_undo_gives_the_image_back_and_redo_the_edit(tab: Tab) -> None:
    edited = image(tab.change("edit", action="reroll", component=2))
    assert (edited != image(tab.opened)).any()
    undone = tab.change("undo")
    assert (image(undone) == image(tab.opened)).all()
    assert len(undone["steps"]) == 2
    assert (image(tab.change("redo")) == edited).all()
    assert (image(tab.change("step", step=1)) == image(tab.opened)).all()


@pytest.mark.parametrize(
    "change",
    [
        {"action": "reroll", "component": 1},
        {"action": "reroll", "component": 1, "layers": ["coarse", "fine"]},
        {"action": "toward-seed", "component": 1, "seed": 9, "amount": 0.5},
        {"action": "toward-mean", "component": 4, "amount": -0.5},
        {"action": "copy", "component": 1, "seed": 9},
        {"action": "copy", "component": 1, "seed": 9, "other": 2},
        {"action": "swap", "component": 1, "other": 2},
        {"action": "remove", "component": 1},
    ],
)
def test_every_edit_changes_the_image_and_can_be_restored(tab: Tab, change: dict[str, Any]) -> None:
    reply = tab.change("edit", **change)
    assert (image(reply) != image(tab.opened)).any()
    assert change["component"] in reply["state"]["changed"]
    assert reply["state"]["removed"] == ([1] if change["action"] == "remove" else [])
    for component in reply["state"]["changed"]:
        reply = tab.change("edit", action="restore", component=component)
    assert (image(reply) == image(tab.opened)).all()
    assert reply["state"]["removed"] == []


def test_a_reroll_is_another_each_time_and_the_same_in_another_tab(explorer: Explorer, tab: Tab) -> None:
    first, second = (image(tab.change("edit", action="reroll", component=2)) for _ in range(2))
    assert (first != second).any()
    assert (image(Tab(explorer).change("edit", action="reroll", component=2)) == first).all()


def test_layers_of_another_seed_are_style_mixing(model: Generator, tab: Tab) -> None:
    reply = tab.change("blend", seed=5, amount=1, layers=["fine"])
    ws = map_latents(model, latents_from_seeds(model, [0, 5]), truncation_psi=0.7)
    start, end = tab.explorer.groups["fine"]
    ws[0, :, start:end] = ws[1, :, start:end]
    assert np.abs(image(reply).astype(int) - next(sample_latents(model, ws[:1], space="w")).image).max() <= 1
    assert reply["steps"][-1]["title"] == "all to seed 5, fine"


def test_settings_of_the_whole_image(tab: Tab) -> None:
    images = [image(tab.opened)]
    changes: list[dict[str, Any]] = [
        {"what": "psi", "psi": 0.2},
        {"what": "noise", "noise": "none"},
        {"what": "noise", "noise": "random", "noise_seed": 3},
        {"what": "image", "source": 8},
    ]
    for change in changes:
        images.append(image(tab.change(**change)))
        assert (images[-1] != images[-2]).any(), change


def test_a_label_is_that_of_every_seed(tmp_path: Path) -> None:
    explorer = start(small_generator(c_dim=3), tmp_path)
    tab = Tab(explorer)
    assert tab.opened["state"]["own_label"]
    assert sum(tab.opened["state"]["label"]) == 1
    drawn = [image(tab.change("label", **{"class": k})) for k in range(3)]
    assert (drawn[0] != drawn[1]).any()
    assert (drawn[1] != drawn[2]).any()
    assert (image(tab.change("label")) == image(tab.opened)).all()
    with pytest.raises(ConfigError, match="class 3: give a whole number from 0 to 2"):
        tab.change("label", **{"class": 3})
    explorer.close()


def test_given_latents_are_explored_row_by_row(model: Generator, tmp_path: Path) -> None:
    ws = map_latents(model, latents_from_seeds(model, [3, 4]), truncation_psi=0.5).numpy()
    explorer = start(model, tmp_path, latents=ws)
    tab = Tab(explorer)
    second = image(tab.change("image", source=1))
    drawn = [each.image for each in sample_latents(model, ws, space="w")]
    assert np.abs(image(tab.opened).astype(int) - drawn[0]).max() <= 1
    assert np.abs(second.astype(int) - drawn[1]).max() <= 1
    tab.change("edit", action="reroll", component=0)
    assert (image(tab.change("edit", action="restore", component=0)) == second).all()
    with pytest.raises(ConfigError, match="from 0 to 1"):
        tab.change("image", source=2)
    explorer.close()


def test_a_neighbour_is_the_image_that_walking_there_gives(tab: Tab) -> None:
    for chosen in ({"component": 2, "layers": ["coarse"]}, {}):
        around = tab.ask("neighbours", amount=0.4, first=100, **chosen)
        assert around["seeds"] == list(range(100, 100 + NEIGHBOURS))
        walked = image(tab.change("blend", seed=102, amount=0.4, **chosen))
        assert (pixels(around["images"][2]) == walked).all()


def test_thumbnails_of_steps_and_seeds(tab: Tab) -> None:
    tab.change("edit", action="reroll", component=2)
    assert (pixels(tab.ask("thumbnail", step=1, small=False)["image"]) == image(tab.opened)).all()
    seed = pixels(tab.ask("seed", seed=8)["image"])
    assert np.abs(seed.astype(int) - image(tab.change("image", source=8))).max() <= 1


@pytest.mark.parametrize(
    "changes",
    [
        {"attention": "none", "components_num": 0},
        {"attention": "simplex"},
        {"attention": "none", "kgan": True},
        {"attention": "none", "kgan": True, "merge_type": "sum"},
        {"resolution": 64, "ratio": 0.5},
        {"g_arch": "skip", "num_heads": 2},
        {"style": False},
    ],
)
def test_other_kinds_of_model_get_what_has_meaning_for_them(changes: dict[str, Any], tmp_path: Path) -> None:
    explorer = start(small_generator(**changes), tmp_path)
    tab = Tab(explorer)
    described = tab.opened["model"]
    latents = [*range(described["components"]), *([] if described["global"] is None else [described["global"]])]
    assert latents, "there is always something to take hold of"
    for component in latents:
        assert (image(tab.change("edit", action="reroll", component=component)) != image(tab.opened)).any()
    assert bool(tab.opened["drawing"]["layers"]) == described["has_maps"]
    if not described["can_remove"]:
        with pytest.raises(ConfigError, match="cannot be removed"):
            tab.change("edit", action="remove", component=0)
    assert image(tab.change("psi", psi=1.0)).shape[1:] == tuple(described["size"])
    explorer.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["network-snapshot-000000.pkl", "network-snapshot-tf.pkl"])
def test_the_authors_snapshots_can_be_explored(name: str, tmp_path: Path) -> None:
    from ganformer_cli.original_snapshots import load_original

    model = load_original(Path(__file__).parent / "golden" / "duplex-kmeans" / name).ema
    explorer = start(model, tmp_path)
    tab = Tab(explorer)
    drawn = next(sample_seeds(model, [0], truncation_psi=0.7, attention=True))
    assert np.abs(image(tab.opened).astype(int) - drawn.image).max() <= 1
    assert tab.opened["drawing"]["layers"] == [each.layer for each in drawn.maps]
    assert (image(tab.change("edit", action="reroll", component=0)) != image(tab.opened)).any()
    explorer.close()


# ----- Large models -----


@pytest.mark.parametrize("architecture", ["resnet", "skip"])
def test_a_slow_model_shows_a_small_image_first(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ganformer_cli.web.explorer_drawing.PREVIEW_SECONDS", 0.0)
    drawer = Drawer(small_generator(resolution=64, g_arch=architecture))
    state = ImageState(source=9, noise="none")
    drawer.start(state).drawing.result()
    job = drawer.start(state.edited(ComponentEdit("toward-mean", 1, amount=0.1)))
    whole = job.drawing.result().image
    assert job.preview is not None
    assert job.preview.shape == (3, 32, 32)
    if architecture == "resnet":
        small = whole.reshape(3, 32, 2, 32, 2).mean((2, 4))
        spread = np.abs(small - small.mean((1, 2), keepdims=True)).mean()
        assert np.abs(job.preview - small).mean() < spread, "nearer than its mean colour"
    drawer.close()


def test_an_image_that_is_being_drawn_is_not_drawn_again(model: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    drawer = Drawer(model)
    drawn: list[ImageState] = []
    edit = drawer.edited_latents

    def count(state: ImageState) -> EditedLatents:
        drawn.append(state)
        return edit(state)

    monkeypatch.setattr(drawer, "edited_latents", count)
    jobs = [drawer.start(ImageState(source=5)) for _ in range(3)]
    assert len({id(job.drawing.result().image) for job in jobs}) == 1
    assert len(drawn) == 1
    drawer.close()


def test_an_image_that_nobody_wants_any_more_is_not_finished(model: Generator) -> None:
    drawer = Drawer(model)
    looks = itertools.count()
    job = drawer.start(ImageState(source=77), lambda: next(looks) < 3)
    with pytest.raises(Superseded):
        job.drawing.result()
    assert drawer.start(ImageState(source=77)).drawing.result().image.shape == (3, 32, 32), (
        "and is drawn when it is wanted again"
    )
    drawer.close()


# ----- Saving -----


def test_a_saved_image_is_what_generate_draws_from_the_saved_latents(model: Generator, tab: Tab) -> None:
    tab.change("edit", action="reroll", component=2)
    saved, latents = tab.ask("save", kind="image"), tab.ask("save", kind="latents")
    drawn = next(sample_latents(model, np.load(latents["file"]), space="w")).image
    assert (np.asarray(PIL.Image.open(saved["file"])).transpose(2, 0, 1) == drawn).all()
    metadata = read_metadata(Path(saved["file"]))
    assert metadata is not None
    assert metadata["model"] == "a checksum"
    assert metadata["seed"] == 0
    assert metadata["edits"][0]["action"] == "reroll"
    assert metadata["truncation_psi"] == 0.7
    assert "generate --latents" in latents["note"]
    assert Path(tab.ask("save", kind="image")["file"]).name == "image-0002.png", "nothing is replaced"
    tab.change("edit", action="remove", component=1)
    assert "(1) are removed" in tab.ask("save", kind="latents")["note"]


def test_a_film_goes_through_the_steps(tab: Tab) -> None:
    with pytest.raises(ConfigError, match="at least two steps"):
        tab.ask("save", kind="webp")
    tab.change("edit", action="reroll", component=2)
    last = image(tab.change("edit", action="remove", component=1))
    with PIL.Image.open(tab.ask("save", kind="webp")["file"]) as film:
        assert getattr(film, "n_frames", 1) == 14, "12 on the way to the re-roll; a removal has no way"
        film.seek(13)
        assert (np.asarray(film.convert("RGB")).transpose(2, 0, 1) == last).all()
    assert [path.name for path in tab.explorer.saver.folder.iterdir()] == ["film-0001.webp"]


def test_a_folder_that_cannot_be_written_to_is_named(model: Generator, tmp_path: Path) -> None:
    explorer = start(model, tmp_path)
    (tmp_path / "saved").write_text("a file")
    with pytest.raises(OutputError, match="--output-dir"):
        Tab(explorer).ask("save", kind="image")
    explorer.close()


# ----- Bad requests -----


@pytest.mark.parametrize(
    ("place", "body", "message"),
    [
        ("nothing", {}, "no request"),
        ("change", {"what": "delete"}, "what 'delete'"),
        ("change", {}, "what: is missing"),
        ("change", {"what": "psi"}, "psi: is missing"),
        ("change", {"what": "psi", "psi": float("nan")}, "psi nan"),
        ("change", {"what": "psi", "psi": float("inf")}, "psi inf"),
        ("change", {"what": "psi", "psi": 1e300}, "from -4 to 4"),
        ("change", {"what": "psi", "psi": "0.5"}, "psi 0.5: give a number"),
        ("change", {"what": "psi", "psi": True}, "psi True"),
        ("change", {"what": "psi", "psi": 1, "seed": 3}, "'seed': is not a field"),
        ("change", {"what": "image", "source": -1}, "source -1"),
        ("change", {"what": "image", "source": 2**64}, "source 18446744073709551616"),
        ("change", {"what": "image", "source": 1.5}, "whole number"),
        ("change", {"what": "image", "source": [1]}, "whole number"),
        ("change", {"what": "edit", "action": "explode", "component": 0}, "choose one of reroll"),
        ("change", {"what": "edit", "action": "reroll", "component": 5}, "from 0 to 4"),
        ("change", {"what": "edit", "action": "reroll", "component": 0, "layers": []}, "no layers chosen"),
        ("change", {"what": "edit", "action": "reroll", "component": 0, "layers": ["all"]}, "give a list of"),
        ("change", {"what": "edit", "action": "toward-mean", "component": 0, "amount": 1e9}, "from -4 to 4"),
        ("change", {"what": "edit", "action": "remove", "component": 4}, "global latent, which cannot be removed"),
        ("change", {"what": "label", "class": 0}, "without labels"),
        ("change", {"what": "step", "step": 99}, "no longer in the history"),
        ("change", {"what": "psi", "psi": 1, "gesture": "x" * 200}, "short text"),
        ("neighbours", {"amount": 1, "first": 2**53}, "first"),
        ("thumbnail", {"step": 1, "small": 1}, "neither true nor false"),
        ("save", {"kind": "../../etc/passwd"}, "choose one of image"),
        ("save", {"kind": "image", "file": "/etc/passwd"}, "'file': is not a field"),
    ],
)
def test_bad_requests_say_what_is_wrong_and_change_nothing(
    tab: Tab, place: str, body: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tab.ask(place, **body)
    assert len(tab.change("image", source=1)["steps"]) == 2
    assert not tab.explorer.saver.folder.exists()


def test_tabs_are_apart_and_the_oldest_ends_when_there_are_too_many(explorer: Explorer, tab: Tab) -> None:
    other = Tab(explorer)
    tab.change("image", source=5)
    assert len(other.change("image", source=6)["steps"]) == 2
    again = explorer.answer("open", {"session": tab.opened["session"]})
    assert again["state"]["source"] == 5, "a tab that is loaded again goes on"
    for _ in range(16):
        Tab(explorer)
    with pytest.raises(ConfigError, match="session has ended"):
        tab.change("undo")


def test_a_model_that_changes_on_disk_is_said_and_the_page_goes_on(explorer: Explorer, tab: Tab) -> None:
    assert tab.opened["warning"] is None
    explorer.model.path.write_bytes(b"other weights")
    assert "has changed" in tab.change("image", source=1)["warning"]
    explorer.model.path.unlink()
    assert "is gone" in tab.change("image", source=2)["warning"]


# ----- The server -----


@pytest.fixture
def server(explorer: Explorer) -> Iterator[LocalServer]:
    def answer(place: str, body: Any) -> Any:
        if place == "bug":
            raise KeyError("a secret")
        return explorer.answer(place, body)

    with LocalServer({"GET ": lambda: html("<p>page"), "POST api/*": answer}) as server, serve_in_thread(server):
        yield server


def send(
    server: LocalServer, path: str, body: bytes | None = None, method: str = "POST", **headers: str
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest(method, path, skip_host="Host" in headers)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body or b"")), **given}.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, content


def test_the_page_and_a_request(server: LocalServer) -> None:
    assert send(server, f"/{server.token}/", method="GET") == (200, b"<p>page")
    status, body = send(server, f"/{server.token}/api/open", b"{}")
    assert status == 200
    assert json.loads(body)["step"] == 1


def test_only_this_origin_with_the_token_is_answered(server: LocalServer) -> None:
    path, own = f"/{server.token}/api/open", f"127.0.0.1:{server.server_port}"
    assert send(server, path, b"{}", Origin=f"http://{own}")[0] == 200
    refused: list[dict[str, str]] = [
        {"Origin": "http://elsewhere.example"},
        {"Origin": "null"},
        {"Host": "elsewhere.example"},
        {"Host": f"localhost:{server.server_port}"},
    ]
    for headers in refused:
        assert send(server, path, b"{}", **headers)[0] == 403, headers
    assert send(server, "/api/open", b"{}")[0] == send(server, "/wrong/api/open", b"{}")[0] == 403
    assert send(server, "/", method="GET")[0] == 403


def test_malformed_requests_get_a_status_and_the_server_goes_on(server: LocalServer) -> None:
    path = f"/{server.token}/api/open"
    assert send(server, path, b"{")[0] == send(server, path, b"[]")[0] == send(server, path, b"\xff")[0] == 400
    assert send(server, path, b"[" * 5000)[0] == 400
    assert send(server, path, b"{}", Content_Type="text/plain")[0] == 415
    assert send(server, path, None, Content_Length=str(MAX_BODY + 1))[0] == 413
    assert send(server, path, None, Content_Length="9" * 30)[0] == 413
    assert send(server, path, None, Content_Length="-1")[0] == 411
    assert send(server, path, b"{}", method="PUT")[0] == 501
    assert send(server, f"/{server.token}/../secret", method="GET")[0] == 404
    assert send(server, f"/{server.token}/" + "x" * 3000, method="GET")[0] == 414
    assert send(server, path, b"{}")[0] == 200


def test_a_bug_is_reported_here_and_named_there(server: LocalServer) -> None:
    reports: list[str] = []
    server.report = reports.append
    status, body = send(server, f"/{server.token}/api/bug", b"{}")
    assert status == 500
    assert "KeyError" in json.loads(body)["error"]
    assert b"secret" not in body
    assert "a secret" in reports[0]
    assert send(server, f"/{server.token}/api/open", b"{}")[0] == 200


def test_a_browser_that_goes_away_in_mid_request_harms_nobody(server: LocalServer) -> None:
    import socket

    for sent in (b"POST /", f"POST /{server.token}/api/open HTTP/1.1\r\nHost: ".encode()):
        with socket.create_connection(("127.0.0.1", server.server_port)) as connection:
            connection.sendall(sent)
    body = f"POST /{server.token}/api/open HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n"
    body += "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    with socket.create_connection(("127.0.0.1", server.server_port)) as connection:
        connection.sendall(body.encode())
    assert send(server, f"/{server.token}/api/open", b"{}")[0] == 200


def test_a_port_that_is_taken_is_named(server: LocalServer) -> None:
    with pytest.raises(OutputError, match="--port"):
        LocalServer({}, server.server_port)


def test_the_page_needs_no_other_file() -> None:
    page = page_html("explore")
    assert "/*{" not in page
    for outside in ("http://", "https://", "src=", "@import", "url("):
        assert outside not in page, outside


# ----- The command -----


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--space", "z"], "give --latents"),
        (["--seed", "3", "--latents", "x.npy"], "give one of them"),
        (["--port", "70000"], "--port"),
        (["--model", "nowhere"], "nowhere"),
        (["--seed", "-1"], "--seed"),
    ],
)
def test_wrong_command_lines(ganformer: Any, words: list[str], message: str) -> None:
    result = ganformer("explore", *words)
    assert result.exit_code != 0
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_port_that_is_taken_is_said_before_the_model_is_loaded(
    ganformer: Any, server: LocalServer, tmp_path: Path
) -> None:
    file = tmp_path / "damaged.safetensors"
    file.write_bytes(b"not read")
    result = ganformer("explore", "--model", str(file), "--port", str(server.server_port), "--no-open")
    assert result.exit_code == 1
    assert f"--port {server.server_port}: cannot be used" in result.stderr


def test_a_vqgan_is_refused_by_name(ganformer: Any, tmp_path: Path) -> None:
    from ganformer_cli.checkpoints.snapshots import save_snapshot
    from ganformer_cli.models.families import build_generator

    config = ModelConfig(
        resolution=32, attention="none", components_num=0, latent_size=16, channel_base=256, channel_max=16, vqgan=True,
        codebook_size=16, code_dim=4, code_stride=8, transformer_layers=1, transformer_width=16, transformer_heads=2,
    )  # fmt: skip
    file = tmp_path / "vqgan.safetensors"
    save_snapshot(
        file, config=config, ema=build_generator(config), generator=None, discriminator=None, kimg=0, provenance={}
    )
    result = ganformer("explore", "--model", str(file), "--no-open")
    assert result.exit_code == 1
    assert "VQGAN" in result.stderr
