"""Bipartite attention and attention-weighted means: their definitions, and that native code and plain torch agree."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from ganformer_cli.errors import GanformerError
from ganformer_cli.memory import kept_bytes
from ganformer_cli.operators import Keys, attention_means, attention_probabilities, bipartite_attention, native
from ganformer_cli.operators.attention import AttentionMeans, draw_seed, drop_cells


@dataclass(frozen=True)
class Sizes:
    """Of a call. ``shared`` and ``shared_values``: a batch of 1 for the keys, for values and their bias."""

    batch: int = 2
    channels: int = 20
    positions: int = 37
    components: int = 5
    heads: int = 1
    width: int = 3  # of a position; 0: none are given
    shared: bool = False
    shared_values: bool = False
    last: bool = True  # channels next to each other

    def __str__(self) -> str:
        text = f"B{self.batch}-d{self.channels}-n{self.positions}-m{self.components}-h{self.heads}-p{self.width}"
        return text + "-shared" * self.shared + "-shared_values" * self.shared_values + "-last" * self.last


SIZES = [
    Sizes(),
    Sizes(last=False, shared=True),
    Sizes(batch=1, channels=16, positions=32, components=16, width=16),
    Sizes(batch=3, channels=33, positions=70, components=33, heads=2, width=5, last=False),
    Sizes(channels=8, positions=15, components=3, heads=4, width=0, shared_values=True),
    Sizes(channels=5, positions=1, components=1, last=False),
    Sizes(channels=1, positions=40, components=2, heads=2, shared=True, shared_values=True),
    Sizes(batch=1, channels=70, positions=600, components=17, width=20, last=False),  # sums in several pieces
    Sizes(channels=32, positions=300, components=12, heads=2, width=8, shared=True),
    Sizes(batch=0, shared=True),
]
BIG = Sizes(channels=48, positions=700, components=16, heads=2, width=16)


@dataclass
class Inputs:
    """All tensors of a call, in the order of the operators' arguments."""

    x: Tensor
    content: Tensor
    bias: Tensor
    positions: Tensor | None
    place: Tensor | None
    values: Tensor
    value_bias: Tensor

    @property
    def keys(self) -> Keys:
        return Keys(self.content, self.bias, self.positions, self.place)

    def to(self, dtype: torch.dtype) -> Inputs:
        """x in ``dtype``, the others in float32 at the least; leaves that want gradients."""
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        tensors = [None if t is None else t.detach().to(wide).requires_grad_() for t in vars(self).values()]
        made = Inputs(*tensors)  # type: ignore[arg-type]
        made.x = self.x.detach().to(dtype).requires_grad_()
        return made

    def present(self, *, values: bool = True) -> list[Tensor]:
        found = [t for t in vars(self).values() if t is not None]
        return found if values else found[:-2]


def image(batch: int, channels: int, positions: int, last: bool) -> Tensor:
    if last:
        return torch.randn(batch, positions, channels, dtype=torch.float64).transpose(1, 2)
    return torch.randn(batch, channels, positions, dtype=torch.float64)


def draw(sizes: Sizes, integration: str = "mul", seed: int = 0) -> Inputs:
    """Random inputs in float64."""
    torch.manual_seed(seed)
    batch, values_batch = (1 if shared else sizes.batch for shared in (sizes.shared, sizes.shared_values))
    heads = (sizes.heads, sizes.components)
    outputs = sizes.channels * (2 if integration == "both" else 1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64)

    return Inputs(
        image(sizes.batch, sizes.channels, sizes.positions, sizes.last),
        normal(batch, *heads, sizes.channels) / sizes.channels**0.5,
        normal(batch, *heads),
        normal(sizes.positions, sizes.width) if sizes.width else None,
        normal(batch, *heads, sizes.width) / sizes.width**0.5 if sizes.width else None,
        normal(values_batch, *heads, outputs),
        normal(values_batch, outputs),
    )


def scores_of(given: Inputs) -> Tensor:
    """[B, h, m, n], by the definition."""
    scores = torch.einsum("bdn,bhmd->bhmn", given.x, given.content.expand(len(given.x), -1, -1, -1))
    scores = scores + given.bias[..., None]
    if given.positions is not None and given.place is not None:
        scores = scores + torch.einsum("np,bhmp->bhmn", given.positions, given.place)
    return scores


