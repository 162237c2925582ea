"""The authors' snapshots: they compute what the authors' code computed, and nothing in them runs."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import pickle
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file

from ganformer_cli.errors import GanformerError, SnapshotError
from ganformer_cli.models import Generator
from ganformer_cli.original_snapshots import ModelNetworks, is_original, load_original, opening
from ganformer_cli.original_snapshots.catalogue import PUBLISHED, fetch_snapshot, snapshot_path
from ganformer_cli.original_snapshots.pickles import read_pickle

GOLDEN = Path(__file__).parent / "golden" / "duplex-kmeans"
#: Networks of the authors' in settings that their tensors do not show: a snapshot each, and what it computes.
OTHERS = sorted(path for path in (GOLDEN.parent / "snapshots").iterdir() if path.is_dir())
PYTORCH = GOLDEN / "network-snapshot-000000.pkl"
TENSORFLOW = GOLDEN / "network-snapshot-tf.pkl"

Run = Callable[..., Result]


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


# ----- What they compute -----


@pytest.mark.parametrize(("file", "suffix", "io_file"), [(PYTORCH, "", "io"), (TENSORFLOW, "_tf", "io-tf")])
def test_networks_compute_what_the_authors_did(file: Path, suffix: str, io_file: str) -> None:
    given = load_file(GOLDEN / f"{io_file}.safetensors")
    snapshot = load_original(file)
    for network in (snapshot.ema, snapshot.generator):
        assert network is not None
        assert relative(network(given["z"], noise_mode="const"), given[f"img{suffix}"]) < 1e-5
        truncated = network.mapping(given["z"], truncation_psi=0.7)
        psi = "_tf_psi07" if suffix else "_psi07"
        assert relative(truncated[:, :, 0], given[f"ws{psi}"]) < 1e-5
        assert relative(network.synthesis(truncated, "const"), given[f"img{psi}"]) < 1e-5
    assert snapshot.discriminator is not None
    reals = load_file(GOLDEN / "io.safetensors")
    assert relative(snapshot.discriminator(reals["real"]), reals["logits"]) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("file", "io_file", "name"), [(PYTORCH, "io", "img"), (TENSORFLOW, "io-tf", "img_tf")])
@pytest.mark.parametrize("converted", [True, False])
def test_from_snapshot_to_numbers_on_the_command_line(
    ganformer: Run, file: Path, io_file: str, name: str, converted: bool
) -> None:
    given = load_file(GOLDEN / f"{io_file}.safetensors")
    np.save("z.npy", given["z"].numpy())
    model = str(file)
    if converted:
        assert ganformer("convert", file, "out.safetensors").exit_code == 0
        model = "out.safetensors"
    words = ("--latents", "z.npy", "--noise", "const", "--truncation-psi", "1", "--format", "npy")
    done = ganformer("generate", "--model", model, *words)
    assert done.exit_code == 0, done.output
    drawn = torch.from_numpy(np.load("images/images.npy"))
    assert drawn.dtype == torch.float32
    assert relative(drawn, given[name]) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("folder", OTHERS, ids=lambda path: path.name)
def test_settings_that_tensors_do_not_show(ganformer: Run, folder: Path) -> None:
    """Style, positions, gates, dropout, depth and layers are read from what the file says."""
    given = load_file(folder / "io.safetensors")
    np.save("z.npy", given["z"].numpy())
    converted = ganformer("convert", folder / "network-snapshot-000000.pkl", "out.safetensors")
    assert converted.exit_code == 0, converted.output
    assert "left out" not in converted.output
    line = ("generate", "--model", "out.safetensors", "--latents", "z.npy", "--noise", "const", "--format", "npy")
    for psi, name in (("1", "img"), ("0.7", "img_psi07")):
        assert ganformer(*line, "--truncation-psi", psi, "--overwrite").exit_code == 0
        assert relative(torch.from_numpy(np.load("images/images.npy")), given[name]) < 1e-5


def test_there_are_ten_of_them() -> None:
    assert len(OTHERS) == 10


@pytest.mark.slow
def test_stored_psi_applies_to_tensorflow_models(ganformer: Run) -> None:
    assert load_original(TENSORFLOW).header["truncation_psi"] == pytest.approx(0.65)
    np.save("z.npy", load_file(GOLDEN / "io-tf.safetensors")["z"].numpy())
    pictures = []
    for words in ((), ("--truncation-psi", "0.65"), ("--truncation-psi", "0.7")):
        line = ("generate", "--model", TENSORFLOW, "--latents", "z.npy", "--format", "npy", "--overwrite", *words)
        assert ganformer(*line).exit_code == 0
        pictures.append(np.load("images/images.npy"))
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])


@pytest.mark.slow
def test_a_converted_file_is_plain_safetensors(ganformer: Run) -> None:
    assert ganformer("convert", PYTORCH, "whole.safetensors").exit_code == 0
    # Nothing keeps the file mapped: Windows would not let it be replaced below.
    assert {name.partition(".")[0] for name in load_file("whole.safetensors")} == {"ema", "generator", "discriminator"}
    assert ganformer("convert", "whole.safetensors", "small.safetensors", "--ema-only").exit_code == 0
    assert {name.partition(".")[0] for name in load_file("small.safetensors")} == {"ema"}
    shown = json.loads(ganformer("info", "small.safetensors", "--json").stdout)
    assert "pytorch" in json.dumps(shown)
    again = ganformer("convert", PYTORCH, "whole.safetensors")
    assert again.exit_code == 1
    assert "--overwrite" in again.stderr
    assert ganformer("convert", PYTORCH, "whole.safetensors", "--overwrite").exit_code == 0
    assert "must end in .safetensors" in ganformer("convert", PYTORCH, "whole.pt").stderr


#: What is measured before a run where nobody says these.
NO_TRIALS = ("--batch-gpu", "4", "--precision", "fp32")


@pytest.mark.slow
def test_training_goes_on_from_a_snapshot(ganformer: Run) -> None:
    line: tuple[Any, ...] = (
        "train",
        "--pretrained-pkl",
        PYTORCH,
        "--total-kimg",
        "0.008",
        "--metrics",
        "none",
        "--vis-num",
        "2",
    )
    line += ("--batch-size", "4", "--train-images-num", "8", *NO_TRIALS)
    done = ganformer(*line)
    assert done.exit_code == 0, done.output
    trained = load_file("results/scenes-kmeans-000/snapshots/network-snapshot-000000.safetensors")
    start = load_original(PYTORCH).ema.state_dict()
    assert relative(trained["ema.pos"], start["pos"]) < 0.05
    assert ganformer(*line).exit_code == 0  # finished already
    # As people said it with the authors' scripts, whose duplex models have this layer.
    named = ganformer(*line, "--ganformer-default", "--attention", "duplex")
    assert named.exit_code == 0, named.output
    again = load_file("results/scenes-duplex-000/snapshots/network-snapshot-000000.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in trained.items())
    other = ganformer(*line, "--num-heads", "2", "--restart")
    assert other.exit_code == 1
    assert "--num-heads 2" in other.stderr
    assert "--pretrained-pkl" in other.stderr


def test_an_averaged_generator_alone_is_not_enough_to_train_on(ganformer: Run, own_folder: Path) -> None:
    assert ganformer("convert", PYTORCH, "small.safetensors", "--ema-only").exit_code == 0
    done = ganformer("train", "--pretrained-pkl", "small.safetensors", "--total-kimg", "0.01")
    assert done.exit_code == 1
    assert "--ema-only" in done.stderr
    assert not (own_folder / "results").exists()


# ----- Other networks of the TensorFlow version than the golden one -----

Variables = dict[str, Any]


def changed_tensorflow(
    monkeypatch: pytest.MonkeyPatch,
    *,
    options: dict[str, Any] | None = None,
    synthesis: Callable[[Variables], Variables] = dict,
    mapping: Callable[[Variables], Variables] = dict,
    discriminator: Callable[[Variables], Variables] = dict,
) -> ModelNetworks:
    """The golden snapshot with other settings and variables of its generators."""
    tree = read_pickle(TENSORFLOW)
    for network in (tree[0], tree[2]):
        network.state["static_kwargs"] = {**network.state["static_kwargs"], **(options or {})}
        parts = network.state["components"]
        for part, change in ((parts["synthesis"], synthesis), (parts["mapping"], mapping)):
            part.state["variables"] = list(change(dict(part.state["variables"])).items())
    tree[1].state["variables"] = list(discriminator(dict(tree[1].state["variables"])).items())
    monkeypatch.setattr(opening, "read_pickle", lambda path: tree)
    return load_original(TENSORFLOW)


def draw(snapshot: ModelNetworks) -> torch.Tensor:
    picture: torch.Tensor = snapshot.ema(load_file(GOLDEN / "io-tf.safetensors")["z"], noise_mode="const")
    return picture


def test_networks_without_a_last_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = changed_tensorflow(
        monkeypatch, synthesis=lambda given: {name: v for name, v in given.items() if "extraLayer" not in name}
    )
    assert not snapshot.config.conv_last
    assert snapshot.ema.synthesis_network.blocks()[-1].conv_last is None
    assert draw(snapshot).isfinite().all()


def test_a_weight_for_each_iteration_of_k_means(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same weight twice it is the network with one weight; with another second one it is not."""

    def second(factor: float) -> ModelNetworks:
        def change(given: Variables) -> Variables:
            more = {
                name.replace("iter_0", "iter_1"): value * factor for name, value in given.items() if "iter_0" in name
            }
            return {**given, **more}

        return changed_tensorflow(monkeypatch, options={"kmeans_iters": 2}, synthesis=change)

    same, other = second(1.0), second(1.5)
    assert same.config.kmeans_weight_per_iter
    shared = Generator(dataclasses.replace(same.config, kmeans_weight_per_iter=False)).eval()
    state = same.ema.state_dict()
    shared.load_state_dict({k: v[0] if k.endswith("att_weight") else v for k, v in state.items()})
    z = load_file(GOLDEN / "io-tf.safetensors")["z"]
    assert relative(draw(same), shared(z, noise_mode="const")) < 1e-5
    assert relative(draw(other), draw(same)) > 1e-3


