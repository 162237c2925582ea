"""``ganformer compare``: runs' scores as one table."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from click.testing import Result

from ganformer_cli.cli.compare_found import read_runs
from ganformer_cli.config import BASELINES, resolve_run
from ganformer_cli.metrics.tabulate import CoursePoint, course_of, tabulate

Run = Callable[..., Result]
Maker = Callable[..., Path]

FULL = {"num_fakes": 2048, "dataset": "scenes"}


@pytest.fixture
def make_run(own_folder: Path) -> Maker:
    """Makes a run folder with settings and scores: ``make_run("duplex-seed0-000", [{"fid": 9}], seed=0)``."""

    def make(name: str, scores: list[dict[str, Any]], provenance: dict[str, Any] = FULL, **options: Any) -> Path:
        run = own_folder / "results" / name
        (run / "snapshots").mkdir(parents=True)
        config = resolve_run({"resolution": 32, **options}, dataset_preset={}, on_cpu=True)
        (run / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
        lines = [
            {"snapshot": f"network-snapshot-{kimg:06d}.safetensors", "kimg": kimg, "provenance": provenance, **values}
            for kimg, values in enumerate(scores, 1)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (run / "metrics.jsonl").write_text(text, encoding="utf-8")
        return run

    return make


@pytest.fixture
def runs(make_run: Maker) -> None:
    """Two seeds of duplex, one each of simplex and of a plain GAN, all with three scores."""
    make_run("duplex-seed0-000", [{"fid": 30.0, "is": 2.0, "precision": 0.5}, {"fid": 10.0, "is": 3.0}], seed=0)
    make_run("duplex-seed1-000", [{"fid": 13.0, "is": 4.0, "precision": 0.7}], seed=1)
    make_run("simplex-000", [{"fid": 20.0, "is": 2.5, "precision": 0.6}], attention="simplex")
    make_run("plain-000", [{"fid": 40.0, "is": 5.0}], **BASELINES["GAN"], style_mixing=0.0)


def lines_of(done: Result) -> list[list[str]]:
    assert done.exit_code == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


def test_models_by_scores_in_the_papers_order(ganformer: Run, runs: None) -> None:
    done = ganformer("compare")
    title, heads, *rows = lines_of(done)
    assert title == ["scenes"]
    assert heads == ["model", "FID", "↓", "IS", "↑", "precision", "%", "↑", "runs"]
    assert rows == [
        ["GAN", "40.00", "5.00", "-", "1"],
        ["simplex", "20.00", "2.50", "60.00", "1"],
        ["duplex", "11.50", "±", "2.12", "3.50", "±", "0.71", "70.00", "2"],
    ]
    # The run's newest snapshot speaks for it, and it has no precision.
    assert "the runs of duplex on scenes are averaged at 1, 2 kimg" in done.stderr


def test_columns_may_be_chosen(ganformer: Run, runs: None) -> None:
    assert lines_of(ganformer("compare", "--metrics", "is,pr"))[1][:4] == ["model", "IS", "↑", "precision"]
    refused = ganformer("compare", "--metrics", "kid")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "--metrics kid: no run has such scores" in refused.stderr


def test_the_best_snapshot_may_speak_for_a_run(ganformer: Run, make_run: Maker) -> None:
    make_run("a-000", [{"fid": 10.0, "is": 1.0}, {"fid": 8.0, "is": 9.0}, {"fid": 9.0, "is": 5.0}])
    assert lines_of(ganformer("compare"))[2][1:3] == ["9.00", "5.00"]
    assert lines_of(ganformer("compare", "--snapshot", "best"))[2][1:3] == ["8.00", "9.00"]
    by_is = lines_of(ganformer("compare", "--snapshot", "best", "--metrics", "is"))
    assert by_is[2][1] == "9.00"


def test_runs_that_differ_in_more_than_the_seed_are_rows_of_their_own(ganformer: Run, make_run: Maker) -> None:
    make_run("weak-000", [{"fid": 1.0}], gamma=1.0)
    make_run("strong-000", [{"fid": 2.0}], gamma=10.0)
    make_run("strong-001", [{"fid": 4.0}], gamma=10.0, seed=5)
    assert lines_of(ganformer("compare"))[2:] == [
        ["duplex", "(strong)", "3.00", "±", "1.41", "2"],
        ["duplex", "(weak)", "1.00", "1"],
    ]


def test_rows_may_be_named(ganformer: Run, runs: None) -> None:
    line = ["compare", "ours=results/duplex-seed0-000", "ours=results/simplex-000", "results/plain-000"]
    assert [row[0] for row in lines_of(ganformer(*line))[2:]] == ["GAN", "ours"]


def test_markdown_and_csv_and_json_say_the_same(ganformer: Run, runs: None) -> None:
    markdown = ganformer("compare", "--format", "markdown").stdout.splitlines()
    assert markdown[0] == "### scenes"
    assert markdown[2] == "| model | FID ↓ | IS ↑ | precision % ↑ | runs |"
    assert markdown[-1] == "| duplex | **11.50 ± 2.12** | 3.50 ± 0.71 | **70.00** | 2 |"
    rows = list(csv.DictReader(io.StringIO(ganformer("compare", "--format", "csv").stdout)))
    assert (rows[-1]["model"], float(rows[-1]["fid"]), rows[-1]["runs"]) == ("duplex", 11.5, "2")
    assert float(rows[-1]["fid_std"]) == statistics.stdev([10.0, 13.0])
    assert (rows[0]["precision"], rows[0]["fid_std"]) == ("", "")
    (table,) = json.loads(ganformer("compare", "--format", "json").stdout)
    assert json.loads(ganformer("compare", "--json").stdout) == [table]
    duplex = table["models"][-1]
    assert duplex["scores"]["precision"]["mean"] == 0.7  # people read percents, programs fractions
    assert duplex["scores"]["fid"] == {"mean": 11.5, "std": statistics.stdev([10.0, 13.0]), "runs": 2}
    assert [run["fid"] for run in duplex["runs"]] == [10.0, 13.0]


def test_json_is_a_format_of_its_own(ganformer: Run, runs: None) -> None:
    whole = ganformer("compare", "--json").stdout
    for line in ("--json True", "--format json --json", "--json --format json"):
        assert ganformer("compare", *line.split()).stdout == whole
    assert ganformer("compare", "--json", "False").stdout == ganformer("compare").stdout
    refused = ganformer("compare", "--json", "--format", "csv")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "--json and --format csv both choose the format" in refused.stderr


def test_a_table_for_each_data_set(ganformer: Run, make_run: Maker) -> None:
    make_run("a-000", [{"fid": 1.0}])
    make_run("b-000", [{"fid": 2.0}], {**FULL, "dataset": "faces"})
    shown = ganformer("compare")
    assert [row[0] for row in lines_of(shown) if len(row) == 1] == ["scenes", "faces"]
    assert shown.stderr == ""


def test_what_does_not_compare_is_told(ganformer: Run, make_run: Maker) -> None:
    make_run("a-000", [{"fid": 1.0, "swd": 3.0}], {**FULL, "seed": 0, "metrics": {"fid": {"resize": "tf1"}}})
    other = {**FULL, "seed": 1, "num_fakes": 1024, "metrics": {"fid": {"resize": "clean"}}}
    make_run("b-000", [{"fid": 1.0, "swd": 3.0}], other, seed=1)
    done = ganformer("compare")
    assert done.exit_code == 0
    messages = done.stderr.splitlines()
    assert len(messages) == 2
    assert "fid, swd: results/a-000 and results/b-000 are not comparable" in messages[1]
    assert "number of generated images (2048 and 1024)" in messages[1]
    assert "fid: results/a-000 and results/b-000 are not comparable, different resize before the network" in messages[0]


@pytest.mark.slow
def test_files_are_written_whole_and_the_plot_shows_deviations(ganformer: Run, runs: None) -> None:
    done = ganformer("compare", "--format", "csv", "--output", "out/table.csv", "--plot", "out/scores.svg")
    assert (done.exit_code, done.stdout) == (0, "")
    assert Path("out/table.csv").read_text(encoding="utf-8").startswith("dataset,model,runs,fid,fid_std")
    ganformer("compare", "results/duplex-seed0-000", "results/simplex-000", "--plot", "alone.svg")
    # The whiskers of bars are the charts' only collections of lines.
    assert "LineCollection" in Path("out/scores.svg").read_text(encoding="utf-8")
    assert "LineCollection" not in Path("alone.svg").read_text(encoding="utf-8")
    ganformer("compare", "--plot", "scores.png")
    with PIL.Image.open("scores.png") as chart:
        assert chart.format == "PNG"


@pytest.mark.slow
def test_the_plot_shows_the_course_over_kimg_and_time(ganformer: Run, make_run: Maker) -> None:
    for seed, fids in enumerate(([30.0, 20.0, 10.0], [40.0, 22.0])):
        run = make_run(f"a-seed{seed}-000", [{"fid": fid} for fid in fids], seed=seed)
        log = [{"kimg": kimg, "seconds": 600.0 * kimg * (seed + 1)} for kimg in (0.5, 2.5, 3.0)]
        (run / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in log), encoding="utf-8")
    (table,) = tabulate(read_runs((), Path("results"), "newest", None), None)
    # Only the moments that both seeds have: at 1 and 2 kimg, half the way between ticks.
    assert course_of(table.rows[0], "fid") == [
        CoursePoint(1.0, 900.0, 35.0, statistics.stdev([30.0, 40.0])),
        CoursePoint(2.0, 1800.0, 21.0, statistics.stdev([20.0, 22.0])),
    ]
    done = ganformer("compare", "--plot", "scores.svg")
    assert done.exit_code == 0, done.stderr
    drawn = Path("scores.svg").read_text(encoding="utf-8")
    assert "<!-- kimg -->" in drawn
    assert "<!-- minutes of training -->" in drawn
    for each in Path("results").glob("*/log.jsonl"):
        each.unlink()
    ganformer("compare", "--plot", "scores.svg", "--overwrite")
    assert "minutes of training" not in Path("scores.svg").read_text(encoding="utf-8")


def test_runs_without_scores_are_named_and_left_out(ganformer: Run, make_run: Maker) -> None:
    make_run("a-000", [{"fid": 1.0}])
    make_run("b-000", [])
    done = ganformer("compare")
    assert len(lines_of(done)) == 3
    assert f"{Path('results/b-000')}: no scores yet; score it with ganformer eval" in done.stderr
    alone = ganformer("compare", "results/b-000")
    assert alone.exit_code == 1
    assert "none of these runs has scores" in alone.stderr


def test_settings_of_another_version_are_known_by_the_runs_name(ganformer: Run, make_run: Maker) -> None:
    for number in (0, 1):
        run = make_run(f"old-seed{number}-000", [{"fid": 1.0 + number}])
        (run / "config.json").write_text('{"model": {"gone": 1}, "train": {}}', encoding="utf-8")
    assert lines_of(ganformer("compare"))[2:] == [["old", "1.50", "±", "0.71", "2"]]


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_are_called_as_they_are_asked_for(ganformer: Run, make_run: Maker, name: str) -> None:
    mixing = {} if BASELINES[name]["style"] else {"style_mixing": 0.0}
    components = {"components_num": 4} if name == "kGAN" else {}
    make_run("some-000", [{"fid": 1.0}], **{**BASELINES[name], **mixing, **components})
    assert lines_of(ganformer("compare"))[2][0] == name


# ----- What is no run, and the paper's table -----

CLEVR = {"num_fakes": 2048, "dataset": "clevr"}


def keep(scored: str, record: dict[str, Any], content: bytes | None = None, **provenance: Any) -> Path:
    """A snapshot that is no run's, with scores beside it."""
    path = Path(scored)
    if content is not None:
        path.write_bytes(content)
        provenance["snapshot_sha256"] = hashlib.sha256(content).hexdigest()
    line = {"snapshot": path.name, "kimg": None, **record, "provenance": {**CLEVR, **provenance}}
    with Path(f"{scored}.metrics.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")
    return path


