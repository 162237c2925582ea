"""The same seed gives the same picture: on every run, in every order and batch, with any number of threads."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from ganformer_cli import sampling
from ganformer_cli.checkpoints.snapshots import load_snapshot
from ganformer_cli.config import ModelConfig
from ganformer_cli.errors import ConfigError, GanformerError
from ganformer_cli.models import Generator
from ganformer_cli.sampling import (
    attention_maps,
    drawing,
    image_mib,
    labels_from_seeds,
    latents_from_seeds,
    read_latents,
    sample,
    sample_latents,
    sample_seeds,
    to_uint8,
)
from ganformer_cli.sampling.components import ComponentEdit, edit_components
from ganformer_cli.sampling.latents import default_psi

Image = npt.NDArray[np.uint8]


def generator(**changes: Any) -> Generator:
    """An untrained model whose noise shows."""
    torch.manual_seed(0)
    small = {"resolution": 32, "components_num": 2, "latent_size": 16, "channel_base": 512, "channel_max": 16}
    made = Generator(ModelConfig(**{**small, **changes}))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.2)
    return made.eval()


@pytest.fixture(scope="module")
def model() -> Generator:
    return generator()


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def drawn(model: Generator, seeds: Sequence[int], **options: Any) -> dict[int, Image]:
    return {each.seed: each.image for each in sample_seeds(model, seeds, **options)}


def assert_same(found: dict[int, Image], expected: dict[int, Image]) -> None:
    for seed in found.keys() & expected.keys():
        np.testing.assert_array_equal(found[seed], expected[seed], err_msg=f"seed {seed}")


# ----- The promise -----


@pytest.mark.slow
@pytest.mark.parametrize("noise_mode", ["const", "random", "none"])
def test_no_batch_size_changes_a_picture(model: Generator, noise_mode: str) -> None:
    one_by_one = drawn(model, range(9), batch_size=1, noise_mode=noise_mode)
    for batch_size in (3, 8):
        assert_same(drawn(model, range(9), batch_size=batch_size, noise_mode=noise_mode), one_by_one)


@pytest.mark.parametrize("changes", [{"attention": "kmeans"}, {"attention": "none", "components_num": 0}, {"c_dim": 3}])
def test_no_batch_size_changes_a_picture_of_another_model(changes: dict[str, Any]) -> None:
    model = generator(**changes)
    assert_same(drawn(model, range(5), batch_size=5), drawn(model, range(5), batch_size=1))


def test_no_number_of_threads_changes_a_picture(model: Generator, threads: None) -> None:
    torch.set_num_threads(1)
    expected = drawn(model, range(6))
    torch.set_num_threads(3)
    assert_same(drawn(model, range(6)), expected)
    assert torch.get_num_threads() == 3


def test_order_and_neighbours_do_not_matter(model: Generator) -> None:
    assert_same(drawn(model, [7, 2, 5]), drawn(model, range(9)))


def test_the_answer_comes_in_the_order_of_the_seeds(model: Generator) -> None:
    assert [each.seed for each in sample_seeds(model, [7, 2, 5, 2], batch_size=3)] == [7, 2, 5, 2]


@pytest.mark.slow
@pytest.mark.parametrize(("lanes", "large"), [(4, False), (1, True)])
def test_every_group_of_a_model_is_as_wide(
    model: Generator, lanes: int, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small pictures four together, a seed always in the same place whatever its neighbours are; large ones alone."""
    if large:
        monkeypatch.setattr(drawing, "_LARGE_ON_CPU", 32 * 32 - 1)
    widths = set()
    synthesis = Generator.synthesis

    def watched(self: Generator, ws: torch.Tensor, *rest: Any, **options: Any) -> Any:
        widths.add(len(ws))
        return synthesis(self, ws, *rest, **options)

    monkeypatch.setattr(Generator, "synthesis", watched)
    expected = drawn(model, range(12))
    for batch_size in (1, 2, 3, 16):
        assert_same(drawn(model, [8, 3, 11, 4, 0, 1, 2], batch_size=batch_size), expected)
    assert widths == {lanes}


