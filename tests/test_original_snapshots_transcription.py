"""Networks of the authors' in many settings: what our reader makes of their files, and a second transcription of them.

The transcription (``authors_networks.py``) is checked against the golden numbers first; then it says what networks must
compute of which there are none.
"""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import Result
from safetensors.torch import load_file
from torch import Tensor

from ganformer_cli.errors import SnapshotError
from ganformer_cli.original_snapshots import ModelNetworks, load_original
from ganformer_cli.original_snapshots.pickles import module_tensors, read_pickle
from tests.authors_networks import (
    BASE,
    State,
    authors_modules,
    generate,
    judge,
    module_of,
    random_state,
    tensorflow_variables,
    write_pytorch,
    write_tensorflow,
)

GOLDEN = Path(__file__).parent / "golden"
FOLDERS = [GOLDEN / "duplex-kmeans", *sorted(path for path in (GOLDEN / "snapshots").iterdir() if path.is_dir())]
Run = Callable[..., Result]


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.fixture
def authors(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Names of the authors' modules, so that pickles can name them."""
    return authors_modules(monkeypatch)


# ----- The transcription is right -----


def settings_of(kwargs: dict[str, Any]) -> dict[str, Any]:
    """A case from ``_init_kwargs``, for the golden files."""
    mapping, synthesis = kwargs["mapping_kwargs"], kwargs["synthesis_kwargs"]
    names = {"arch": "architecture", "heads": "num_heads", "iters": "kmeans_iters", "start": "start_res"}
    names |= {"end": "end_res", "base": "channel_base", "max": "channel_max", "directions": "pos_directions_num"}
    found = {name: synthesis.get(names.get(name, name), value) for name, value in BASE.items()}
    found |= {"resolution": kwargs["img_resolution"], "m": kwargs["k"] - 1, "w": kwargs["w_dim"]}
    found |= {"depth": mapping["num_layers"], "resnet": mapping["resnet"], "ltnt2ltnt": mapping["ltnt2ltnt"]}
    return {**found, "attention": "kmeans" if synthesis["kmeans"] else "simplex"}


def golden_network(folder: Path, name: str) -> tuple[State, dict[str, Any]]:
    """The tensors of a golden snapshot's network, float64, and the arguments that it was made with."""
    module = read_pickle(folder / "network-snapshot-000000.pkl")[name]
    return {key: value.double() for key, value in module_tensors(module)}, module.state["_init_kwargs"]


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_the_transcription_computes_the_golden_numbers(folder: Path) -> None:
    state, kwargs = golden_network(folder, "Gs")
    given = load_file(folder / "io.safetensors")
    for psi, name in ((1.0, "img"), (0.7, "img_psi07")):
        assert relative(generate(state, settings_of(kwargs), given["z"].double(), psi=psi), given[name].double()) < 1e-5
    if "logits" in given:
        judged = judge(golden_network(folder, "D")[0], 32, given["real"].double())
        assert relative(judged, given["logits"].double()) < 1e-5


def test_the_transcription_computes_what_tensorflow_does(authors: dict[str, Any], tmp_path: Path) -> None:
    """From the weights under their PyTorch names; written as a TensorFlow file they are those of the golden one."""
    state, kwargs = golden_network(GOLDEN / "duplex-kmeans", "Gs")
    state = {name.replace("att_weight", "att_weight.0"): value for name, value in state.items()}
    s = {**settings_of(kwargs), "tf": True}
    given = load_file(GOLDEN / "duplex-kmeans" / "io-tf.safetensors")
    assert relative(generate(state, s, given["z"].double()), given["img_tf"].double()) < 1e-5
    kept = {k: v.float() for k, v in state.items() if not k.endswith(("resample_kernel", "grid_pos"))}
    written, golden = tensorflow_variables(s, kept), read_pickle(GOLDEN / "duplex-kmeans" / "network-snapshot-tf.pkl")
    for part, network in (("", golden[2]), *((n, golden[2].state["components"][n]) for n in ("mapping", "synthesis"))):
        theirs = dict(network.state["variables"])
        assert set(written[part]) == set(theirs)
        assert all(np.allclose(written[part][k], v, atol=1e-6) for k, v in theirs.items() if k != "noise7")


#: The golden sets that are no snapshots, as what a snapshot would say of them.
SETS: dict[str, dict[str, Any]] = {
    "simplex": {"attention": "simplex", "m": 4},
    "stylegan2": {"attention": "none", "m": 0, "w": 32, "arch": "skip", "resnet": False, "ltnt2ltnt": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_golden_sets_as_snapshots(ganformer: Run, authors: dict[str, Any], own_folder: Path, name: str) -> None:
    s = {**BASE, "resolution": 32, "base": 512, "max": 32, "depth": 8, **SETS[name]}
    write_pytorch(own_folder / "a.pkl", s, load_file(GOLDEN / name / "generator.safetensors"), authors)
    given = load_file(GOLDEN / name / "io.safetensors")
    np.save("z.npy", given["z"].numpy())
    converted = ganformer("convert", "a.pkl", "out.safetensors")
    assert converted.exit_code == 0, converted.output
    line = ("generate", "--model", "out.safetensors", "--latents", "z.npy", "--noise", "const", "--format", "npy")
    for psi, key in (("1", "img"), ("0.7", "img_psi07")):
        assert ganformer(*line, "--truncation-psi", psi, "--overwrite").exit_code == 0
        assert relative(torch.from_numpy(np.load("images/images.npy")), given[key]) < 1e-5


# ----- Other networks -----

#: What differs from BASE.
PYTORCH_CASES: dict[str, dict[str, Any]] = {
    "k-means": {},
    "k-means-heads-iterations": {"heads": 2, "iters": 3},
    "simplex-add-instance": {"attention": "simplex", "integration": "add", "norm": "instance", "heads": 4},
    "without-normalisation": {"norm": "none", "integration": "mul", "arch": "orig"},
    "without-noise": {"noise": False},
    "without-style-orig": {"style": False, "arch": "orig", "heads": 2},
    "without-style-skip": {"style": False, "arch": "skip", "attention": "simplex", "ltnt2ltnt": False},
    "some-resolutions": {"start": 3, "end": 4},
    "no-resolution": {"start": 5, "attention": "simplex", "ltnt2ltnt": False},
    "without-positions-gated": {"use_pos": False, "img_gate": True, "ltnt_gate": True, "attention": "simplex"},
    "without-positions-two-iterations": {"use_pos": False, "iters": 2, "ltnt2ltnt": False},
    "both-gates": {"img_gate": True, "ltnt_gate": True, "heads": 2},
    "plain-mapping": {"resnet": False, "depth": 3},
    "plain-mapping-wide": {"resnet": False, "depth": 2, "layer_dim": 16, "ltnt2ltnt": False},
    "one-layer": {"depth": 1},
    "odd-depth": {"depth": 3},
    "four-directions": {"directions": 4, "attention": "simplex"},
    "wide-positions": {"pos_dim": 12},
    "trained-positions": {"pos_type": "trainable2d", "attention": "simplex", "start": 3},
    "shared-mapping": {"shared": True},
    "labels": {"c_dim": 3, "resnet": False},
    "stylegan2": {"m": 0, "attention": "none", "ltnt2ltnt": False, "use_pos": False, "arch": "skip", "resnet": False},
    "stylegan2-labels": {
        "m": 0,
        "attention": "none",
        "ltnt2ltnt": False,
        "use_pos": False,
        "c_dim": 2,
        "resnet": False,
    },
    "cropped": {"ratio": 0.5},
}

TENSORFLOW_CASES: dict[str, dict[str, Any]] = {
    "k-means": {},
    "k-means-iterations": {"iters": 3, "heads": 2},
    "simplex-both": {"attention": "simplex", "integration": "both"},
    "without-positions": {"use_pos": False},
    "without-positions-simplex": {"use_pos": False, "attention": "simplex", "img_gate": True},
    "without-style": {"style": False, "arch": "skip", "ltnt2ltnt": False},
    "both-gates": {"img_gate": True, "ltnt_gate": True, "attention": "simplex"},
    "plain-mapping": {"resnet": False, "depth": 3},
    "without-last-convolution": {"conv_last": False},
    "tanh": {"tanh": True, "norm": "instance", "integration": "add"},
    "rectangle": {"native": (2, 4)},
    "rectangle-simplex-orig": {"native": (2, 4), "attention": "simplex", "arch": "orig", "directions": 4},
    "trained-positions": {"pos_type": "trainable2d"},
    "stylegan2": {"m": 0, "attention": "none", "ltnt2ltnt": False, "use_pos": False, "arch": "skip"},
    "no-resolution": {"start": 5, "conv_last": False},
    "cutoff": {"cutoff": 3},
    "without-noise": {"noise": False},
}


def compare(snapshot: ModelNetworks, s: dict[str, Any], state: State) -> None:
    """The network that was read, with what the transcription makes of what was written; float64."""
    source = torch.Generator().manual_seed(1)
    z = torch.randn(2, s["m"] + 1, s["w"], generator=source, dtype=torch.float64)
    c = torch.eye(s["c_dim"], dtype=torch.float64)[:2] if s["c_dim"] else None
    network = snapshot.ema.double()
    network.keep_whole()
    state = {name: value.double() for name, value in state.items()}
    for psi in (1.0, 0.7):
        expected = generate(state, s, z, c, psi)
        assert expected.std() > 1e-3
        assert relative(network(z, c, truncation_psi=psi, noise_mode="const"), expected) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", PYTORCH_CASES)
def test_pytorch_networks_in_other_settings(authors: dict[str, Any], own_folder: Path, name: str) -> None:
    s = {**BASE, **PYTORCH_CASES[name]}
    state = random_state(s)
    snapshot = load_original(write_pytorch(own_folder / "a.pkl", s, state, authors))
    assert set(snapshot.left_out) == {"generator", "discriminator"}
    compare(snapshot, s, state)


@pytest.mark.slow
@pytest.mark.parametrize("name", TENSORFLOW_CASES)
def test_tensorflow_networks_in_other_settings(authors: dict[str, Any], own_folder: Path, name: str) -> None:
    s = {**BASE, "tf": True, **TENSORFLOW_CASES[name]}
    state = random_state(s)
    function, newer = ("Generator", True) if len(name) % 2 else ("G_GANsformer", False)
    path = write_tensorflow(own_folder / "a.pkl", s, state, authors, function=function, newer=newer)
    compare(load_original(path), s, state)


# ----- What is not known is refused by name, and what only one network lacks is left out -----


def changed(part: str | None, **values: Any) -> Callable[[dict[str, Any]], Any]:
    """A change of the arguments that a file says it was made with."""

    def change(arguments: dict[str, Any]) -> None:
        (arguments if part is None else arguments[part]).update(values)

    return change


@pytest.mark.parametrize(
    ("part", "values", "words"),
    [
        ("synthesis_kwargs", {"num_heads": "two"}, "num_heads is 'two', not a whole number"),
        ("synthesis_kwargs", {"num_heads": True}, "num_heads is True"),
        ("synthesis_kwargs", {"num_heads": 3}, "num_heads 3 in synthesis_kwargs and 1"),
        ("synthesis_kwargs", {"norm": 5}, "norm is 5, not one of layer"),
        ("synthesis_kwargs", {"norm": "batch"}, "norm is 'batch'"),
        ("synthesis_kwargs", {"style": "yes"}, "style is 'yes', not True or False"),
        ("synthesis_kwargs", {"channel_max": 10**9}, "channel_max is 1000000000"),
        ("synthesis_kwargs", {"attention_dropout": float("nan")}, "attention_dropout is nan"),
        ("synthesis_kwargs", {"integration": "both"}, "integration both"),
        ("synthesis_kwargs", {"iterative": True}, "iterative True"),
        ("synthesis_kwargs", {"latent_stem": True}, "latent_stem True"),
        ("synthesis_kwargs", {"some_new_trick": 2}, "some_new_trick = 2"),
        ("synthesis_kwargs", {"resample_kernel": [1, 2, 1]}, "resample_kernel"),
        ("synthesis_kwargs", {"pos_directions_num": 1}, "grid_pos"),
        ("synthesis_kwargs", {"pos_type": "linear"}, "vectors"),
        ("synthesis_kwargs", {"transformer": False}, "transformer"),
        ("synthesis_kwargs", {"kmeans": False}, "centroids"),
        ("synthesis_kwargs", {"architecture": "skip"}, "synthesis.b8.skip.weight"),
        ("mapping_kwargs", {"num_layers": 6}, "l2"),
        ("mapping_kwargs", {"num_layers": [8]}, "num_layers is [8]"),
        ("mapping_kwargs", {"use_pos": False}, "use_pos"),
        ("mapping_kwargs", {"normalize_global": False}, "normalize_global"),
        ("mapping_kwargs", {"ltnt2ltnt": False}, "mapping.mlp.sa0"),
        (None, {"img_resolution": 10**9}, "img_resolution is 1000000000"),
        (None, {"k": -1}, "k is -1"),
        (None, {"img_channels": 1}, "img_channels = 1 (only 3 can be read)"),
        (None, {"mapping_kwargs": [1]}, "mapping_kwargs"),
        (None, {"z_dim": 4}, "z_dim and w_dim"),
    ],
)
def test_settings_that_cannot_be_read_are_refused_by_name(
    authors: dict[str, Any], own_folder: Path, part: str | None, values: dict[str, Any], words: str
) -> None:
    path = write_pytorch(own_folder / "a.pkl", BASE, random_state(BASE), authors, changed(part, **values))
    with pytest.raises(SnapshotError) as error:
        load_original(path)
    assert words in str(error.value)
    assert "a.pkl" in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_that_no_picture_depends_on_are_read(authors: dict[str, Any], own_folder: Path) -> None:
    state = random_state(BASE)
    change = changed("mapping_kwargs", w_avg_beta=0.9, some_new_trick=False)
    path = write_pytorch(own_folder / "a.pkl", BASE, state, authors, change)
    compare(load_original(path), BASE, state)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"component_dropout": 0.1}, "component_dropout 0.1"),
        ({"img2img": 32}, "img2img 32"),
        ({"some_new_trick": "yes"}, "some_new_trick = 'yes'"),
        ({"kmeans_iters": 2}, "att_weight"),
        ({"use_pos": False}, "weight_to_pos"),
        ({"dlatent_size": 16}, "different widths"),
        ({"truncation_psi": "strong"}, "truncation_psi is 'strong'"),
        ({"truncation_cutoff": 6}, "truncation_cutoff 6"),
    ],
)
def test_tensorflow_s_settings_too(
    authors: dict[str, Any], own_folder: Path, values: dict[str, Any], words: str
) -> None:
    s = {**BASE, "tf": True}
    path = write_tensorflow(own_folder / "a.pkl", s, random_state(s), authors, changed(None, **values))
    with pytest.raises(SnapshotError) as error:
        load_original(path)
    assert words in str(error.value)