def rows_of(done: Result) -> dict[str, list[str]]:
    """Cells by the name of the row."""
    assert done.exit_code == 0, done.stderr
    rows = [line.rsplit(maxsplit=2) for line in done.stdout.splitlines()]
    return {row[0]: row[1:] for row in rows if len(row) == 3}


def test_snapshots_and_images_stand_beside_runs_and_the_papers_table(ganformer: Run, make_run: Maker) -> None:
    make_run("a-000", [{"fid": 20.0}], CLEVR)
    keep("theirs.pkl", {"fid": 12.5}, b"snapshot")
    done = ganformer("compare", "results/a-000", "theirs.pkl")
    rows = rows_of(done)
    assert rows["duplex"] == ["20.00", "1"]
    assert rows["theirs"] == ["12.50", "1"]
    assert rows["duplex (paper)"] == ["9.17", "-"]
    assert rows["VQGAN (paper)"] == ["32.60", "-"]
    assert "Hudson & Zitnick 2021" in done.stdout
    assert "FID of 50000 images" in done.stdout
    (table,) = json.loads(ganformer("compare", "results/a-000", "theirs.pkl", "--json").stdout)
    paper = [model for model in table["models"] if "source" in model]
    assert len(paper) == 7
    assert all(model["runs"] == [] for model in paper)
    assert "(paper)" not in ganformer("compare", "results/a-000", "--no-paper").stdout
    markdown = ganformer("compare", "results/a-000", "--format", "markdown").stdout
    assert "| duplex | **20.00** | 1 |" in markdown  # the best of what was measured
    assert "| duplex (paper) | 9.17 | - |" in markdown


