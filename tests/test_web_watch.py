"""The table of runs, and the server that shows it: what it answers, and to whom."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from ganformer_cli.checkpoints.run_lock import lock_run
from ganformer_cli.errors import OutputError
from ganformer_cli.training.listeners import RunStart
from ganformer_cli.web.logs import MAX_POINTS, Curves
from ganformer_cli.web.report import MAX_SNAPSHOTS, ReportWriter, thin_out
from ganformer_cli.web.runs import RunReader, find_runs
from ganformer_cli.web.server import MAX_CONNECTIONS, LocalServer
from ganformer_cli.web.watch import Watcher
from tests.serving import serve_in_thread


def summarize(run: Path) -> dict[str, Any]:
    return RunReader(run).summarize()


SECRET = b"outside the result folder"


def make_run(folder: Path, *, kimg: float = 1.0, total: float = 2.0) -> Path:
    (folder / "samples").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"train": {"total_kimg": total}}), encoding="utf-8")
    line = json.dumps({"tick": 0, "kimg": kimg, "sec_per_kimg": 100.0, "loss_g": 0.5})
    (folder / "log.jsonl").write_text(line + '\n{"tick": 1, "ki', encoding="utf-8")  # cut in mid-line
    (folder / "samples" / "fakes-000001.png").write_bytes(b"image")
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalServer]:
    (tmp_path / "secret.txt").write_bytes(SECRET)
    make_run(tmp_path / "results" / "a-000")
    (tmp_path / "results" / "a-000" / "secret.txt").write_bytes(SECRET)  # in the folder, but no page shows it
    with LocalServer(Watcher(tmp_path / "results").routes) as server, serve_in_thread(server):
        yield server


def ask(server: LocalServer, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def test_the_state_of_a_run(tmp_path: Path) -> None:
    assert summarize(make_run(tmp_path / "stopped"))["state"] == "stopped"
    assert summarize(make_run(tmp_path / "finished", kimg=2.0))["state"] == "finished"
    killed = make_run(tmp_path / "killed")
    (killed / "lock.json").write_text("{}", encoding="utf-8")
    assert summarize(killed)["state"] == "failed"
    assert summarize(tmp_path / "deleted")["kimg"] is None
    assert [run.name for run in find_runs(tmp_path)] == ["finished", "killed", "stopped"]


def test_a_log_cut_in_mid_line_shows_its_whole_lines(tmp_path: Path) -> None:
    row = summarize(make_run(tmp_path / "run"))
    assert (row["kimg"], row["images_per_second"], row["samples"]) == (1.0, 10.0, 1)


def test_an_error_that_ends_a_run_is_its_state_until_it_goes_on(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    event = {"kimg": 1.0, "event": "failed", "text": "NaN or inf in the weights"}
    (run / "events.jsonl").write_text(json.dumps(event) + "\n", encoding="utf-8")
    assert (summarize(run)["state"], summarize(run)["reason"]) == ("failed", "NaN or inf in the weights")
    (run / "log.jsonl").write_text('{"kimg": 1.5}\n', encoding="utf-8")
    assert summarize(run)["state"] == "stopped"
    (run / "log.jsonl").write_text('{"kimg": 0.5}\n', encoding="utf-8")
    with (run / "events.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"kimg": 0.5, "event": "resumed", "text": "resumed at 0.5 kimg"}\n')
    assert summarize(run)["state"] == "stopped"


def test_this_process_trains_in_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with lock_run(run):
        row = summarize(run)
        assert (row["state"], row["seconds_left"]) == ("running", 100.0)
        assert RunReader(run).summarize(ended=True)["state"] == "stopped"
    assert summarize(run)["state"] == "stopped"


def test_a_log_is_read_on_and_read_anew_when_it_was_cut(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    curves = Curves(log)

    def losses(text: str, mode: str = "a") -> list[float | None]:
        with log.open(mode, encoding="utf-8") as file:
            file.write(text)
        curves.update()
        found: list[float | None] = curves.thinned()["columns"].get("loss_g", [])
        return found

    assert losses('{"kimg": 1, "loss_g": 5}\n{"kimg": 2, "loss') == [5]
    assert losses('_g": 6}\nno JSON\n{"kimg": 3, "loss_g": NaN}\n{"kimg": 4, "loss_g": 7}\n') == [5, 6, None, 7]
    assert losses('{"kimg": 1, "loss_g": 5}\n', "w") == [5], "a resumed run has cut it"
    assert losses('{"kimg": 1, "loss_g": 8}\n{"kimg": 2, "loss_g": 9}\n', "w") == [8, 9], "another of the same length"
    log.unlink()
    curves.update()
    assert curves.thinned() == {"step": 1, "length": 0, "columns": {}}


def test_a_long_log_is_thinned_out_and_says_so(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("".join(f'{{"kimg": {i}, "x": {i}}}\n' for i in range(2 * MAX_POINTS + 2)), encoding="utf-8")
    curves = Curves(log)
    curves.update()
    found = curves.thinned()
    assert (found["step"], found["length"]) == (3, 2 * MAX_POINTS + 2)
    assert found["columns"]["x"][:3] == [0, 3, 6]
    assert found["columns"]["x"][-1] == 2 * MAX_POINTS + 1, "the newest is there"


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_out_of_the_folder_are_not_followed(server: LocalServer, tmp_path: Path) -> None:
    outside = make_run(tmp_path / "outside")
    (outside / "log.jsonl").write_text('{"kimg": 1, "secret": 1}\n', encoding="utf-8")
    run = tmp_path / "results" / "a-000"
    (tmp_path / "results" / "linked").symlink_to(outside)
    for name in ("log.jsonl", "metrics.jsonl", "events.jsonl", "config.json"):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(outside / "log.jsonl")
    (run / "samples" / "fakes-000002.png").symlink_to(tmp_path / "secret.txt")
    token = server.token
    runs = json.loads(ask(server, f"/{token}/api/runs")[1])["runs"]
    assert [run["name"] for run in runs] == ["a-000"]
    assert b"secret" not in ask(server, f"/{token}/api/run/a-000")[1]
    assert ask(server, f"/{token}/sample/a-000/fakes-000002.png")[0] == 404


@pytest.mark.slow
def test_a_hundred_runs_of_which_some_are_odd(tmp_path: Path) -> None:
    for number in range(100):
        run = make_run(tmp_path / f"run-{number:03}")
        for name in ("config.json", "log.jsonl", "metrics.jsonl", "lock.json", "events.jsonl")[: number % 6]:
            (run / name).write_bytes([b"", b"[]", b"\xff\xfe", b'{"train": 3, "kimg": "x"}\n', b"{" * 3000][number % 5])
    rows = Watcher(tmp_path).runs()["runs"]
    assert len(rows) == 100
    for run in find_runs(tmp_path):
        json.dumps(RunReader(run).describe(), allow_nan=False)


def test_the_report_is_whole_or_not_there(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (900, 900, 3), np.uint8)).save(
        run / "samples" / "fakes-000002.png"
    )
    writer = ReportWriter({"torch": "2"})
    writer.on_start(RunStart(run, {}, 0))
    writer.close()
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 1, "the large grid; the one that is no image is left out"
    assert json.loads((run / "environment.json").read_text(encoding="utf-8")) == {"torch": "2"}
    assert [path.name for path in run.iterdir() if path.name.endswith(".part")] == []
    assert len(page) < 3_000_000


def test_a_report_shows_so_many_snapshots_at_most(tmp_path: Path) -> None:
    for count in (1, 24, 25, 1000):
        files = {"fakes": [[kimg, str(kimg)] for kimg in range(count)]}
        kept, left_out = thin_out(files)
        assert len(kept["fakes"]) + left_out == count
        assert len(kept["fakes"]) <= MAX_SNAPSHOTS
        assert kept["fakes"][-1] == files["fakes"][-1]
        assert kept["fakes"][0] == files["fakes"][0]


@pytest.mark.slow
def test_a_browser_that_hangs_up_and_too_many_at_once(server: LocalServer) -> None:
    lines = f"GET /{server.token}/api/runs HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n"
    for request in (lines, lines + "\r\n"):
        with socket.create_connection(("127.0.0.1", server.server_port)) as connection:
            connection.sendall(request.encode())
    idle = [socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(MAX_CONNECTIONS + 5)]
    idle[-1].settimeout(10)
    assert idle[-1].recv(1) == b"", "hung up"
    for connection in idle:
        connection.close()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if ask(server, f"/{server.token}/api/runs")[0] == 200:
                return
    raise AssertionError("the server does not answer any more")


def test_the_runs_as_a_table_and_as_json(ganformer: Any, tmp_path: Path) -> None:
    make_run(tmp_path / "a-000")
    table = ganformer("runs", str(tmp_path))
    assert table.stdout.splitlines()[1].split()[:5] == ["a-000", "stopped", "1", "2", "10"]
    assert json.loads(ganformer("runs", "--json", str(tmp_path)).stdout)[0]["samples"] == 1
    nothing = ganformer("runs", str(tmp_path / "nowhere"))
    assert nothing.exit_code == 1
    assert "nowhere" in nothing.stderr


def test_the_page_and_its_data(server: LocalServer) -> None:
    token = server.token
    status, page = ask(server, f"/{token}/")
    assert status == 200
    assert b"uPlot" in page
    assert b"/*{" not in page
    assert json.loads(ask(server, f"/{token}/api/runs")[1])["runs"][0]["name"] == "a-000"
    assert json.loads(ask(server, f"/{token}/api/run/a-000")[1])["log"]["columns"]["loss_g"] == [0.5]
    assert ask(server, f"/{token}/sample/a-000/fakes-000001.png") == (200, b"image")


def test_two_hundred_hostile_requests_see_nothing_else(server: LocalServer) -> None:
    ups = ["..", "%2e%2e", "..%2f..", "..%5c..", "....//", "%252e%252e", "/etc", "C:", "%00", "..;"]
    ends = ["secret.txt", "%73ecret.txt", "results/../secret.txt", "etc/passwd", "config.json?x=1"]
    starts = ["", "sample/a-000/", "api/run/", "sample/"]
    addresses = [f"/{server.token}/{start}{up}/{end}" for start in starts for up in ups for end in ends]
    addresses += [f"/{server.token}/sample/a-000/secret.txt"]
    assert len(addresses) >= 200
    for address in addresses:
        status, body = ask(server, address)
        assert status == 404, address
        assert SECRET not in body, address
        assert b"root:" not in body, address


def test_only_this_origin_with_the_token_is_answered(server: LocalServer) -> None:
    path, own = f"/{server.token}/api/runs", f"127.0.0.1:{server.server_port}"
    assert ask(server, path, Origin=f"http://{own}")[0] == 200
    assert ask(server, path, Origin="http://elsewhere.example")[0] == 403
    assert ask(server, path, Origin="null")[0] == 403
    assert ask(server, path, Host="elsewhere.example")[0] == 403
    assert ask(server, "/")[0] == ask(server, "/wrong/api/runs")[0] == 403
    assert ask(server, "/" + "x" * 3000)[0] == 414
    assert ask(server, path, method="POST")[0] == 411
    assert ask(server, path, method="PUT")[0] == 501
    assert ask(server, f"{path}?{'x' * 1500}")[0] == 200


def test_a_port_that_is_taken_is_named(server: LocalServer, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="--port"):
        LocalServer({}, server.server_port)
