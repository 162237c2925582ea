"""The page of runs and ``report.html``, driven in headless Chromium."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
import pytest

from ganformer_cli.training.listeners import RunStart
from ganformer_cli.web.report import ReportWriter
from ganformer_cli.web.server import LocalServer
from ganformer_cli.web.watch import Watcher
from tests.chromium import Page, chromium, needs_chromium
from tests.serving import serve_in_thread

pytestmark = [pytest.mark.slow, needs_chromium]


def make_run(folder: Path, *, gamma: float = 1.0, snapshots: int = 3) -> Path:
    """A finished run with curves, scores and grids; its name and texts are such as would do harm as HTML."""
    (folder / "samples").mkdir(parents=True)
    model = {"attention": "kmeans", "components_num": 3, "note": "</script><img src=x onerror=alert(1)>"}
    config = {"model": model, "train": {"total_kimg": snapshots, "gamma": gamma, "seed": 0}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    ticks = [
        {"tick": i, "kimg": (i + 1) / 10, "sec_per_kimg": 100.0, "loss_g": 2 + math.sin(i), "loss_d": gamma / (i + 1)}
        for i in range(10 * snapshots)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(tick) + "\n" for tick in ticks), encoding="utf-8")
    scores = [{"kimg": kimg, "swd": 100.0 - kimg} for kimg in range(snapshots + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(score) + "\n" for score in scores), encoding="utf-8")
    event = {"kimg": 1, "event": "health", "text": "<b>watch</b> this"}
    (folder / "events.jsonl").write_text(json.dumps(event) + "\n", encoding="utf-8")
    for kimg in range(snapshots + 1):
        for kind in ("fakes", "attention"):
            PIL.Image.new("RGB", (32, 16), (60 * kimg, 0, 0)).save(folder / "samples" / f"{kind}-{kimg:06}.png")
    PIL.Image.new("RGB", (32, 16), (0, 0, 200)).save(folder / "samples" / "reals.png")
    return folder


@pytest.fixture
def results(tmp_path: Path) -> Path:
    make_run(tmp_path / "results" / "a-000")
    make_run(tmp_path / "results" / "b-000", gamma=10.0)
    return tmp_path / "results"


@pytest.fixture
def server(results: Path) -> Iterator[LocalServer]:
    with LocalServer(Watcher(results).routes) as server, serve_in_thread(server):
        yield server


@pytest.fixture
def page(browser: Page) -> Iterator[Page]:
    browser.errors.clear()
    yield browser
    assert [error for error in browser.errors if "404" not in error] == []
    browser.command("Page.navigate", url="about:blank")


def press_until(page: Page, script: str, key: str = "Tab") -> None:
    """Press a key until ``script`` is true of the element in focus, ``it``."""
    for _ in range(80):
        page.press(key)
        if page.evaluate(f"(it => Boolean({script}))(document.activeElement)"):
            return
    raise AssertionError(f"no key led to {script}")


def outside(page: Page, address: str) -> list[str]:
    """What the page has loaded that is not below ``address``."""
    loaded = page.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")
    return [name for name in loaded if not name.startswith((address, "data:"))]


CHARTS = "document.querySelectorAll('.chart canvas').length"


def test_by_keyboard_alone_a_run_is_opened_compared_and_its_samples_go_by(page: Page, server: LocalServer) -> None:
    page.open(server.address)
    page.wait_for("document.querySelectorAll('#runs tbody tr').length == 2")
    press_until(page, "it.tagName == 'A' && it.textContent == 'a-000'")
    page.press("Enter")
    page.wait_for(f"{CHARTS} == 4")  # the score, two losses, the speed
    press_until(page, "it.id == 'slider'")
    assert page.evaluate("document.getElementById('at').textContent") == "3 kimg, newest"
    page.press("ArrowLeft")
    assert page.evaluate("document.getElementById('at').textContent") == "2 kimg"
    assert page.wait_for("document.querySelector('#samples img').src.includes('fakes-000002.png')")
    figures = page.evaluate("[...document.querySelectorAll('#samples figcaption')].map(node => node.textContent)")
    assert [caption.split(":")[0] for caption in figures] == ["Fakes", "Reals", "Attention"]
    assert page.evaluate("document.querySelectorAll('#legend > span').length") == 3
    press_until(page, "it.tagName == 'SUMMARY' && it.textContent.startsWith('Compare')")
    page.press("Enter")
    press_until(page, "it.dataset.run == 'b-000'")
    page.press(" ")
    page.wait_for("document.querySelectorAll('#names > span').length == 2")
    # Of each run the values as they are, and smoothed; and both are drawn.
    assert page.wait_for("state.charts.get('loss_d').plot.data.filter(list => list.some(Number.isFinite)).length == 5")
    assert page.evaluate("document.activeElement.dataset.run") == "b-000", "the focus stays"
    assert page.wait_for("document.querySelectorAll('#samples figure').length == 4")
    press_until(page, "it.tagName == 'SUMMARY' && it.textContent == 'Configuration'")
    page.press("Enter")
    assert page.evaluate("[...document.querySelectorAll('#config .differs')].map(row => row.innerText)") == [
        "train.gamma\t1\t10"
    ]
    assert outside(page, server.address) == []


def test_zoom_and_smoothing(page: Page, server: LocalServer) -> None:
    page.open(server.address + "#run=a-000")
    page.wait_for(f"{CHARTS} == 4")
    shown = "(({min, max}) => [min, max])(state.charts.get('loss_g').plot.scales.x)"
    whole = page.evaluate(shown)
    page.evaluate("document.querySelector('[data-curve=loss_g]').scrollIntoView({block: 'center'})")
    curve = "document.querySelector('[data-curve=loss_g] .u-over').getBoundingClientRect()"
    box = page.evaluate(f"(r => [r.left, r.top, r.width, r.height])({curve})")
    x, y = box[0], box[1] + box[3] / 2
    page.mouse("mouseMoved", x + box[2] * 0.25, y)
    page.mouse("mousePressed", x + box[2] * 0.25, y)
    page.mouse("mouseMoved", x + box[2] * 0.5, y)
    page.mouse("mouseReleased", x + box[2] * 0.5, y)
    page.wait_for("state.zoom !== null")
    low, high = page.wait_for(f"state.zoom && {shown}")
    assert whole[0] < low < high < whole[1]
    assert page.evaluate(shown.replace("loss_g", "loss_d")) == [low, high], "all curves show the same stretch"
    page.evaluate("document.getElementById('later').click()")
    assert page.wait_for(f"{shown}[0] > {low}")
    page.evaluate("document.getElementById('whole').click()")
    assert page.wait_for(f"String({shown}) == '{','.join(f'{end:g}' for end in whole)}'")
    spread = "(list => Math.max(...list) - Math.min(...list))(state.charts.get('loss_g').plot.data[2])"
    before = page.evaluate(spread)
    page.evaluate("Object.assign(document.getElementById('smooth'), {value: '0.9'}).oninput()")
    assert page.evaluate(spread) < before


def test_a_run_that_grows_and_then_is_deleted(page: Page, server: LocalServer, results: Path) -> None:
    page.open(server.address + "#run=a-000")
    page.wait_for(f"{CHARTS} == 4")
    with (results / "a-000" / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps({"tick": 30, "kimg": 3.1, "loss_g": 9.0}) + '\n{"tick": 31, "ki')
    page.evaluate("refresh()")
    assert page.wait_for("state.charts.get('loss_g').plot.data[1].at(-1) == 9")
    shutil.rmtree(results / "a-000")
    page.evaluate("refresh()")
    assert page.wait_for("document.getElementById('message').innerText.includes('a-000 is gone')")
    assert page.evaluate(CHARTS) == 4, "what was read last stays"
    shutil.rmtree(results)
    page.evaluate("location.hash = ''")
    page.evaluate("refresh()")
    assert page.wait_for("document.getElementById('message').innerText.includes('is gone')")


def test_two_browsers_and_a_server_that_does_not_answer(page: Page, server: LocalServer, tmp_path: Path) -> None:
    page.open(server.address)
    with chromium(tmp_path / "other") as other:
        other.open(server.address + "#run=b-000")
        other.wait_for(f"{CHARTS} == 4")
        page.wait_for("document.querySelectorAll('#runs tbody tr').length == 2")
        network = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        other.command("Network.enable")
        other.command("Network.emulateNetworkConditions", offline=True, **network)
        other.evaluate("refresh()")
        assert other.wait_for("document.getElementById('message').innerText.includes('does not answer')")
        assert other.evaluate(CHARTS) == 4
        other.command("Network.emulateNetworkConditions", offline=False, **network)
        other.evaluate("refresh()")
        assert other.wait_for("document.getElementById('message').hidden")


@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone_nothing_is_wider_than_the_window(page: Page, server: LocalServer, dark: bool) -> None:
    for place in ("", "#run=a-000&with=b-000"):
        page.open(server.address + place, 390, 800, dark=dark)
        page.wait_for(f"{CHARTS} == 4" if place else "document.querySelectorAll('#runs tbody tr').length == 2")
        assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_the_report_is_one_file_that_a_double_click_opens(page: Page, results: Path) -> None:
    run = results / "a-000"
    writer = ReportWriter({"torch": "2"})
    writer.on_start(RunStart(run, {}, 0))
    writer.close()
    alone = results.parent / "elsewhere" / "report.html"
    alone.parent.mkdir()
    shutil.move(run / "report.html", alone)
    shutil.rmtree(results)
    page.open(alone.as_uri())
    page.wait_for(f"{CHARTS} == 4")
    assert page.evaluate("document.getElementById('state').textContent") == "finished"
    assert page.wait_for("[...document.querySelectorAll('#samples img')].every(image => image.naturalWidth == 32)")
    page.evaluate("document.getElementById('slider').focus()")
    before = page.evaluate("document.querySelector('#samples img').src")
    page.press("ArrowLeft")
    assert page.wait_for(f"document.querySelector('#samples img').src != {json.dumps(before)}")
    assert "onerror=alert" in page.evaluate("document.getElementById('config').textContent"), "text, no element"
    assert page.evaluate("document.querySelectorAll('article img').length") == 3
    assert outside(page, alone.as_uri()) == []