def test_the_users_own_entry_of_the_catalogue_may_report(ganformer: Run, make_run: Maker) -> None:
    make_run("a-000", [{"fid": 20.0}], {**FULL, "dataset": "mine"})
    Path("datasets").mkdir()
    head = 'title = "a"\nlicence = "b"\nratio = 1\n'
    own = '[reported]\nsource = "Ours 2026"\nresolution = 64\nimages = 9\n[reported.fid]\nbig = 3.5\n'
    Path("datasets/mine.toml").write_text(head + own, encoding="utf-8")
    done = ganformer("compare")
    assert rows_of(done)["big (paper)"] == ["3.50", "-"]
    assert "Ours 2026; FID of 9 images" in done.stdout
    Path("datasets/mine.toml").write_text("title = 1", encoding="utf-8")
    wrong = ganformer("compare")
    assert rows_of(wrong)["duplex"] == ["20.00", "1"]
    assert "mine.toml is not a valid catalogue entry" in wrong.stderr


def test_the_paper_has_no_row_where_no_column_is_its(ganformer: Run, make_run: Maker) -> None:
    make_run("a-000", [{"swd": 20.0}], CLEVR)
    make_run("b-000", [{"fid": 20.0}])
    assert "(paper)" not in ganformer("compare").stdout


def test_one_snapshot_at_two_paths_counts_once(ganformer: Run, own_folder: Path) -> None:
    keep("one.pkl", {"fid": 12.5}, b"the same")
    keep("two.pkl", {"fid": 12.5, "swd": 3.0}, b"the same")
    keep("other.pkl", {"fid": 14.0}, b"another")
    done = ganformer("compare", "one.pkl", "two.pkl", "other.pkl", "--no-paper")
    assert [line.split() for line in done.stdout.splitlines()[2:]] == [
        ["one", "12.50", "3.00", "1"],
        ["other", "14.00", "-", "1"],
    ]
    assert "two.pkl has the same checksum as one.pkl" in done.stderr


