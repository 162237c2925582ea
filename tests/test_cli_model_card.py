"""``ganformer info --card``: what the card says, that the Hub can read it, and that nobody's own text is lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from ganformer_cli.checkpoints.headers import read_header
from ganformer_cli.checkpoints.snapshots import read_tensors, save_tensors

Run = Callable[..., Result]
NEWEST = "network-snapshot-000002.safetensors"


def front_matter(text: str) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    head, text = text.split("---\n", 2)[:2]
    assert head == ""
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def write_scores(run: Path, **values: float) -> None:
    conditions = {"num_fakes": 64, "truncation_psi": 0.7, "dataset": "/home/me/sets/scenes", "seed": 3}
    record = {"snapshot": NEWEST, "kimg": 2, **values, "provenance": {**conditions, "metrics": {}}}
    (run / "metrics.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")


def converted(snapshot: Path, path: Path, **header: Any) -> Path:
    """A file with the averaged generator only, and other entries in its header."""
    tensors = {f"ema.{name}": value for name, value in read_tensors(snapshot, "ema.").items()}
    kept = {name: value for name, value in read_header(snapshot).items() if name not in ("format", "kimg", "dataset")}
    save_tensors(path, tensors, {**kept, **header})
    return path


def test_the_card_of_a_run(ganformer: Run, tiny_run: Path) -> None:
    samples = tiny_run / "samples"
    samples.mkdir()
    for name in ("fakes-000001.png", "fakes-000002.png", "attention-000002.png"):
        (samples / name).write_bytes(b"PNG")
    write_scores(tiny_run, fid=12.25, swd=7.0)
    done = ganformer("info", "--card", "--licence", "CC-BY-4.0")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.split() == ["card", str(tiny_run.resolve() / "MODEL.md")]
    text = (tiny_run / "MODEL.md").read_text(encoding="utf-8")
    assert "![samples](samples/fakes-000002.png)" in text
    assert "![attention maps](samples/attention-000002.png)" in text
    assert "fakes-000001" not in text
    assert "| FID | 12.25 | 64 | 0.7 | scenes | 3 |" in text
    assert "/home/me" not in text
    assert "Apache-2.0, as this program, which draws them" in text  # of the data, from the catalogue
    assert "The model: cc-by-4.0" in text
    head = front_matter(text)
    assert head["license"] == "cc-by-4.0"
    assert head["library_name"] == "ganformer"
    assert {"gan", "gansformer"} <= set(head["tags"])
    (results,) = head["model-index"]
    (result,) = results["results"]
    assert result["dataset"]["name"] == "scenes"
    assert {each["type"]: each["value"] for each in result["metrics"]} == {"fid": 12.25, "swd": 7.0}


def test_the_hub_library_reads_the_header(ganformer: Run, tiny_run: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    write_scores(tiny_run, fid=12.5)
    ganformer("info", "--card")
    card = hub.ModelCard.load(tiny_run / "MODEL.md")
    assert card.data.library_name == "ganformer"
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.task_type) == (
        "fid",
        12.5,
        "unconditional-image-generation",
    )


def test_the_card_of_a_converted_file_states_the_authors_licence(ganformer: Run, tiny_run: Path) -> None:
    source = {"format": "pytorch", "file": "clevr-snapshot.pkl", "sha256": "abc"}
    file = converted(tiny_run / "snapshots" / NEWEST, Path("clevr.safetensors"), source=source, licence="theirs")
    done = ganformer("info", "--card", str(file))
    assert done.exit_code == 0, done.stderr
    text = Path("MODEL.md").read_text(encoding="utf-8")
    assert front_matter(text)["license"] == "other"
    assert front_matter(text)["license_link"] == "https://github.com/dorarad/gansformer"
    assert "NVIDIA" in text
    assert "CC BY 4.0" in text  # of CLEVR
    assert "clevr-snapshot.pkl (pytorch), sha256 `abc`" in text
    assert "None were measured" in text
    assert "Trained with the program of its authors" in text
    assert ganformer("info", "--card", str(file), "--licence", "other").exit_code == 0
    text = Path("MODEL.md").read_text(encoding="utf-8")
    assert "The model: other" in text
    assert "NVIDIA" in text  # what a user states does not take the facts away


@pytest.mark.slow
def test_a_card_needs_no_torch(tiny_run: Path) -> None:
    code = (
        "import sys; from click.testing import CliRunner; from ganformer_cli.cli.main import program;"
        "done = CliRunner().invoke(program, ['info', '--card']); assert done.exit_code == 0, done.output;"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tiny_run / "MODEL.md").is_file()


def test_text_of_somebody_is_never_replaced_unasked(ganformer: Run, tiny_run: Path) -> None:
    card = tiny_run / "MODEL.md"
    assert ganformer("info", "--card").exit_code == 0
    assert ganformer("info", "--card", "--licence", "mit").exit_code == 0  # nobody has edited it
    card.write_text(card.read_text(encoding="utf-8").replace("## Use", "My cat.\n\n## Use"), encoding="utf-8")
    done = ganformer("info", "--card")
    assert done.exit_code == 1
    assert "edited by hand" in done.stderr
    assert "My cat." in card.read_text(encoding="utf-8")
    assert ganformer("info", "--card", "--overwrite").exit_code == 0
    assert "My cat." not in card.read_text(encoding="utf-8")


def test_two_models_in_one_folder_have_one_card(ganformer: Run, tiny_run: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        shutil.copy(tiny_run / "snapshots" / NEWEST, name)
    assert ganformer("info", "--card", "a.safetensors").exit_code == 0
    done = ganformer("info", "--card", "b.safetensors")
    assert done.exit_code == 1
    assert "is the card of another model, a" in done.stderr


def test_foreign_text_is_no_markup(ganformer: Run, tiny_run: Path) -> None:
    evil = 'x | </td><script>`[a](http://b)\n# Heading --> "quoted"\n---\nlicense: mit'
    file = converted(
        tiny_run / "snapshots" / NEWEST, Path("m.safetensors"), licence=evil, version=evil,
        dataset={"name": evil, "images": evil, "fingerprint": evil},
    )  # fmt: skip
    done = ganformer("info", "--card", str(file))
    assert done.exit_code == 0, done.stderr
    text = Path("MODEL.md").read_text(encoding="utf-8")
    assert "license" not in front_matter(text)
    assert "<script>" not in text
    assert "](http://b" not in text
    assert "\n# Heading" not in text
    assert ganformer("info", "--card", str(file)).exit_code == 0  # its mark is still understood


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--card", "--licence", "do what you like"], 1, "--licence do what you like: not a licence"),
        (["--card", "--samples", "nothing.png"], 1, "--samples nothing.png: no such image"),
        (["--card", "--samples", "results/exp-000/config.json"], 1, "no such image"),
        (["--licence", "mit"], 2, "--licence is about a model card; add --card"),
        (["--card", "--list"], 2, "leave out --card"),
    ],
)
def test_wrong_lines(ganformer: Run, tiny_run: Path, words: list[str], status: int, message: str) -> None:
    done = ganformer("info", *words)
    assert message in done.stderr
    assert (done.exit_code, done.stdout) == (status, "")
    assert not (tiny_run / "MODEL.md").exists()
