"""The table of runs, and the server that shows it: what it answers, and to whom."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ganformer_cli.errors import OutputError
from ganformer_cli.web.runs import RunReader, find_runs
from ganformer_cli.web.server import LocalServer
from ganformer_cli.web.watch import Watcher


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
    with LocalServer(Watcher(tmp_path / "results").routes) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


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