def test_snapshots_of_one_name_are_rows_of_their_own_unless_one_is_given(ganformer: Run, own_folder: Path) -> None:
    for folder, fid in (("a", 10.0), ("b", 20.0)):
        Path(folder).mkdir()
        keep(f"{folder}/net.pkl", {"fid": fid}, folder.encode())
    names = [name for name in rows_of(ganformer("compare", "a/net.pkl", "b/net.pkl")) if name.startswith("net (")]
    assert len(names) == 2
    (row,) = csv.DictReader(
        io.StringIO(ganformer("compare", "mine=a/net.pkl", "mine=b/net.pkl", "--no-paper", "--format", "csv").stdout)
    )
    assert (row["model"], row["fid"], row["runs"]) == ("mine", "15.0", "2")


def test_a_snapshot_that_has_changed_has_no_scores(ganformer: Run, own_folder: Path) -> None:
    path = keep("theirs.pkl", {"fid": 12.5}, b"snapshot")
    path.write_bytes(b"another")
    done = ganformer("compare", "theirs.pkl")
    assert done.exit_code == 1
    assert "theirs.pkl: has changed since it was scored" in done.stderr
    keep("theirs.pkl", {"fid": 13.5}, b"another")
    assert rows_of(ganformer("compare", "theirs.pkl"))["theirs"] == ["13.50", "1"]


