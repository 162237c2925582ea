"""The heavy small operations, each with its contract and its plain-torch reference."""

from ganformer_cli.operators.attention import (
    AttentionMeans,
    Keys,
    attention_means,
    attention_probabilities,
    bipartite_attention,
)
from ganformer_cli.operators.bias_act import bias_act
from ganformer_cli.operators.upfirdn2d import binomial_filter, upfirdn2d

__all__ = [
    "AttentionMeans",
    "Keys",
    "attention_means",
    "attention_probabilities",
    "bias_act",
    "binomial_filter",
    "bipartite_attention",
    "upfirdn2d",
]