def test_a_native_rectangle_is_told_by_the_shape_of_its_first_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    def halve(given: Variables) -> Variables:
        cut = {name: v[:, :, : v.shape[2] // 2] for name, v in given.items() if name.startswith("noise")}
        return {**given, **cut, "4x4/Const/const": given["4x4/Const/const"][:, :, :2]}

    def fewer(given: Variables) -> Variables:
        return {**given, "4x4/Dense0/weight": given["4x4/Dense0/weight"][: 32 * 2 * 4]}

    snapshot = changed_tensorflow(monkeypatch, synthesis=halve, discriminator=fewer)
    assert (snapshot.config.ratio, snapshot.config.square_grid) == (0.5, False)
    assert draw(snapshot).shape[2:] == (16, 32)


def test_both_generations_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    older = changed_tensorflow(monkeypatch)
    renamed = {"z_dim": 8, "w_dim": 8, "channel_base": 256, "channel_max": 32, "c_dim": 0}
    gone = dict.fromkeys(("latent_size", "dlatent_size", "fmap_base", "fmap_max", "label_size"))
    newer = changed_tensorflow(monkeypatch, options={**gone, **renamed})
    assert newer.config == older.config


def test_a_plain_mapping_network_has_eight_layers_not_nine(monkeypatch: pytest.MonkeyPatch) -> None:
    source = np.random.default_rng(0)

    def plain(given: Variables) -> Variables:
        return {
            f"{part}Dense{i}/{kind}": source.normal(size=(8, 8) if kind == "weight" else 8).astype(np.float32)
            for part in ("", "global/")
            for i in range(8)
            for kind in ("weight", "bias")
        }

    snapshot = changed_tensorflow(
        monkeypatch, options={"mapping_resnet": False, "mapping_ltnt2ltnt": False}, mapping=plain
    )
    assert snapshot.config.mapping_num_layers == 7
    assert snapshot.ema.mapping_network.mlp is not None
    # Its layers by hand: Dense0 … Dense7, each component normalised over its own numbers.
    z = load_file(GOLDEN / "io-tf.safetensors")["z"]
    x = z[:, 0] / (z[:, 0].square().mean(1, keepdim=True) + 1e-8).sqrt()
    state = snapshot.ema.state_dict()
    for layer in [*(f"l{i}" for i in range(7)), "out_layer"]:
        weight, bias = (state[f"mapping_network.mlp.{layer}.{kind}"] for kind in ("weight", "bias"))
        x = torch.nn.functional.leaky_relu(x @ weight.T * 0.01 / 8**0.5 + bias * 0.01, 0.2) * 2**0.5
    torch.testing.assert_close(snapshot.ema.mapping(z)[:, 0, 0], x)


def test_a_truncation_cutoff_is_one_less_here(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = changed_tensorflow(monkeypatch, options={"truncation_cutoff": 4})
    z = load_file(GOLDEN / "io-tf.safetensors")["z"]
    plain, half = snapshot.ema.mapping(z), snapshot.ema.mapping(z, truncation_psi=0.5)
    assert [torch.equal(plain[:, :, i], half[:, :, i]) for i in range(9)] == [False] * 3 + [True] * 6


@pytest.mark.parametrize("option", ["component_dropout", "latent_stem", "img2img"])
def test_what_acts_differently_there_is_refused(monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    with pytest.raises(SnapshotError, match=option):
        changed_tensorflow(monkeypatch, options={option: 1})


# ----- Networks of which only the generator can be read -----


def without(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any], file: Path = PYTORCH) -> None:
    """Have the golden snapshot read as if its tree were ``change``d."""
    tree = read_pickle(file)
    monkeypatch.setattr(opening, "read_pickle", lambda path: change(tree))


def other_width(tree: Any) -> Any:
    tree["D"].state["_init_kwargs"]["channel_max"] = 16
    return tree


def with_attention(tree: Any) -> Any:
    tree["D"].state["_init_kwargs"]["transformer"] = True
    return tree


def one_tensor_more(tree: Any) -> Any:
    tree["D"].state["_modules"]["b8"].state["_parameters"]["trick"] = torch.ones(2)
    return tree


ODD: dict[str, tuple[Callable[[Any], Any], str]] = {
    "none": (lambda tree: {**tree, "D": None}, "holds no D"),
    "absent": (lambda tree: {name: value for name, value in tree.items() if name != "D"}, "holds no D"),
    "something else": (lambda tree: {**tree, "D": [1]}, "D is not a network"),
    "other width": (other_width, "another channel_max"),
    "attention": (with_attention, "attention in the discriminator"),
    "an unknown tensor": (one_tensor_more, "b8.trick"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_a_generator_is_read_without_its_discriminator(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    change, reason = ODD[name]
    without(monkeypatch, change)
    found = load_original(PYTORCH)
    assert list(found.left_out) == ["discriminator"]
    assert reason in found.left_out["discriminator"]
    assert found.discriminator is None
    given = load_file(GOLDEN / "io.safetensors")
    assert relative(found.ema(given["z"], noise_mode="const"), given["img"]) < 1e-5


@pytest.mark.slow
def test_what_was_left_out_is_said(ganformer: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    change, reason = ODD["an unknown tensor"]
    without(monkeypatch, change)
    done = ganformer("convert", PYTORCH, "out.safetensors")
    assert done.exit_code == 0, done.output
    assert "left out   discriminator" in done.output
    assert reason in done.output
    record = json.loads(ganformer("convert", PYTORCH, "b.safetensors", "--json").stdout)
    assert reason in record["left_out"]["discriminator"]
    for model in (PYTORCH, "out.safetensors"):
        shown = json.loads(ganformer("info", model, "--json").stdout)
        assert shown["networks"] == ["ema", "generator"]
        assert reason in shown["left_out"]["discriminator"]
    line = ("train", "--pretrained-pkl", "out.safetensors", "--total-kimg", "0.004", "--batch-size", "4")
    refused = ganformer(*line, "--metrics", "none")
    assert refused.exit_code == 1
    assert "holds no discriminator" in refused.stderr
    assert reason in refused.stderr
    assert "--init-from" in refused.stderr


#: A training that ends at once.
SHORT = (
    *("--total-kimg", "0.004", "--batch-size", "4", "--vis-num", "2", "--metrics", "none", "--train-images-num", "8"),
    *NO_TRIALS,
)


@pytest.mark.slow
def test_a_new_discriminator_is_begun_where_there_is_none(ganformer: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, lambda tree: {**tree, "D": None})
    done = ganformer("train", "--init-from", PYTORCH, *SHORT)
    assert done.exit_code == 0, done.output
    assert "without its discriminator: the file holds no D" in done.output + done.stderr
    trained = load_file("results/scenes-kmeans-000/snapshots/network-snapshot-000000.safetensors")
    assert relative(trained["ema.pos"], load_original(PYTORCH).ema.state_dict()["pos"]) < 0.05


def test_tensorflow_s_discriminator_may_be_missing_too(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, lambda tree: (tree[0], None, tree[2]), TENSORFLOW)
    found = load_original(TENSORFLOW)
    assert list(found.left_out) == ["discriminator"]
    given = load_file(GOLDEN / "io-tf.safetensors")
    assert relative(found.ema(given["z"], noise_mode="const"), given["img_tf"]) < 1e-5


def test_the_generator_itself_has_to_be_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, lambda tree: {**tree, "Gs": None})
    with pytest.raises(SnapshotError, match="without Gs"):
        load_original(PYTORCH)


@pytest.mark.slow
def test_dropout_is_kept_for_training_on(ganformer: Run) -> None:
    """It acts in training only, so pictures do not show it."""
    file = GOLDEN.parent / "snapshots" / "component-dropout" / "network-snapshot-000000.pkl"
    assert ganformer("convert", file, "out.safetensors").exit_code == 0

    def trained(name: str, *words: str) -> dict[str, Any]:
        done = ganformer("train", "--pretrained-pkl", "out.safetensors", "--expname", name, *SHORT, *words)
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads(Path(f"results/{name}-000/config.json").read_text(encoding="utf-8"))
        return found

    kept = trained("kept")
    assert (kept["train"]["component_dropout"], kept["model"]["attention_dropout"]) == (0.2, 0.12)
    other = trained("other", "--component-dropout", "0.1", "--attention-dropout", "0")
    assert (other["train"]["component_dropout"], other["model"]["attention_dropout"]) == (0.1, 0)


# ----- Nothing in them runs -----


class Call:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def touch(path: str) -> None:
    Path(path).touch()


def by_name(module: str, name: str, argument: str) -> bytes:
    """A pickle that calls ``module.name(argument)``."""
    text = argument.encode()
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"X" + struct.pack("<I", len(text)) + text + b"\x85R."


def within(payload: Any) -> bytes:
    """A snapshot's dictionary with ``payload`` somewhere inside."""
    return pickle.dumps({"G": None, "D": None, "Gs": None, "dataset_args": {"path": payload}}, protocol=4)


def nested(canary: str) -> bytes:
    """A payload in the second pickle, the one of the storages."""
    inner = io.BytesIO()
    torch.save(Call(os.system, f"touch {canary}"), inner)
    return within(Call(torch.storage._load_from_bytes, inner.getvalue()))


EVIL: dict[str, Callable[[str], bytes]] = {
    "os.system": lambda canary: within(Call(os.system, f"touch {canary}")),
    "posix.system": lambda canary: by_name("posix", "system", f"touch {canary}"),
    "nt.system": lambda canary: by_name("nt", "system", f"type nul > {canary}"),
    "builtins.eval": lambda canary: within(Call(eval, f"open({canary!r}, 'w')")),
    "builtins.exec": lambda canary: by_name("builtins", "exec", f"open({canary!r}, 'w')"),
    "builtins.getattr": lambda canary: within(Call(getattr, "", "join")),
    "builtins.__import__": lambda canary: by_name("builtins", "__import__", "os"),
    "subprocess.Popen": lambda canary: by_name("subprocess", "Popen", f"touch {canary}"),
    "torch.load": lambda canary: by_name("torch", "load", canary),
    "torch.hub.load": lambda canary: by_name("torch.hub", "load", canary),
    "dotted": lambda canary: b"\x80\x04\x8c\x0btorch._utils\x8c\x16_rebuild_tensor_v2.__ca\x93.",
    "a class of ours": lambda canary: by_name("pathlib", "Path", canary),
    "nested storage": nested,
    "numpy loads": lambda canary: by_name("numpy", "load", canary),
    "object arrays": lambda canary: within(np.array([Call(os.system, f"touch {canary}")], dtype=object)),
}


@pytest.mark.parametrize("name", EVIL)
def test_other_names_are_refused_and_nothing_runs(ganformer: Run, own_folder: Path, name: str) -> None:
    Path("evil.pkl").write_bytes(EVIL[name]("canary"))
    for line in (("convert", "evil.pkl", "out.safetensors"), ("generate", "--model", "evil.pkl"), ("info", "evil.pkl")):
        done = ganformer(*line)
        assert done.exit_code == 1, done.output
        assert isinstance(done.exception, SystemExit)
        assert len(done.stderr.strip().splitlines()) == 1
        assert "evil.pkl" in done.stderr
    assert [path.name for path in own_folder.iterdir()] == ["evil.pkl"]


def test_the_refused_name_is_told() -> None:
    Path("evil.pkl").write_bytes(by_name("posix", "system", "true"))
    with pytest.raises(SnapshotError, match=r"names posix\.system.*was not run"):
        read_pickle(Path("evil.pkl"))


def test_source_text_inside_is_never_run() -> None:
    """That of the golden file raises if anybody does; this one would write a file."""
    data = PYTORCH.read_bytes()
    text = b"raise RuntimeError('the source text inside a checkpoint was executed')\n"
    assert text in data
    evil = b"open('canary', 'w')".ljust(len(text) - 1) + b"\n"
    Path("evil.pkl").write_bytes(data.replace(text, evil))
    assert load_original(Path("evil.pkl")).config.resolution == 32
    assert not Path("canary").exists()


def changed(file: Path, old: bytes, new: bytes) -> bytes:
    data = file.read_bytes()
    assert old in data
    assert len(old) == len(new)
    return data.replace(old, new)


OPCODE_BOMBS = {
    "a huge memo number": b"\x80\x02}r\xff\xff\xff\x7f.",
    "a huge string": b"\x80\x04\x8e\xff\xff\xff\xff\xff\x00\x00\x00.",
    "a huge frame": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\x00\x00N.",
    "a registry number": b"\x80\x02\x82\x01.",
    "a persistent id": b"\x80\x02K\x01Q.",
    "a number of a million digits": b"\x80\x02I" + b"9" * 1_000_000 + b"\n.",
    "nesting": b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
    "nothing": b"",
    "two bytes": b"\x80\x04",
    "a stop at once": b"\x80\x04.",
}

REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "truncated": (lambda: PYTORCH.read_bytes()[:-2000], "it is truncated"),
    "truncated tensorflow": (lambda: TENSORFLOW.read_bytes()[:100_000], "it is truncated"),
    "a web page": (lambda: b"<!DOCTYPE html><title>Google Drive - Quota exceeded</title>", "a web page"),
    "a zip": (lambda: b"PK\x03\x04" + bytes(100), "zip"),
    "text": (lambda: b"hello there", "not a pickle"),
    "another pickle": (lambda: pickle.dumps({"a": 1}), "no snapshot of the GANsformer's"),
    "StyleGAN2-ADA": (lambda: pickle.dumps({"G": None, "D": None, "G_ema": None}), "StyleGAN2-ADA"),
    "StyleGAN2 of PyTorch": (lambda: changed(PYTORCH, b"\x01k\x94", b"\x01j\x94"), "StyleGAN2-ADA"),
    # A tensor of [4, 8] that says it were [2, 8].
    "shapes that do not fit": (lambda: changed(PYTORCH, b"K\x04K\x08\x86", b"K\x02K\x08\x86"), "of another shape"),
    **{name: (lambda data=data: data, "evil.pkl") for name, data in OPCODE_BOMBS.items()},  # type: ignore[misc]
}


def test_our_files_are_not_taken_for_pickles(own_folder: Path) -> None:
    """They begin with the length of their header, which may begin with the byte that every pickle begins with."""
    path = own_folder / "a.model"
    for length in (0x80, 0x280, 0x10280):
        path.write_bytes(struct.pack("<Q", length) + b'{"__metadata__": {}}'.ljust(length))
        assert not is_original(path)
    assert is_original(PYTORCH)


def test_a_tensor_takes_no_state_from_a_pickle() -> None:
    """torch's tensors would: BUILD may not reach them."""
    inner = io.BytesIO()
    torch.save(torch.zeros(4).storage(), inner)
    storage = Call(torch.storage._load_from_bytes, inner.getvalue())
    data = pickle.dumps(storage, protocol=4)
    Path("evil.pkl").write_bytes(data[:-1] + b"}b.")  # ... and then BUILD with an empty dictionary
    with pytest.raises(SnapshotError, match="sealed"):
        read_pickle(Path("evil.pkl"))
    Path("fine.pkl").write_bytes(data)
    assert torch.equal(read_pickle(Path("fine.pkl")), torch.zeros(4))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_snapshot_says_what_it_is(ganformer: Run, own_folder: Path, name: str) -> None:
    make, message = REFUSED[name]
    Path("evil.pkl").write_bytes(make())
    done = ganformer("convert", "evil.pkl", "out.safetensors")
    assert done.exit_code == 1, done.output
    assert isinstance(done.exception, SystemExit), done.exception
    assert len(done.stderr.strip().splitlines()) == 1
    assert message in done.stderr
    assert [path.name for path in own_folder.iterdir()] == ["evil.pkl"]


@pytest.mark.slow
@pytest.mark.parametrize("file", [PYTORCH, TENSORFLOW], ids=["pytorch", "tensorflow"])
def test_mutilated_snapshots_are_read_or_refused(file: Path, own_folder: Path) -> None:
    """A short run of what ``fuzz_original_snapshots.py`` does for ten minutes."""
    data = file.read_bytes()
    source = random.Random(0)
    target = own_folder / "evil.pkl"
    for _ in range(40):
        mutant = bytearray(data)
        for _ in range(source.randint(1, 8)):
            mutant[source.randrange(len(mutant) if source.random() < 0.5 else 4000)] = source.randrange(256)
        target.write_bytes(mutant)
        with contextlib.suppress(GanformerError):
            load_original(target)
    assert [path.name for path in own_folder.iterdir()] == ["evil.pkl"]


# ----- The published ones -----


def test_six_are_published() -> None:
    assert len(PUBLISHED) == 6
    assert all(len(each.file_id) == 33 for each in PUBLISHED.values())


def test_unknown_published_name(ganformer: Run) -> None:
    done = ganformer("generate", "--model", "gdrive:clever-snapshot.pkl")
    assert done.exit_code == 1
    assert "did you mean gdrive:clevr-snapshot.pkl" in done.stderr


def test_offline_says_where_to_put_the_file(ganformer: Run, own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANFORMER_CACHE", str(own_folder / "cache"))
    done = ganformer("generate", "--model", "gdrive:clevr-snapshot.pkl", "--offline")
    assert done.exit_code == 1
    place = snapshot_path("clevr-snapshot.pkl")
    assert str(place) in done.stderr
    assert PUBLISHED["clevr-snapshot.pkl"].file_id in done.stderr


@pytest.mark.slow
def test_a_file_put_there_by_hand_is_taken(ganformer: Run, own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its pictures are cropped as the authors crop those of this data set."""
    monkeypatch.setenv("GANFORMER_CACHE", str(own_folder / "cache"))
    place = snapshot_path("cityscapes-snapshot.pkl")
    place.parent.mkdir(parents=True)
    shutil.copy(PYTORCH, place)
    done = ganformer("generate", "--model", "gdrive:cityscapes-snapshot.pkl", "--images-num", "1", "--offline")
    assert done.exit_code == 0, done.output
    from PIL import Image

    assert Image.open("images/seed0000.png").size == (32, 16)
    place.write_bytes(b"<html>quota</html>")
    with pytest.raises(GanformerError):
        fetch_snapshot("cityscapes-snapshot.pkl", offline=True)