def runs_out(monkeypatch: pytest.MonkeyPatch, error: Exception, most: int) -> list[int]:
    """From now on memory runs out where more than ``most`` groups are drawn at once; how many were, each time."""
    asked: list[int] = []
    each = drawing.map_single_threaded

    def limited(compute: Any, groups: Sequence[range], *, together: bool) -> Any:
        asked.append(len(groups))
        if len(groups) > most:
            raise error
        return each(compute, groups, together=together)

    monkeypatch.setattr(drawing, "map_single_threaded", limited)
    return asked


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_where_memory_runs_out_fewer_are_drawn_at_once(
    model: Generator, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    expected = drawn(model, range(21))
    asked = runs_out(monkeypatch, error, most=1)
    found = {each.seed: each.image for each in sample_seeds(model, range(21), batch_size=16)}
    assert list(found) == list(range(21))
    assert_same(found, expected)
    assert asked == [4, 2, 1, 1, 1, 1, 1, 1]  # groups of four: 16, 8 and then 4 images at a time


def test_where_memory_is_not_enough_for_one_picture(model: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    runs_out(monkeypatch, MemoryError(), most=0)
    with pytest.raises(GanformerError, match=r"memory ran out while drawing the image of seed 3 alone; .*--gpus"):
        list(sample_seeds(model, [3, 4]))


def test_other_errors_are_no_lack_of_memory(model: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = runs_out(monkeypatch, RuntimeError("shapes do not fit"), most=0)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        list(sample_seeds(model, range(9)))
    assert len(asked) == 1


def test_larger_pictures_take_more_memory() -> None:
    sizes = [image_mib(ModelConfig(resolution=resolution)) for resolution in (64, 256, 1024)]
    assert sizes[0] < sizes[1] < sizes[2]
    assert 500 < sizes[2] < 2000
    assert image_mib(ModelConfig(resolution=256, ratio=0.5)) < sizes[1]


def test_random_noise_is_a_seeds_own_and_leaves_the_global_stream_alone(model: Generator) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    images = drawn(model, range(3), noise_mode="random")
    assert torch.equal(torch.rand(3), expected)
    assert (images[0] != drawn(model, [0], noise_mode="const")[0]).any()


def test_a_model_in_training_draws_as_in_evaluation_and_goes_on_training(model: Generator) -> None:
    expected = drawn(model, range(3))
    model.train()
    try:
        assert_same(drawn(model, range(3)), expected)
        assert model.training
    finally:
        model.eval()


def test_attention_comes_with_the_same_picture(model: Generator) -> None:
    images = drawn(model, range(3))
    for seed, image, maps in sample_seeds(model, range(3), attention=True):
        np.testing.assert_array_equal(image, images[seed])
        assert [each.layer for each in maps][-1] == "b32.conv1"
        for each in maps:
            assert each.probabilities.shape[:3] == (1, 1, 2)
            torch.testing.assert_close(each.probabilities.sum(2), torch.ones_like(each.probabilities[:, :, 0]))


def test_a_model_without_attention_has_no_maps() -> None:
    (only,) = sample_seeds(generator(attention="none", components_num=0), [4], attention=True)
    assert only.maps == []


# ----- Latents, labels, colours -----


def test_latents_are_normal_and_each_seed_has_its_own(model: Generator) -> None:
    z = latents_from_seeds(model, range(400))
    assert z.shape == (400, 3, 8)
    assert z.mean().abs() < 0.05
    assert abs(float(z.std()) - 1) < 0.05
    assert torch.equal(latents_from_seeds(model, [17])[0], z[17])
    assert len({tuple(row.flatten().tolist()) for row in z}) == 400


def test_labels_come_from_the_seed_or_from_the_caller() -> None:
    model = generator(c_dim=3)
    labels = labels_from_seeds(model, range(60))
    assert labels.sum(1).eq(1).all()
    assert (labels.sum(0) > 8).all()
    chosen = [0.0, 1.0, 0.0]
    of_all = drawn(model, range(12), labels=chosen)
    of_each = drawn(model, range(12), labels=[chosen] * 12)
    by_seed = drawn(model, range(12))
    for seed in range(12):
        np.testing.assert_array_equal(of_all[seed], of_each[seed])
        assert (by_seed[seed] == of_all[seed]).all() == (labels[seed].tolist() == chosen)


def test_colours_are_rounded_to_the_nearest_and_clamped() -> None:
    values = torch.tensor([-9.0, -1.0, -0.999, 0.0, 0.0041, 1.0, 9.0])
    assert to_uint8(values).tolist() == [0, 0, 0, 128, 128, 255, 255]
    every = torch.arange(256)
    assert torch.equal(to_uint8(every / 127.5 - 1), every.to(torch.uint8))


def test_truncation_to_nothing_gives_one_picture(model: Generator) -> None:
    images = drawn(model, range(3), truncation_psi=0.0)
    np.testing.assert_array_equal(images[0], images[2])


# ----- Given latents -----


def drawn_from(model: Generator, latents: Any, **options: Any) -> dict[int, Image]:
    return {each.seed: each.image for each in sample_latents(model, latents, **options)}


@pytest.mark.slow
@pytest.mark.parametrize("noise_mode", ["const", "random", "none"])
@pytest.mark.parametrize("changes", [{}, {"c_dim": 3}, {"attention": "none", "components_num": 2, "kgan": True}])
def test_latents_of_the_first_seeds_give_their_pictures(changes: dict[str, Any], noise_mode: str) -> None:
    model = generator(**changes)
    latents = latents_from_seeds(model, range(6))
    options: dict[str, Any] = {"noise_mode": noise_mode, "truncation_psi": 0.7}
    expected = drawn(model, range(6), **options)
    for batch_size in (1, 4, 5):
        found = drawn_from(model, latents, batch_size=batch_size, **options)
        assert list(found) == list(range(6))
        assert_same(found, expected)


@pytest.mark.parametrize("changes", [{}, {"attention": "none", "components_num": 2, "kgan": True}])
def test_latents_of_space_w_are_taken_as_they_are(changes: dict[str, Any]) -> None:
    model = generator(**changes)
    lanes = sampling.GROUP_SIZE  # one group, so that mapping rounds as it does there
    with torch.no_grad():
        ws = model.mapping(latents_from_seeds(model, range(lanes)), truncation_psi=0.7)
    expected = drawn(model, range(lanes), truncation_psi=0.7)
    assert_same(drawn_from(model, ws, space="w"), expected)
    assert_same(drawn_from(model, ws[:, :, 0].numpy().astype(np.float64), space="w", batch_size=3), expected)
    changed = ws.clone()
    changed[:, :, -1] += 1
    assert (drawn_from(model, changed, space="w")[0] != expected[0]).any()


@pytest.mark.parametrize("noise_mode", ["const", "random"])
def test_some_rows_are_drawn_as_among_all(noise_mode: str) -> None:
    model = generator(c_dim=3)
    latents = latents_from_seeds(model, range(9)).numpy()
    options: dict[str, Any] = {"noise_mode": noise_mode, "raw": True}
    every = {each.seed: each.image for each in sample_latents(model, latents, **options)}
    some = list(sample_latents(model, latents, rows=[7, 2, 3], **options))
    assert [each.seed for each in some] == [7, 2, 3]
    for each in some:
        np.testing.assert_array_equal(each.image, every[each.seed])


def test_one_noise_for_all(model: Generator) -> None:
    latents = latents_from_seeds(model, [5]).repeat(3, 1, 1)
    own = drawn_from(model, latents, noise_mode="random")
    shared = drawn_from(model, latents, noise_mode="random", noise_seed=5)
    assert (own[0] != own[1]).any()
    for row in range(3):
        np.testing.assert_array_equal(shared[row], drawn(model, [5], noise_mode="random")[5])


def test_given_latents_show_their_attention_too(model: Generator) -> None:
    latents = latents_from_seeds(model, range(3))
    with torch.no_grad():
        ws = model.mapping(latents)
    for each in (
        *sample_latents(model, latents, attention=True),
        *sample_latents(model, ws, space="w", attention=True),
    ):
        assert [found.layer for found in each.maps][-1] == "b32.conv1"


def test_raw_pictures_are_what_is_rounded_otherwise(model: Generator) -> None:
    raw = [each.image for each in sample_seeds(model, range(5), raw=True)]
    assert {each.dtype for each in raw} == {np.dtype(np.float32)}
    rounded = to_uint8(torch.from_numpy(np.stack(raw))).numpy()
    assert_same(dict(enumerate(rounded)), drawn(model, range(5)))
    for each in sample_latents(model, latents_from_seeds(model, range(5)), raw=True):
        np.testing.assert_array_equal(each.image, raw[each.seed])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_latents_in_a_file(model: Generator, dtype: Any) -> None:
    latents = latents_from_seeds(model, range(3)).numpy().astype(dtype)
    np.save("latents.npy", latents)
    found = read_latents(Path("latents.npy"), model)
    assert isinstance(found, np.memmap)
    assert_same(drawn_from(model, found), drawn_from(model, latents.astype(np.float32)))


def test_latents_of_space_w_take_neither_truncation_nor_labels() -> None:
    model = generator(c_dim=3)
    ws = np.zeros((1, *model.z_shape), np.float32)
    with pytest.raises(ConfigError, match=r"truncation psi 0\.7 with latents of space w"):
        sample_latents(model, ws, space="w", truncation_psi=0.7)
    with pytest.raises(ConfigError, match="labels with latents of space w"):
        sample_latents(model, ws, space="w", labels=[0.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (np.zeros((2, 3, 7)), r"its shape is \[2, 3, 7\], this model wants \[N, 3, 8\] in space z"),
        (np.zeros((2, 3, 9, 8)), r"wants \[N, 3, 8\] in space z"),
        (np.zeros(()), r"its shape is \[\]"),
        (np.zeros((2, 3, 8), np.int64), "its numbers are int64; give float16"),
        (np.zeros((2, 3, 8), np.complex64), "its numbers are complex64"),
        (np.stack([np.zeros((3, 8)), np.full((3, 8), np.nan)]), "row 1 has values"),
        (np.full((1, 3, 8), 1e300), "row 0 has values"),
    ],
)
def test_latents_that_do_not_fit(model: Generator, latents: npt.NDArray[Any], message: str) -> None:
    with pytest.raises(ConfigError, match="latents: .*" + message):
        sample_latents(model, latents)
    np.save("bad.npy", latents)
    with pytest.raises(ConfigError, match=r"--latents bad\.npy: .*" + message):
        read_latents(Path("bad.npy"), model)


def test_latents_of_space_w_that_do_not_fit(model: Generator) -> None:
    with pytest.raises(ConfigError, match=r"wants \[N, 3, 8\] or \[N, 3, 9, 8\] in space w"):
        sample_latents(model, np.zeros((1, 3, 2, 8)), space="w")


def test_files_that_hold_no_latents(model: Generator) -> None:
    fitting = np.zeros((2, 3, 8), np.float32)
    np.save("whole.npy", fitting)
    whole = Path("whole.npy").read_bytes()
    np.savez("archive.npz", fitting)
    np.save("objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save("none.npy", fitting[:0])
    cases = {
        "empty": b"",
        "cut": whole[:-4],
        "header": whole[:40],
        "text": b"0.1 0.2 0.3",
        "zip": b"PK\x03\x04 and no more",
        "huge": whole.replace(b"(2, 3, 8)", b"(9999999999999999999, 3, 8)").replace(b" " * 18, b"", 1),
        "archive": Path("archive.npz").read_bytes(),
        "objects": Path("objects.npy").read_bytes(),
        "none": Path("none.npy").read_bytes(),
    }
    for name, data in cases.items():
        path = Path(f"{name}.npy")
        path.write_bytes(data)
        with pytest.raises(ConfigError, match=rf"--latents {name}\.npy: "):
            read_latents(path, model)


# ----- For Python users -----


def test_three_lines_to_a_tensor(tiny_run: Path) -> None:
    from ganformer_cli import load_generator as load

    model = load(tiny_run)
    images = sample(model, seeds=range(4))
    assert images.shape == (4, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert_same({seed: images[seed].numpy() for seed in range(4)}, drawn(model, range(4), truncation_psi=0.7))


def test_defaults_are_those_of_the_command(model: Generator) -> None:
    from ganformer_cli.cli.generate import command

    options = {parameter.name: parameter.default for parameter in command.params}
    assert options["psis"] == (default_psi(model),) == (0.7,)
    assert options["noise"] == inspect.signature(sample).parameters["noise_mode"].default
    assert options["space"] == inspect.signature(sample).parameters["space"].default
    other = generator()
    other.truncation_psi = 0.3  # as a file says
    assert torch.equal(sample(other, [1]), sample(model, [1], truncation_psi=0.3))


def test_given_latents_and_edits_are_drawn(model: Generator) -> None:
    z = latents_from_seeds(model, [0, 1])
    assert torch.equal(sample(model, latents=z), sample(model, [0, 1]))
    edited = edit_components(model, [0, 1], [])
    assert torch.equal(sample(model, latents=edited), sample(model, [0, 1]))
    assert torch.equal(sample(model, latents=edited.latents, space="w"), sample(model, [0, 1]))
    removed = edit_components(model, [0, 1], [ComponentEdit("remove", 0)])
    assert not torch.equal(sample(model, latents=removed), sample(model, [0, 1]))
    assert attention_maps(model, latents=removed)["b4.conv1"][:, :, 0].max() < 1e-6


def test_maps_of_all_layers(model: Generator) -> None:
    maps = attention_maps(model, [3, 4])
    assert list(maps)[:2] == ["b4.conv1", "b8.conv0"]
    assert maps["b8.conv0"].shape == (2, 1, 2, 8, 8)
    for each in maps.values():
        torch.testing.assert_close(each.sum(2), torch.ones_like(each.sum(2)))
    with pytest.raises(ConfigError, match="no attention maps"):
        attention_maps(generator(attention="none", components_num=0), [0])


@pytest.mark.parametrize("both", [False, True])
def test_seeds_or_latents(model: Generator, both: bool) -> None:
    options: dict[str, Any] = {"seeds": [0], "latents": latents_from_seeds(model, [0])} if both else {}
    with pytest.raises(ConfigError, match="give seeds or latents, and not both"):
        sample(model, **options)


def test_no_seeds_no_pictures(model: Generator) -> None:
    assert sample(model, []).shape == (0, 3, 32, 32)


def test_a_run_means_its_newest_snapshot(tiny_run: Path) -> None:
    newest = load_snapshot(tiny_run / "snapshots" / "network-snapshot-000002.safetensors")
    assert torch.equal(sample(load_snapshot(tiny_run), [0]), sample(newest, [0]))


# ----- Wrong input -----


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_out_of_range(model: Generator, seed: int) -> None:
    with pytest.raises(ConfigError, match=f"seed {seed} is out of range"):
        sample(model, [seed])


def test_labels_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"labels of shape \[2\] do not fit: this model takes \[3\]"):
        sample(generator(c_dim=3), range(2), labels=[0.0, 1.0])


def test_a_model_that_diverged_is_named_not_drawn() -> None:
    model = generator()
    with torch.no_grad():
        next(model.synthesis_network.parameters()).fill_(float("nan"))
    with pytest.raises(GanformerError, match="seed 3 has values that are not finite"):
        sample(model, [3])
    with pytest.raises(GanformerError, match="row 1 of the latents has values that are not finite"):
        list(sample_latents(generator(), np.stack([np.zeros((3, 8)), np.full((3, 8), 3e38)]), space="w"))