@pytest.mark.slow
def test_every_tensor_is_accounted_for(authors: dict[str, Any], own_folder: Path) -> None:
    def refused(state: State) -> str:
        with pytest.raises(SnapshotError) as error:
            load_original(write_pytorch(own_folder / "a.pkl", BASE, state, authors))
        return str(error.value)

    state = random_state(BASE)
    assert "synthesis.b8.conv1.trick" in refused({**state, "synthesis.b8.conv1.trick": torch.ones(2)})
    without = {name: value for name, value in state.items() if name != "mapping.mlp.l1.fc0.weight"}
    assert "l1.fc0.weight" in refused(without)
    wrong = {**state, "synthesis.b8.conv1.weight": torch.ones(8, 8, 1, 1)}
    assert "synthesis.b8.conv1.weight [8, 8, 1, 1] instead of [8, 8, 3, 3]" in refused(wrong)
    assert "synthesis.b8.conv1.grid_pos" in refused(
        {**state, "synthesis.b8.conv1.grid_pos": state["synthesis.b8.conv1.grid_pos"] + 0.1}
    )


# ----- Training goes on from them -----


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_the_first_loss_of_training_on(
    ganformer: Run, folder: Path, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without mixing and dropout, with constant noise and given latents it is mean softplus(−D(G(z)))."""
    from ganformer_cli.checkpoints import headers, snapshots
    from ganformer_cli.config import RunConfig, TrainConfig
    from ganformer_cli.models import Generator
    from ganformer_cli.training.gan import GANTrainer, StepResult
    from ganformer_cli.training.initial_weights import InitialWeights

    assert ganformer("convert", folder / "network-snapshot-000000.pkl", "out.safetensors").exit_code == 0
    out = own_folder / "out.safetensors"
    names = ("ema", "generator", "discriminator")
    networks = dict(zip(names, snapshots.load_available(out), strict=True))
    model = dataclasses.replace(headers.read_config(out), attention_dropout=0.0)
    train = TrainConfig(batch_size=4, style_mixing=0.0, pretrained_pkl=str(out))
    gan = GANTrainer(RunConfig(model=model, train=train), torch.device("cpu"))
    InitialWeights("--pretrained-pkl", lambda: networks, whole=True).apply(gan, lambda text: None)

    draw, z = Generator.synthesis, torch.randn(4, *model.z_shape)
    monkeypatch.setattr(Generator, "synthesis", lambda self, ws, **more: draw(self, ws, "const", **more))
    monkeypatch.setattr(torch, "randn", lambda *shape, **how: z)
    found = StepResult()
    gan.generator_gradients(None, 1, found, "seed")
    (loss,) = [value for name, value in found.values if name == "loss_g"]

    state, kwargs = golden_network(folder, "G")
    images = generate(state, settings_of(kwargs), z.double())
    expected = F.softplus(-judge(golden_network(folder, "D")[0], 32, images)).mean()
    assert abs(loss.item() - expected.item()) < 1e-4 * abs(expected.item()) + 1e-6
    gradients = [p.grad for p in gan.generator.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


# ----- Other people's models are named for what they are -----


def nvidia(authors: dict[str, Any], parts: dict[str, Any], **kwargs: Any) -> Any:
    """A generator as NVIDIA's PyTorch programs write one: the same persistent objects, other classes and arguments."""

    def module(name: str, inner: dict[str, Any], arguments: dict[str, Any]) -> Any:
        return module_of({}, name, authors, _init_kwargs=arguments, children=inner)

    inner = {name: module(kind, {}, {}) for name, kind in parts.items()}
    return module("Generator", {"synthesis": module("SynthesisNetwork", inner, {})}, kwargs)


def test_models_of_other_programs_are_named(ganformer: Run, authors: dict[str, Any], own_folder: Path) -> None:
    def said(content: Any) -> str:
        Path("other.pkl").write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=4))
        done = ganformer("info", "other.pkl")
        assert done.exit_code == 1
        assert len(done.stderr.strip().splitlines()) == 1
        assert "truncated" not in done.stderr
        return done.stderr

    ada = nvidia(authors, {"b4": "SynthesisBlock"}, z_dim=512, img_resolution=256, synthesis_kwargs={})
    assert "StyleGAN2-ADA" in said({"G": ada, "D": None, "G_ema": ada, "augment_pipe": None})
    three = nvidia(authors, {"input": "SynthesisInput"}, z_dim=512, img_resolution=256)
    assert "StyleGAN3" in said({"G": three, "D": None, "G_ema": three})
    by_arguments = nvidia(authors, {}, synthesis_kwargs={"magnitude_ema_beta": 0.999})
    assert "StyleGAN3" in said({"G_ema": by_arguments})

    def old(function: str) -> Any:
        network = authors["Network"]()
        network.__dict__.update(version=4, static_kwargs={"resolution": 256, "fmap_base": 8192}, variables=[])
        network.__dict__.update(components={}, build_func_name=function)
        return network

    assert "StyleGAN2 (NVIDIA, TensorFlow)" in said(tuple(old("G_main") for _ in range(3)))
    assert "StyleGAN (NVIDIA, TensorFlow)" in said(tuple(old("G_style") for _ in range(3)))
    assert "state dict" in said({"conv.weight": torch.ones(2), "conv.bias": torch.ones(2)})
    assert "no snapshot of the GANsformer's" in said({"a": 1})
