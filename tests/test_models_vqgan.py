"""The networks of VQGAN against float64 transcriptions of what they compute."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from ganformer_cli.config import ModelConfig
from ganformer_cli.errors import ConfigError
from ganformer_cli.models.vqgan import (
    CODEBOOK_DECAY,
    VQGAN,
    CodeSampling,
    KeyValueCache,
    PatchDiscriminator,
    Quantizer,
    Transformer,
    perplexity,
)
from ganformer_cli.sampling import sample

CONFIG = ModelConfig(
    resolution=32, attention="none", components_num=0, latent_size=16, channel_base=256, channel_max=16, vqgan=True,
    codebook_size=13, code_dim=5, code_stride=8, transformer_layers=2, transformer_width=16, transformer_heads=2,
)  # fmt: skip


def test_the_quantiser_chooses_the_nearest_vector_and_passes_gradients_straight_through() -> None:
    torch.manual_seed(0)
    quantizer, x = Quantizer(7, 5), torch.randn(3, 5, 4, 2, requires_grad=True)
    found = quantizer(x)
    rows = x.detach().double().permute(0, 2, 3, 1).reshape(-1, 5)
    squares = (rows[:, None] - quantizer.codebook.double()[None]).square().sum(2)
    codes = squares.argmin(1)
    assert torch.equal(found.codes.flatten(), codes)
    chosen = quantizer.codebook.double()[codes].view(3, 4, 2, 5).permute(0, 3, 1, 2)
    assert torch.allclose(found.vectors.double(), chosen, rtol=0, atol=1e-5)
    assert found.commitment.item() == pytest.approx(float(squares.min(1).values.mean() / 5), abs=1e-5)
    weights = torch.randn(3, 5, 4, 2)
    (gradient,) = torch.autograd.grad((found.vectors * weights).sum(), x, retain_graph=True)
    assert torch.equal(gradient, weights)
    (gradient,) = torch.autograd.grad(found.commitment, x)
    assert torch.allclose(gradient.double(), 2 * (x.detach().double() - chosen) / x.numel(), rtol=0, atol=1e-5)


def test_the_codebook_follows_the_running_means_and_dead_codes_become_candidates() -> None:
    torch.manual_seed(1)
    quantizer, rows = Quantizer(6, 3), torch.randn(40, 3)
    with torch.no_grad():
        quantizer.counts.fill_(8.0)
        quantizer.totals.copy_(quantizer.codebook * 8)
        quantizer.counts[4] = 0.001  # has not been used for long
        quantizer.codebook[4] = 100.0
    before, totals = quantizer.counts.double().clone(), quantizer.totals.double().clone()
    codes = quantizer.nearest(rows)
    candidates = torch.randn(6, 3)
    dead = quantizer.update(*quantizer.sums(rows, codes), candidates)
    assert int(dead) == 1
    for code in range(6):
        if code == 4:
            assert torch.allclose(quantizer.codebook[4], candidates[4], atol=1e-6)
            continue
        mine = rows[codes == code].double()
        count = CODEBOOK_DECAY * before[code] + (1 - CODEBOOK_DECAY) * len(mine)
        total = CODEBOOK_DECAY * totals[code] + (1 - CODEBOOK_DECAY) * mine.sum(0)
        assert torch.allclose(quantizer.codebook[code].double(), total / count, rtol=0, atol=1e-5)


def test_a_new_codebook_is_made_of_vectors_of_the_first_batch() -> None:
    quantizer, rows = Quantizer(6, 3), torch.randn(6, 3) + 50
    quantizer.update(*quantizer.sums(rows, quantizer.nearest(rows)), rows)
    assert len({int(code) for code in quantizer.nearest(rows)}) == 6


def test_perplexity_is_the_number_of_codes_that_are_used_alike() -> None:
    assert float(perplexity(torch.tensor([3.0, 3.0, 0.0, 3.0]))) == pytest.approx(3)
    assert float(perplexity(torch.tensor([9.0, 0.0]))) == pytest.approx(1)


@pytest.mark.parametrize("c_dim", [0, 3])
def test_sampling_with_the_cache_gives_the_logits_and_codes_of_sampling_without(c_dim: int) -> None:
    torch.manual_seed(2)
    transformer = Transformer(dataclasses.replace(CONFIG, c_dim=c_dim)).eval()
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    c = torch.nn.functional.one_hot(torch.tensor([0, 2]), 3).float() if c_dim else None
    uniform = torch.rand(2, 16, dtype=torch.float64)
    sampling = CodeSampling(temperature=0.9, top_k=7, top_p=0.95)
    with torch.no_grad():
        cached = transformer.draw(uniform, c, sampling)
        assert torch.equal(cached, transformer.draw(uniform, c, sampling, cached=False))
        in_float64 = transformer.double()
        truth = in_float64(cached, None if c is None else c.double())
        transformer.float()
        cache, x, found = KeyValueCache(), transformer.begin(2, c), []
        for i in range(16):
            found.append(transformer.run(x, cache))
            x = transformer.codes(cached[:, i : i + 1])
    assert torch.allclose(torch.cat(found, 1).double(), truth, rtol=0, atol=1e-5)


def test_a_later_code_never_changes_an_earlier_logit() -> None:
    torch.manual_seed(3)
    transformer = Transformer(CONFIG).eval()
    codes = torch.randint(13, (1, 16))
    other = codes.clone()
    other[:, 9:] = (other[:, 9:] + 1) % 13
    assert torch.equal(transformer(codes)[:, :10], transformer(other)[:, :10])


def test_temperature_top_k_and_top_p_keep_the_most_likely_codes() -> None:
    logits = torch.tensor([[0.5, 0.2, 0.2, 0.1]]).log()
    exact = CodeSampling().probabilities(logits)[0].tolist()
    assert exact == pytest.approx([0.5, 0.2, 0.2, 0.1], abs=1e-6)
    assert CodeSampling(top_k=1).probabilities(logits)[0].tolist() == [1, 0, 0, 0]
    # Two codes are alike; the earlier one is taken, and exactly two stay.
    assert CodeSampling(top_k=2).probabilities(logits)[0].tolist() == pytest.approx([5 / 7, 2 / 7, 0, 0], abs=1e-6)
    assert CodeSampling(top_p=0.6).probabilities(logits)[0].tolist() == pytest.approx([5 / 7, 2 / 7, 0, 0], abs=1e-6)
    assert CodeSampling(top_p=0.01).probabilities(logits)[0].tolist() == [1, 0, 0, 0]
    squared = [0.25, 0.04, 0.04, 0.01]
    expected = [value / math.fsum(squared) for value in squared]
    assert CodeSampling(temperature=0.5).probabilities(logits)[0].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("sampling", "said"),
    [
        (CodeSampling(temperature=0), "--temperature 0"),
        (CodeSampling(top_k=14), "--top-k 14: this model's codebook has 13 codes"),
        (CodeSampling(top_k=0), "--top-k 0"),
        (CodeSampling(top_p=1.5), "--top-p 1.5"),
    ],
)
def test_impossible_sampling_is_refused_by_name(sampling: CodeSampling, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        sampling.check(CONFIG.codebook_size)


def test_a_seed_gives_the_same_image_in_every_batch() -> None:
    torch.manual_seed(4)
    model = VQGAN(CONFIG).eval()
    for parameter in model.transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    together = sample(model, range(7))
    assert torch.equal(sample(model, [5])[0], together[5])
    assert torch.equal(sample(model, [6, 2, 0]), together[[6, 2, 0]])
    assert not torch.equal(together[0], together[1])


def test_images_keep_their_size_whatever_the_ratio() -> None:
    config = dataclasses.replace(CONFIG, ratio=0.5)
    images = torch.rand(2, 3, 16, 32) * 2 - 1
    model = VQGAN(config)
    assert config.code_grid == (2, 4)
    assert model.reconstruct(images).shape == images.shape
    assert PatchDiscriminator(config)(images).shape[:2] == (2, 1)
    with pytest.raises(ConfigError, match="--code-stride 2 makes sequences of 256x256 = 65536 codes"):
        dataclasses.replace(CONFIG, resolution=512, channel_base=512, code_stride=2)
    with pytest.raises(ConfigError, match="--code-stride 8 does not divide"):
        dataclasses.replace(CONFIG, ratio=0.4)
