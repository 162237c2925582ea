"""Models on the Hugging Face Hub: found, downloaded, kept; pushed with card and samples. All on the loopback."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from ganformer_cli import load_generator
from ganformer_cli.cli.train_settings import find_start
from ganformer_cli.downloads import patience
from ganformer_cli.downloads.hub import HubAddress, parse_hub_address
from ganformer_cli.errors import ConfigError
from ganformer_cli.resources import cache_folder
from tests.hub_stand_in import TOKEN, HubStandIn, Repository, serving

Run = Callable[..., Result]
NEWEST = "network-snapshot-000002.safetensors"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubStandIn]:
    """A Hub that this process, and the library of the Hub, take for the real one; no token of the machine is seen."""
    for name in ("HF_TOKEN", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(patience, "RETRIES", patience.Retries(2, backoff_factor=0))
    with serving() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        yield found


@pytest.fixture
def library(hub: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library of the Hub, which sends files by HTTP instead of a protocol that the stand-in does not speak."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture
def model(tiny_run: Path) -> bytes:
    return (tiny_run / "snapshots" / NEWEST).read_bytes()


# ----- Addresses -----


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("hf:me/faces", HubAddress("me/faces")),
        ("me/faces", HubAddress("me/faces")),
        ("hf:me/faces/old/a.safetensors", HubAddress("me/faces", "old/a.safetensors")),
        ("hf:me/faces@v1.0/a.pkl", HubAddress("me/faces", "a.pkl", "v1.0")),
    ],
)
def test_addresses(text: str, address: HubAddress) -> None:
    assert parse_hub_address(text) == address
    assert parse_hub_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["hf:", "hf:me", "hf:me/", "hf:/a", "hf:me/a/", "hf:me/../b", "hf:me/a/../../b", "hf:me/a@", "hf:me/a?x",
     "hf:me/a\\b", "hf:me/a//b", "hf:me/a b", "hf:../a/b", "hf:me/a/.hidden"],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError, match="write hf:USER/REPO"):
        parse_hub_address(text)


# ----- Downloads -----


@pytest.mark.slow
def test_a_model_of_the_hub_is_taken_wherever_a_model_is(
    ganformer: Run, hub: HubStandIn, tiny_run: Path, model: bytes
) -> None:
    hub.repositories["me/faces"] = Repository({"README.md": b"Hello", "model.safetensors": model})
    shown = json.loads(ganformer("info", "hf:me/faces", "--json").stdout)
    assert shown["sha256"] == hashlib.sha256(model).hexdigest()
    assert Path(shown["model"]).is_relative_to(cache_folder() / "hub" / "me" / "faces")
    made = ganformer("generate", "--model", "hf:me/faces", "--seeds", "1", "--output-dir", "theirs")
    assert made.exit_code == 0, made.stderr
    ganformer("generate", "--seeds", "1", "--output-dir", "ours")
    theirs, ours = (np.asarray(Image.open(f"{folder}/seed0001.png")) for folder in ("theirs", "ours"))
    np.testing.assert_array_equal(theirs, ours)
    scored = ganformer("eval", "--model", "hf:me/faces", "--eval-images-num", "4", "--metrics", "diversity")
    assert scored.exit_code == 0, scored.stderr
    compared = ganformer("compare", "hf:me/faces")
    assert compared.exit_code == 0, compared.stderr
    assert "diversity" in compared.stdout.lower()
    assert load_generator("hf:me/faces").config.resolution == 32
    origin = find_start({"pretrained_pkl": "hf:me/faces"}, offline=False)
    assert origin is not None
    assert origin.config.resolution == 32
    changed = ganformer("convert", "hf:me/faces", "ours.safetensors")
    assert changed.exit_code == 0, changed.stderr
    assert len([path for path in hub.paths("GET") if path.startswith("/cdn/")]) == 1  # downloaded once
    assert {token for _, _, token in hub.asked} == {None}


@pytest.mark.slow
def test_a_download_resumes(ganformer: Run, hub: HubStandIn, model: bytes) -> None:
    hub.repositories["me/faces"] = Repository({"model.safetensors": model})
    hub.break_after = len(model) // 2
    assert ganformer("info", "hf:me/faces").exit_code == 0
    assert len([path for path in hub.paths("GET") if path.startswith("/cdn/")]) == 2


def test_what_is_not_what_the_hub_announced_is_refused(ganformer: Run, hub: HubStandIn, model: bytes) -> None:
    repository = hub.repositories["me/faces"] = Repository({"model.safetensors": model})
    digest = hashlib.sha256(model).hexdigest()
    hub.objects[digest] = model[:-1] + b"!"

    class Lying(dict[str, bytes]):
        def __setitem__(self, key: str, value: bytes) -> None:
            """What it gives stays what it was."""

    hub.objects = Lying(hub.objects)
    done = ganformer("info", "hf:me/faces")
    assert done.exit_code == 1
    assert "sha256" in done.stderr
    assert "damaged on the way" in done.stderr
    assert repository.files["model.safetensors"] == model


@pytest.mark.slow
def test_a_new_version_is_noticed_and_an_old_one_can_be_named(ganformer: Run, hub: HubStandIn, model: bytes) -> None:
    repository = hub.repositories["me/faces"] = Repository({"model.safetensors": model})
    first = json.loads(ganformer("info", "hf:me/faces", "--json").stdout)["model"]
    repository.files["README.md"] = b"New words only"
    assert json.loads(ganformer("info", "hf:me/faces", "--json").stdout)["model"] == first
    older = Path("results/exp-000/snapshots/network-snapshot-000001.safetensors").read_bytes()
    repository.files["model.safetensors"] = older
    second = json.loads(ganformer("info", "hf:me/faces", "--json").stdout)
    assert second["sha256"] == hashlib.sha256(older).hexdigest()
    assert Path(first).is_file()


@pytest.mark.slow
def test_offline_and_without_a_hub_the_copy_is_taken(
    ganformer: Run, hub: HubStandIn, model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["me/faces"] = Repository({"model.safetensors": model})
    missing = ganformer("info", "hf:me/faces", "--offline")
    assert missing.exit_code == 1
    assert "hf:me/faces is not there, and downloads are switched off" in missing.stderr
    assert hub.asked == []
    assert ganformer("info", "hf:me/faces").exit_code == 0
    asked = len(hub.asked)
    assert ganformer("info", "hf:me/faces", "--offline").stderr == ""
    assert ganformer("info", "hf:me/faces/model.safetensors", "--offline").exit_code == 0
    assert len(hub.asked) == asked
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    done = ganformer("info", "hf:me/faces")
    assert done.exit_code == 0
    assert "using the copy of an earlier download" in done.stderr
    refused = ganformer("info", "hf:me/others")
    assert refused.exit_code == 1
    assert "the Hub cannot be asked: no connection to 127.0.0.1:9" in refused.stderr


def test_a_token_goes_to_the_hub_alone_and_only_if_it_asks(
    ganformer: Run, hub: HubStandIn, model: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.repositories["me/faces"] = Repository({"model.safetensors": model}, private=True)
    done = ganformer("info", "hf:me/faces")
    assert done.exit_code == 1
    assert "no such repository, revision or file, or it is private" in done.stderr
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text(f"{TOKEN}\n", encoding="utf-8")  # as hf auth login leaves it
    done = ganformer("info", "hf:me/faces")
    assert done.exit_code == 0, done.stderr
    assert TOKEN not in done.output
    given = {path.split("/")[1] for _, path, token in hub.asked if token == TOKEN}
    assert given == {"api", "me"}  # not to the other host, where the file lies
    hub.fail["/api/models"] = (403, "gated TOKEN")
    done = ganformer("info", "hf:me/faces")
    assert "accept the terms at" in done.stderr
    assert TOKEN not in done.output


@pytest.mark.parametrize(
    ("files", "address", "message"),
    [
        (["a.safetensors", "b.safetensors"], "hf:me/m", "several models; add one of /a.safetensors, b.safetensors"),
        (["a.bin"], "hf:me/m", "has no model"),
        (["a.safetensors"], "hf:me/m/b.safetensors", "no such file; its models are a.safetensors"),
        (["../../evil.safetensors", "/etc/x.safetensors"], "hf:me/m", "has no model"),
        (["a.safetensors"], "hf:me/m", "a.safetensors: "),  # which is no model
    ],
)
def test_what_a_repository_may_hold(
    ganformer: Run, hub: HubStandIn, files: list[str], address: str, message: str
) -> None:
    hub.repositories["me/m"] = Repository(dict.fromkeys(files, b"no model"))
    done = ganformer("info", address)
    assert done.exit_code == 1
    *progress, line = done.stderr.splitlines()
    assert message in line
    assert not any("error" in each for each in progress)


@pytest.mark.parametrize("answer", [b"[]", b'{"sha": 3}', b"{", b'{"sha": "../../x", "siblings": []}', b"<html>"])
def test_answers_that_are_none_of_the_hubs(ganformer: Run, hub: HubStandIn, answer: bytes) -> None:
    hub.answers["/api/models/me/faces"] = answer
    done = ganformer("info", "hf:me/faces")
    assert done.exit_code == 1
    assert done.stderr.startswith("ganformer info: error: hf:me/faces: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("value", ["ftp://x", "huggingface.co", "http://", "http://me:pw@x"])
def test_a_wrong_endpoint_is_named(ganformer: Run, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", value)
    done = ganformer("info", "hf:me/faces")
    assert done.exit_code == 1
    assert f"HF_ENDPOINT {value}: not a web address" in done.stderr


# ----- Pushes -----


@pytest.mark.slow
@pytest.mark.usefixtures("library")
def test_a_push_holds_the_model_its_card_and_samples_and_comes_back(
    ganformer: Run, hub: HubStandIn, tiny_run: Path, model: bytes
) -> None:
    (tiny_run / "samples").mkdir()
    (tiny_run / "samples" / "fakes-000002.png").write_bytes(b"PNG")
    done = ganformer("push", "results/exp-000", "me/faces", "--licence", "cc-by-4.0", "--private")
    assert done.exit_code == 0, done.output
    assert "hf:me/faces" in done.stdout
    assert TOKEN not in done.output
    found = hub.repositories["me/faces"]
    assert found.private
    assert set(found.files) == {"model.safetensors", "MODEL.md", "README.md", "samples/fakes-000002.png"}
    assert found.files["model.safetensors"] == model
    card = found.files["README.md"].decode()
    assert card == found.files["MODEL.md"].decode()
    assert "license: cc-by-4.0" in card
    assert "![samples](samples/fakes-000002.png)" in card
    assert "--model hf:me/faces " in card
    shutil.rmtree(tiny_run)
    assert ganformer("info", "hf:me/faces").exit_code == 0


@pytest.mark.slow
@pytest.mark.usefixtures("library")
def test_words_of_somebody_are_kept(ganformer: Run, hub: HubStandIn, tiny_run: Path) -> None:
    hub.repositories["me/faces"] = Repository({"README.md": b"My own words"})
    done = ganformer("push", "results/exp-000", "hf:me/faces/second.safetensors")
    assert done.exit_code == 0, done.output
    assert "keeps its README.md" in done.stderr
    files = hub.repositories["me/faces"].files
    assert files["README.md"] == b"My own words"
    assert "hf:me/faces/second.safetensors" in files["MODEL.md"].decode()
    ganformer("info", "--card")
    card = tiny_run / "MODEL.md"
    card.write_text(card.read_text(encoding="utf-8").replace("## Use", "My cat.\n\n## Use"), encoding="utf-8")
    done = ganformer("push", "results/exp-000", "me/cats", "--licence", "mit")
    assert "was edited, so is pushed as it is; --licence does not act" in done.stderr
    assert "My cat." in hub.repositories["me/cats"].files["README.md"].decode()


def test_a_dry_run_asks_nobody(ganformer: Run, hub: HubStandIn, tiny_run: Path) -> None:
    done = ganformer("push", "results/exp-000", "me/faces", "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert "model.safetensors (" in done.stdout
    assert "library_name: ganformer" in done.stdout
    assert json.loads(ganformer("push", "results/exp-000", "me/faces", "--dry-run", "--json").stdout)["card"]
    assert hub.asked == []


def test_without_the_library_one_line_says_how_to_get_it(
    ganformer: Run, hub: HubStandIn, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    done = ganformer("push", "results/exp-000", "me/faces")
    assert done.exit_code == 1
    assert "pip install" in done.stderr
    assert "huggingface_hub" in done.stderr
    assert done.stderr.count("\n") == 1
    assert hub.asked == []


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("fail", "message"),
    [
        ({"/api/repos": (403, "You may not, TOKEN")}, "may not write"),
        ({"/api/models/me/faces/commit": (500, "Broken, Bearer TOKEN")}, "run the same again later"),
        ({"/api/models/me/faces": (401, "Who is TOKEN?"), "/api/repos": (401, "Who is TOKEN?")}, "hf auth login"),
    ],
)
def test_refusals_are_one_line_without_the_token(
    ganformer: Run, hub: HubStandIn, tiny_run: Path, fail: dict[str, tuple[int, str]], message: str
) -> None:
    hub.fail = fail
    done = ganformer("push", "results/exp-000", "me/faces")
    assert done.exit_code == 1
    assert message in done.stderr
    assert "cannot push to me/faces" in done.stderr
    assert done.stderr.count("\n") == 1
    assert TOKEN not in done.output


def test_wrong_pushes(ganformer: Run, hub: HubStandIn, tiny_run: Path) -> None:
    Path("old.pkl").write_bytes(b"\x80\x04}q\x00.")
    wrong = [
        (("results/exp-000", "me"), "not a model on the Hugging Face Hub"),
        (("results/exp-000", "me/faces@v1"), "a push goes to main"),
        (("results/exp-000", "me/faces/a.pkl"), "must end in .safetensors"),
        (("old.pkl", "me/faces"), "convert it first"),
        (("results/exp-000", "me/faces"), "needs a token"),
    ]
    pytest.importorskip("huggingface_hub")
    for words, message in wrong:
        done = ganformer("push", *words)
        assert done.exit_code == 1
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert hub.asked == []


@pytest.mark.usefixtures("library")
def test_private_is_not_promised_of_a_public_repository(ganformer: Run, hub: HubStandIn, tiny_run: Path) -> None:
    hub.repositories["me/faces"] = Repository()
    done = ganformer("push", "results/exp-000", "me/faces", "--private")
    assert "me/faces exists, and everybody sees it" in done.stderr
    assert hub.repositories["me/faces"].files == {}
