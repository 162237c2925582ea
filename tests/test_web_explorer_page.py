"""The explorer's page, driven in headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ganformer_cli.config import ModelConfig
from ganformer_cli.models import Generator
from ganformer_cli.models.labels import LabelDistribution
from ganformer_cli.web.explorer import Explorer, LoadedFile
from ganformer_cli.web.server import LocalServer, html, page_html
from tests.chromium import Page, needs_chromium
from tests.serving import serve_in_thread

pytestmark = [pytest.mark.slow, needs_chromium]

IDLE = "!busy && !waiting.length && document.body.dataset.ready && S.images.has(S.reply.step)"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """An untrained model with classes, one of which has a long name."""
    folder = tmp_path_factory.mktemp("explored")
    torch.manual_seed(0)
    config = ModelConfig(resolution=32, components_num=4, latent_size=32, channel_base=256, c_dim=2)
    generator = Generator(config).eval()
    names = ["short", "a long name " * 8]
    generator.label_distribution = LabelDistribution.from_labels(np.array([0, 1]), 2, names)
    file = folder / "model.safetensors"
    file.write_bytes(b"weights")
    explorer = Explorer(generator, LoadedFile.of(file, {}), folder / "saved")
    routes: dict[str, Any] = {"GET ": lambda: html(page_html("explore")), "POST api/*": explorer.answer}
    with LocalServer(routes) as server, serve_in_thread(server):
        yield server
    explorer.close()


@pytest.fixture
def page(served: LocalServer, browser: Page) -> Iterator[Page]:
    """A new tab's session, at a computer's width."""
    show(browser, served)
    yield browser
    assert browser.errors == []


def show(page: Page, served: LocalServer, width: int = 1440, *, dark: bool = False) -> None:
    page.restart()
    page.open(served.address, width, dark=dark)
    page.wait_for(IDLE)


def image(page: Page) -> Any:
    return page.evaluate("$('image').toDataURL()")


def centre(page: Page, selector: str) -> tuple[float, float]:
    x, y = page.evaluate(
        f"(() => {{ const box = document.querySelector('{selector}').getBoundingClientRect();"
        " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
    )
    return x, y


def test_the_first_image_is_there_and_pointing_at_it_shows_a_region(page: Page) -> None:
    assert page.evaluate("$('image').width > 0 && S.drawing.image.length > 0")
    x, y = centre(page, "#image")
    page.mouse("mouseMoved", x, y)
    component = page.wait_for("S.hovered !== null && String(S.hovered)")
    assert page.evaluate("$('captionText').textContent").startswith(f"Component {component}: ")
    lit = "[...$('overlay').getContext('2d').getImageData(0, 0, 576, 576).data].some(value => value)"
    assert page.evaluate(lit), "the overlay marks the region"
    page.mouse("mouseMoved", 1, 1)
    page.wait_for("S.hovered === null")
    page.mouse("mousePressed", x, y)
    page.mouse("mouseReleased", x, y)
    page.wait_for(f"S.selected === {component}")


def test_a_reroll_and_its_undo(page: Page) -> None:
    first = image(page)
    page.evaluate("$('reroll').click()")
    page.wait_for(f"S.reply.steps.length === 2 && {IDLE}")
    assert image(page) != first
    assert page.evaluate("document.querySelectorAll('#steps button').length") == 2
    page.evaluate("$('undo').click()")
    page.wait_for(f"S.reply.step === 1 && {IDLE}")
    assert image(page) == first
    assert page.evaluate("$('undo').disabled && !$('redo').disabled")


def test_a_slider_is_one_step(page: Page) -> None:
    for amount in (0.2, 0.6, 1.0):
        page.evaluate(f"$('mean').value = {amount}; $('mean').oninput()")
    page.wait_for(f"S.reply.steps.length === 2 && {IDLE}")
    assert page.evaluate("title(S.reply.step)") == "0 to mean by 1"


def test_a_class_is_chosen_by_name(page: Page) -> None:
    drawn = []
    for number in ("0", "1"):
        page.evaluate(f"$('class').value = '{number}'; $('class').onchange()")
        page.wait_for(f"!S.reply.state.own_label && S.reply.state.label[{number}] === 1 && {IDLE}")
        drawn.append(image(page))
    assert drawn[0] != drawn[1]
    assert page.evaluate("title(S.reply.step)").startswith("class a long name")


def test_before_and_after_side_by_side(page: Page) -> None:
    page.evaluate("$('reroll').click()")
    page.wait_for(f"S.reply.steps.length === 2 && {IDLE}")
    page.evaluate("$('compareButton').click()")
    page.wait_for("$('differenceName').textContent.startsWith('Difference: 0 to')")
    assert page.evaluate("$('before').toDataURL() !== $('after').toDataURL()")


def test_walking_to_a_neighbour(page: Page) -> None:
    page.wait_for("document.querySelectorAll('#neighbours button').length === 6")
    page.evaluate("document.querySelector('#neighbours button').click()")
    page.wait_for(f"S.reply.steps.length === 2 && {IDLE}")


def test_a_tab_that_is_loaded_again_goes_on(page: Page, served: LocalServer) -> None:
    page.evaluate("$('reroll').click()")
    page.wait_for(f"S.reply.steps.length === 2 && {IDLE}")
    shown = image(page)
    page.open(served.address)
    page.wait_for(f"{IDLE} && S.reply.steps.length === 2")
    assert image(page) == shown


def test_everything_by_keyboard(page: Page) -> None:
    first = image(page)
    page.press("ArrowRight")
    page.wait_for("S.selected === 1")
    page.press("r")
    page.wait_for(f"S.reply.steps.length === 2 && {IDLE}")
    page.press("x")
    page.wait_for(f"S.reply.state.removed.includes(1) && {IDLE}")
    page.press("z")
    page.press("z")
    page.wait_for(f"S.reply.step === 1 && {IDLE}")
    assert image(page) == first
    page.press("y")
    page.wait_for(f"S.reply.step === 2 && {IDLE}")
    page.press("n")
    page.wait_for(f"S.reply.state.source === 1 && {IDLE}")
    page.press("[")
    page.wait_for(f"S.reply.state.psi < 0.7 && {IDLE}")
    page.press("m")
    page.press("ArrowRight")
    page.wait_for(f"title(S.reply.step).startsWith('1 to mean') && {IDLE}")
    page.press("v")
    page.wait_for("!$('compare').hidden")
    page.press("i")
    saved = page.wait_for("$('saved').textContent.startsWith('Saved') && $('saved').textContent")
    assert Path(saved.removeprefix("Saved ")).is_file()
    page.press("?")
    page.wait_for("$('keys').open")
    page.press("Escape")
    page.wait_for("!$('keys').open")


def test_every_control_is_reached_by_tab_and_has_a_name(page: Page) -> None:
    seen = set()
    for _ in range(80):
        page.press("Tab")
        seen.add(page.evaluate("document.activeElement.id || document.activeElement.dataset.key"))
    for control in ("image", "reroll", "mean", "toward", "other", "copy", "source", "psi", "saveImage", "distance"):
        assert control in seen, control
    nameless = page.evaluate(
        "[...document.querySelectorAll('button, input, select')].filter(node => node.offsetParent"
        " && !(node.textContent.trim() || node.ariaLabel || (node.labels && node.labels.length))).map(node => node.id)"
    )
    assert nameless == []


@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone_nothing_is_wider_than_the_window(page: Page, served: LocalServer, dark: bool) -> None:
    show(page, served, 390, dark=dark)
    page.evaluate("$('reroll').click()")
    page.wait_for(f"S.reply.steps.length === 2 && {IDLE}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    small = page.evaluate(
        "[...document.querySelectorAll('button:not(.chip), select')].filter(node => node.offsetParent)"
        ".filter(node => node.getBoundingClientRect().height < 40).map(node => node.id)"
    )
    assert small == [], "large enough for a finger"


def test_a_server_that_is_gone_is_said(page: Page) -> None:
    page.evaluate("window.fetch = () => Promise.reject(new TypeError('gone')); $('reroll').click()")
    page.wait_for("$('status').textContent.includes('does not answer')")


def test_a_bad_number_is_said_and_the_page_goes_on(page: Page) -> None:
    page.evaluate("$('source').value = '-5'; $('source').onchange()")
    assert "give a whole number from 0" in page.evaluate("$('status').textContent")
    assert page.evaluate("$('source').value") == "0"
    page.evaluate("$('other').value = '1e30'; $('copy').click()")
    page.wait_for("$('status').className === 'error'")
    page.evaluate("$('other').value = '3'; $('copy').click()")
    page.wait_for(f"S.reply.steps.length === 2 && {IDLE}")
    page.errors.clear()  # Chromium lists the request that was refused