def test_published_snapshots_are_known_by_name_and_need_not_be_there_any_more(ganformer: Run, own_folder: Path) -> None:
    from ganformer_cli.original_snapshots.catalogue import snapshot_path

    path = snapshot_path("clevr-snapshot.pkl")
    path.parent.mkdir(parents=True)
    keep(str(path), {"fid": 9.5}, b"snapshot")
    assert rows_of(ganformer("compare", "gdrive:clevr-snapshot.pkl"))["clevr-snapshot"] == ["9.50", "1"]
    path.unlink()
    assert rows_of(ganformer("compare", "gdrive:clevr-snapshot.pkl"))["clevr-snapshot"] == ["9.50", "1"]
    refused = ganformer("compare", "gdrive:clevr.pkl")
    assert refused.exit_code == 1
    assert "ganformer info --list" in refused.stderr


def test_folders_of_images_are_compared_while_they_stay_what_they_were(ganformer: Run, own_folder: Path) -> None:
    random = np.random.default_rng(0)
    for folder in ("images", "reals"):
        Path(folder).mkdir()
        for number in range(4):
            pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            PIL.Image.fromarray(pixels).save(f"{folder}/{number}.bmp")
    line = ["eval", "--images", "images", "--reals", "reals", "--metrics", "diversity"]
    assert ganformer(*line).exit_code == 0
    assert "images" in rows_of(ganformer("compare", "images"))
    whole = Path("images/0.bmp").read_bytes()
    os.utime("images/0.bmp", (1, 1))  # touched, but the same
    os.utime("images/1.bmp")
    assert "images" in rows_of(ganformer("compare", "images"))
    Path("images/0.bmp").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # as long as before
    changed = ganformer("compare", "images")
    assert changed.exit_code == 1
    assert "images: has changed since it was scored" in changed.stderr
    refused = ganformer("eval", "--compare", "images", "images")
    assert "has changed since it was scored" in refused.stderr
    assert ganformer(*line).exit_code == 0
    assert "images" in rows_of(ganformer("compare", "images"))
    assert ganformer("eval", "--compare", "images", "images").exit_code == 0


def test_files_of_scores_and_what_lies_among_the_runs(ganformer: Run, make_run: Maker) -> None:
    make_run("a-000", [{"fid": 20.0}], CLEVR)
    keep("results/theirs.pkl", {"fid": 12.5}, b"snapshot")
    keep("results/gone", {"fid": 13.5}, snapshot_sha256="1" * 64)
    assert {"duplex", "theirs", "gone"} <= set(rows_of(ganformer("compare")))
    file = "results/theirs.pkl.metrics.jsonl"
    assert rows_of(ganformer("compare", file))["theirs"] == ["12.50", "1"]


def test_one_snapshot_of_a_run_may_be_meant(ganformer: Run, make_run: Maker) -> None:
    run = make_run("a-000", [{"fid": 20.0}, {"fid": 10.0}], CLEVR)
    file = run / "snapshots" / "network-snapshot-000001.safetensors"
    file.write_bytes(b"")
    assert rows_of(ganformer("compare", file))["duplex"] == ["20.00", "1"]


def test_what_is_nothing_is_named(ganformer: Run, own_folder: Path) -> None:
    refused = ganformer("compare", "nowhere")
    assert refused.exit_code == 1
    assert "nowhere: no run folder, snapshot, images or file of scores" in refused.stderr
    Path("new.pkl").write_bytes(b"")
    assert (
        "new.pkl: no scores yet; score it with ganformer eval --model new.pkl" in ganformer("compare", "new.pkl").stderr
    )