def definition(given: Inputs, integration: str, normalization: str, kept: Tensor | None = None) -> Tensor:
    """Written down from the docstring; ``kept`` are the weights' factors that dropout makes."""
    weights = scores_of(given).softmax(2)
    if kept is not None:
        weights = weights * kept
    values = given.values.expand(len(given.x), -1, -1, -1)
    g = torch.einsum("bhmn,bhmd->bdn", weights, values) + given.value_bias[..., None]
    x = given.x
    if normalization == "layer" and integration in ("add", "both"):
        x = x - x.mean(1, keepdim=True)
    if normalization == "layer" and integration in ("mul", "both"):
        x = x / torch.sqrt((x**2).mean(1, keepdim=True) + 1e-8)
    if integration == "both":
        scale, shift = g[:, : x.shape[1]], g[:, x.shape[1] :]
        return x * scale + shift
    return x * g if integration == "mul" else x + g


def means_definition(given: Inputs, over: str) -> list[Tensor]:
    weights = scores_of(given).softmax(2 if over == "components" else 3)
    found = [torch.einsum("bhmn,bdn->bhmd", weights, given.x), weights.sum(3)]
    if given.positions is not None:
        found.append(torch.einsum("bhmn,np->bhmp", weights, given.positions))
    return found


def listed(means: AttentionMeans) -> list[Tensor]:
    return [means.content, means.total, *([] if means.place is None else [means.place])]


def gradients(outputs: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """By the inputs, of a sum that weighs every number of every output differently."""
    torch.manual_seed(1)
    probes = [torch.randn(o.shape, dtype=torch.float64).to(o.dtype) for o in outputs]
    value = torch.stack([(o * p).sum() for o, p in zip(outputs, probes, strict=True)]).sum()
    found = torch.autograd.grad(value, inputs, allow_unused=True)
    return [torch.zeros_like(i) if g is None else g for i, g in zip(inputs, found, strict=True)]


STYLES = [(i, n) for i in ("mul", "add", "both") for n in ("layer", "none")]


@pytest.mark.slow
@pytest.mark.parametrize(("integration", "normalization"), STYLES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_attention_is_its_definition(backend: str, sizes: Sizes, integration: Any, normalization: Any) -> None:
    given = draw(sizes, integration).to(torch.float64)
    ours = bipartite_attention(
        given.x, given.keys, given.values, given.value_bias, integration=integration, normalization=normalization
    )
    theirs = definition(given, integration, normalization)
    inputs = given.present()
    for a, b in zip([ours, *gradients([ours], inputs)], [theirs, *gradients([theirs], inputs)], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("over", ["components", "positions"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_means_are_their_definition(backend: str, sizes: Sizes, over: Any) -> None:
    given = draw(sizes).to(torch.float64)
    ours, theirs = listed(attention_means(given.x, given.keys, over=over)), means_definition(given, over)
    inputs = given.present(values=False)
    for a, b in zip([*ours, *gradients(ours, inputs)], [*theirs, *gradients(theirs, inputs)], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("operator", ["mul", "add", "both", "components", "positions"])
def test_native_errs_at_most_twice_as_much_as_plain_torch(
    need_native: None, operator: Any, dtype: torch.dtype, last: bool
) -> None:
    """Against float64, for the results and every gradient."""
    # As many channels, pixels and components as make whole vectors, and somewhat more.
    for sizes in (replace(BIG, last=last), replace(BIG, channels=53, components=19, width=5, last=last)):
        drawn = draw(sizes, operator)
        drawn.x = drawn.x.to(dtype).double()  # the truth is of the very numbers that the operators see

        def run(given: Inputs) -> list[Tensor]:
            if operator in ("components", "positions"):
                outputs = listed(attention_means(given.x, given.keys, over=operator))
                return [*outputs, *gradients(outputs, given.present(values=False))]
            out = bipartite_attention(given.x, given.keys, given.values, given.value_bias, integration=operator)
            return [out, *gradients([out], given.present())]

        with native.use("reference"):
            truth, plain = run(drawn.to(torch.float64)), run(drawn.to(dtype))
        with native.use("native"):
            ours = run(drawn.to(dtype))
        for i, (a, b, c) in enumerate(zip(ours, plain, truth, strict=True)):
            assert a.dtype == b.dtype
            scale = c.norm() + 0.01  # over the positions, the gradient by the bias is 0
            error, allowed = (a.double() - c).norm() / scale, (b.double() - c).norm() / scale
            assert error <= 2 * allowed + 1e-7, (i, error, allowed)


def test_memory_format_is_kept_and_other_layouts_are_taken_too(backend: str) -> None:
    sizes = Sizes(batch=3, positions=24)
    given = draw(sizes)
    x = given.x.detach().contiguous()
    want = bipartite_attention(x, given.keys, given.values, given.value_bias)
    wanted = listed(attention_means(x, given.keys, over="positions"))
    wide = torch.zeros(3, 2 * sizes.channels, 2 * sizes.positions, dtype=torch.float64)
    wide[:, ::2, ::2] = x
    picture = x.unflatten(2, (4, 6)).contiguous(memory_format=torch.channels_last)
    forms = {
        "contiguous": x,
        "channels last": x.transpose(1, 2).contiguous().transpose(1, 2),
        "view of a picture": picture.flatten(2),
        "with gaps": wide[:, ::2, ::2],
        "turned": x.permute(2, 1, 0).contiguous().permute(2, 1, 0),
    }
    for name, form in forms.items():
        leaf = form.detach().requires_grad_()
        found = bipartite_attention(leaf, given.keys, given.values, given.value_bias)
        torch.testing.assert_close(found, want, msg=name)
        (gradient,) = torch.autograd.grad(found.square().sum(), leaf)
        leaf2 = x.requires_grad_()
        (expected,) = torch.autograd.grad(
            bipartite_attention(leaf2, given.keys, given.values, given.value_bias).square().sum(), leaf2
        )
        torch.testing.assert_close(gradient, expected, msg=name)
        for a, b in zip(listed(attention_means(form, given.keys, over="positions")), wanted, strict=True):
            torch.testing.assert_close(a, b, msg=name)
    kept = bipartite_attention(picture.flatten(2), given.keys, given.values, given.value_bias).unflatten(2, (4, 6))
    assert kept.is_contiguous(memory_format=torch.channels_last)
    assert bipartite_attention(x, given.keys, given.values, given.value_bias).is_contiguous()
    repeated = x[:1].expand(3, -1, -1)
    torch.testing.assert_close(
        bipartite_attention(repeated, given.keys, given.values, given.value_bias),
        bipartite_attention(repeated.contiguous(), given.keys, given.values, given.value_bias),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("where", ["x", "content", "values"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_shows_where_plain_torch_shows_it(
    need_native: None, bad: float, where: str, last: bool, dtype: torch.dtype
) -> None:
    """And nowhere else: forward, and in the gradient by x."""
    drawn = draw(Sizes(channels=24, positions=50, components=17, last=last))
    tensor = getattr(drawn, where)
    tensor[(1, 4, 7) if where == "x" else (1, 0, 2, 7)] = bad
    results = []
    for which in ("native", "reference"):
        given = drawn.to(dtype)
        with native.use(which):
            out = bipartite_attention(given.x, given.keys, given.values, given.value_bias)
            (gradient,) = torch.autograd.grad(out.sum(), given.x)
            sums = attention_means(given.x, given.keys, over="positions").content
        results.append((out, gradient, sums))
    for ours, plain in zip(*results, strict=True):
        assert torch.equal(ours.isnan(), plain.isnan())
        finite = plain.isfinite()
        torch.testing.assert_close(ours[finite], plain[finite], rtol=2e-2, atol=2e-2)
    assert results[0][0][0].isfinite().all()
    assert not results[0][0][1].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_masked_component_has_no_part_at_all(backend: str, dtype: torch.dtype) -> None:
    given = draw(Sizes(components=6)).to(dtype)
    bias = given.bias.detach().clone()
    bias[0, :, 4] = -10000
    keys = given.keys._replace(bias=bias)
    before = bipartite_attention(given.x, keys, given.values, given.value_bias)
    values = given.values.detach().clone()
    values[0, :, 4] += 1000
    assert torch.equal(bipartite_attention(given.x, keys, values, given.value_bias)[0], before[0])
    assert attention_probabilities(given.x, keys)[0, :, 4].max() == 0
    assert attention_means(given.x, keys, over="components").total[0, :, 4].max() == 0


def test_large_scores_overflow_nowhere(backend: str) -> None:
    given = draw(replace(BIG, batch=1)).to(torch.float32)
    keys = given.keys._replace(content=given.content * 1e4)
    exact = Keys(*(None if t is None else t.double() for t in keys))  # type: ignore[arg-type]
    for over in ("components", "positions"):
        found = attention_means(given.x, keys, over=over).content
        truth = attention_means(given.x.double(), exact, over=over).content
        assert found.isfinite().all()
        # Nearly every softmax picks one; the rounding of scores of 1e4 decides between those that are close.
        assert ((found - truth).norm() / truth.norm()).item() < 2e-2
    assert bipartite_attention(given.x, keys, given.values, given.value_bias).isfinite().all()


SMALL = Sizes(batch=2, channels=4, positions=5, components=3, heads=2, width=2)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("integration", "normalization"), STYLES)
def test_native_attention_has_first_and_second_derivatives(
    native_backend: None, integration: Any, normalization: Any, shared: bool
) -> None:
    given = draw(replace(SMALL, shared=shared), integration).to(torch.float64)
    seed = torch.tensor(3)

    def run(x: Tensor, *rest: Tensor) -> Tensor:
        return bipartite_attention(
            x,
            Keys(*rest[:4]),
            *rest[4:],
            integration=integration,
            normalization=normalization,
            dropout=0.25,
            seed=seed,
        )

    assert gradcheck(run, given.present())
    assert gradgradcheck(run, given.present(), fast_mode=True)


@pytest.mark.parametrize("over", ["components", "positions"])
def test_native_means_have_first_and_second_derivatives(native_backend: None, over: Any) -> None:
    given = draw(SMALL).to(torch.float64)

    def run(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        found = listed(attention_means(x, Keys(*rest), over=over))
        # The totals over the positions are 1 and have no gradient.
        return tuple(found if over == "components" else [found[0], found[2]])

    assert gradcheck(run, given.present(values=False))
    assert gradgradcheck(run, given.present(values=False), fast_mode=True)


def test_one_tensor_in_two_places_gets_both_gradients(backend: str) -> None:
    """Also where they are differentiated again."""
    given = draw(Sizes(channels=5, width=5, shared=True)).to(torch.float64)
    both = given.content

    def run(content: Tensor, place: Tensor, values: Tensor) -> Tensor:
        keys = given.keys._replace(content=content, place=place)
        return bipartite_attention(given.x, keys, values, given.value_bias.detach()).square().sum()

    for create in (False, True):
        (together,) = torch.autograd.grad(run(both, both, both), both, create_graph=create)
        apart = [both.detach().clone().requires_grad_() for _ in range(3)]
        parts = torch.autograd.grad(run(*apart), apart, create_graph=create)
        torch.testing.assert_close(together, parts[0] + parts[1] + parts[2])


def python_hash(seed: int, head: int, position: int, component: int) -> int:
    """The 24 bits that decide about a cell, in Python's numbers."""

    def mix(v: int) -> int:
        v = ((v ^ (v >> 16)) * 0x85EBCA6B) % 2**32
        v = ((v ^ (v >> 13)) * 0xC2B2AE35) % 2**32
        return v ^ (v >> 16)

    start = mix(mix(seed % 2**32) ^ (seed >> 32) % 2**32)
    row = mix((mix((start + head * 0x9E3779B9) % 2**32) + position) % 2**32)
    return mix((row + component * 0x9E3779B9) % 2**32) >> 8


@pytest.mark.parametrize("seed", [0, 1, -7, 2**62 + 12345])
def test_dropped_cells_are_a_hash_of_seed_and_place(seed: int) -> None:
    kept = drop_cells(torch.ones(2, 3, 4, 5, dtype=torch.float64), 0.3, torch.tensor(seed))
    for b in range(2):
        for h in range(3):
            for m in range(4):
                for n in range(5):
                    dropped = python_hash(seed, b * 3 + h, n, m) < round(0.3 * 2**24)
                    assert kept[b, h, m, n] == (0 if dropped else 1 / 0.7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("components", [3, 16, 33])
def test_native_drops_the_same_cells(native_backend: None, components: int, last: bool, dtype: torch.dtype) -> None:
    """Forward and backward are those of the definition with the mask of the plain form."""
    sizes = Sizes(heads=2, components=components, positions=40, last=last)
    given = draw(sizes).to(dtype)
    seed = torch.tensor(-12345678901234)
    kept = drop_cells(torch.ones(2, 2, components, 40, dtype=dtype), 0.4, seed)
    ours = bipartite_attention(given.x, given.keys, given.values, given.value_bias, dropout=0.4, seed=seed)
    theirs = definition(given, "mul", "layer", kept)
    inputs = given.present()
    for a, b in zip([ours, *gradients([ours], inputs)], [theirs, *gradients([theirs], inputs)], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9 if dtype == torch.float64 else 1e-3, atol=1e-4)


def test_dropout_has_its_rate_everywhere_and_follows_the_seed() -> None:
    ones = torch.ones(4, 2, 16, 4096)
    torch.manual_seed(5)
    seeds = [draw_seed(ones.device) for _ in range(2)]
    kept = [drop_cells(ones, 0.06, seed) for seed in seeds]
    torch.manual_seed(5)
    assert torch.equal(drop_cells(ones, 0.06, draw_seed(ones.device)), kept[0])
    assert not torch.equal(*kept)
    dropped = (kept[0] == 0).double()
    assert dropped.mean().item() == pytest.approx(0.06, rel=0.02)
    for axes in ((1, 2, 3), (0, 2, 3), (0, 1, 3)):
        torch.testing.assert_close(dropped.mean(axes), torch.full_like(dropped.mean(axes), 0.06), rtol=0.1, atol=0)
    assert drop_cells(ones, 0.06, seeds[0]).mean().item() == pytest.approx(1, rel=0.01)
    # Neither neighbours nor components nor heads share their fate.
    for pair in (
        (dropped[..., 1:], dropped[..., :-1]),
        (dropped[:, :, 1:], dropped[:, :, :-1]),
        (dropped[:, 1], dropped[:, 0]),
        (dropped, (kept[1] == 0).double()),
    ):
        assert (pair[0] * pair[1]).mean().item() == pytest.approx(0.06**2, rel=0.15)


def test_results_do_not_depend_on_the_number_of_threads(native_backend: None) -> None:
    """To the last bit, forward and backward."""
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found: list[Tensor] = []
            for integration, last in (("both", True), ("mul", False)):
                sizes = replace(BIG, positions=1500, shared=True, last=last)
                given = draw(sizes, integration).to(torch.float32)
                out = bipartite_attention(
                    given.x,
                    given.keys,
                    given.values,
                    given.value_bias,
                    integration=integration,  # type: ignore[arg-type]
                )
                found += [out, *gradients([out], given.present())]
                for over in ("components", "positions"):
                    outputs = listed(attention_means(given.x, given.keys, over=over))
                    found += [*outputs, *gradients(outputs, given.present(values=False))]
            results.append(found)
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("operator", ["attention", "components", "positions"])
def test_only_x_and_small_tensors_are_kept_for_the_backward_pass(native_backend: None, operator: Any) -> None:
    given = draw(Sizes(channels=64, positions=4096, components=16, width=8)).to(torch.float32)

    def call() -> list[Tensor]:
        if operator == "attention":
            return [bipartite_attention(given.x, given.keys, given.values, given.value_bias)]
        return listed(attention_means(given.x, given.keys, over=operator))

    assert kept_bytes(call, given.present()) <= 0.05 * given.x.untyped_storage().nbytes()
    assert all(g.isfinite().all() for g in gradients(call(), given.present()))


WRONG: list[tuple[str, str, Any]] = [
    ("x", "x", lambda g: g.x[0]),
    ("x", "x", lambda g: g.x.long()),
    ("content", "keys.content", lambda g: g.content[0]),
    ("content", "keys.content", lambda g: g.content[..., 1:]),
    ("content", "keys.content", lambda g: g.content[:, :, :0]),
    ("content", "keys.content", lambda g: g.content.repeat(3, 1, 1, 1)),
    ("content", "keys.content", lambda g: g.content.long()),
    ("content", "keys.content", lambda g: g.content.to("meta")),
    ("bias", "keys.bias", lambda g: g.bias[:, :, 1:]),
    ("positions", "keys.positions", lambda g: g.positions[1:]),
    ("positions", "keys.positions", lambda g: g.positions[0, 0]),
    ("positions", "keys.positions", lambda g: None),
    ("place", "keys.place", lambda g: g.place[..., 1:]),
    ("place", "keys.positions", lambda g: None),
    ("values", "values", lambda g: g.values[..., 1:]),
    ("values", "values", lambda g: torch.cat([g.values, g.values], -1)),
    ("value_bias", "value_bias", lambda g: g.value_bias[:, 1:]),
    ("value_bias", "value_bias", lambda g: g.value_bias[0]),
]


@pytest.mark.parametrize(("argument", "said", "change"), WRONG)
def test_a_wrong_argument_is_named(backend: str, argument: str, said: str, change: Any) -> None:
    given = draw(Sizes(batch=4))
    setattr(given, argument, change(given))
    with pytest.raises(GanformerError, match=f"bipartite_attention: {said}"):
        bipartite_attention(given.x, given.keys, given.values, given.value_bias)
    if not argument.startswith("value"):
        with pytest.raises(GanformerError, match=f"attention_means: {said}"):
            attention_means(given.x, given.keys, over="positions")
        with pytest.raises(GanformerError, match=f"attention_probabilities: {said}"):
            attention_probabilities(given.x, given.keys)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"integration": "div"}, "integration must be"),
        ({"normalization": "instance"}, "normalization must be"),
        ({"dropout": 1.0, "seed": torch.tensor(0)}, "dropout must be"),
        ({"dropout": -0.1}, "dropout must be"),
        ({"dropout": 0.1}, "seed must be"),
        ({"dropout": 0.1, "seed": torch.tensor(0.5)}, "seed must be"),
        ({"dropout": 0.1, "seed": torch.tensor([1, 2])}, "seed must be"),
    ],
)
def test_a_wrong_option_is_named(backend: str, options: dict[str, Any], said: str) -> None:
    given = draw(Sizes())
    with pytest.raises(GanformerError, match=said):
        bipartite_attention(given.x, given.keys, given.values, given.value_bias, **options)


def test_means_over_no_positions_are_refused(backend: str) -> None:
    given = draw(Sizes(positions=0))
    with pytest.raises(GanformerError, match="x must have at least one position"):
        attention_means(given.x, given.keys, over="positions")
    with pytest.raises(GanformerError, match="over must be"):
        attention_means(given.x, given.keys, over="channels")  # type: ignore[arg-type]
    assert attention_means(given.x, given.keys, over="components").total.sum() == 0
    assert bipartite_attention(given.x, given.keys, given.values, given.value_bias).shape == given.x.shape


#: Arguments of the operator itself, and of what is sent instead.
BAD_CALLS: list[tuple[int, str, Any]] = [
    (0, "x", lambda t: t[..., ::2]),
    (0, "x", lambda t: t[0]),
    (0, "x", lambda t: t.half()),
    (0, "keys", lambda t: t[:, 1:].contiguous()),
    (1, "keys", lambda t: t.double()),
    (1, "keys", lambda t: t.transpose(2, 3).contiguous().transpose(2, 3)),
    (1, "keys", lambda t: t[:, :, :0]),
    (2, "key_bias", lambda t: t[..., 1:]),
    (3, "positions", lambda t: t[1:]),
    (3, "positions", lambda t: None),
    (4, "position_keys", lambda t: t[..., 1:].contiguous()),
    (5, "values", lambda t: t[..., 1:].contiguous()),
    (6, "value_bias", lambda t: t[..., 1:].contiguous()),
    (7, "integration", lambda t: "div"),
    (8, "normalization", lambda t: "batch"),
    (9, "dropout", lambda t: 1.5),
    (9, "dropout", lambda t: float("nan")),
    (9, "seed", lambda t: 0.5),
]


@pytest.mark.parametrize(("place", "said", "change"), BAD_CALLS)
def test_the_native_operators_check_for_themselves(native_backend: None, place: int, said: str, change: Any) -> None:
    """They must not read beyond a tensor, whoever calls them."""
    given = draw(Sizes(channels=16, positions=8, components=4, width=4, last=False))
    tensors = [t.detach().float() for t in given.present()]
    arguments: list[Any] = [*tensors, "mul", "layer", 0.0, None]
    arguments[place] = change(arguments[place])
    with pytest.raises(GanformerError, match=said):
        native.call(torch.ops.ganformer.bipartite_attention, *arguments)
    with pytest.raises(GanformerError, match=said):
        native.call(torch.ops.ganformer.bipartite_attention_backward, tensors[0], *arguments, True)
    if place < 5:
        with pytest.raises(GanformerError, match=said):
            native.call(torch.ops.ganformer.attention_means, *arguments[:5], 1)


@pytest.mark.slow
def test_the_registration_is_complete(native_backend: None) -> None:
    """Schema, shapes without data, and derivatives, as torch itself checks them."""
    given = draw(Sizes(channels=8, positions=6, shared=True)).to(torch.float64)
    arguments = (*(t.detach().contiguous().requires_grad_() for t in given.present()), "mul", "layer", 0.0, None)
    utilities = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.ganformer.bipartite_attention.default, arguments, test_utils=utilities)
    for over in (0, 1):
        torch.library.opcheck(torch.ops.ganformer.attention_means.default, (*arguments[:5], over), test_utils=utilities)
