"""The heavy small operations, each with its contract and its plain-torch reference."""

from ganformer_cli.operators.bias_act import bias_act
from ganformer_cli.operators.bipartite_attention import attend, attention_scores, integrate
from ganformer_cli.operators.upfirdn2d import binomial_filter, upfirdn2d

__all__ = ["attend", "attention_scores", "bias_act", "binomial_filter", "integrate", "upfirdn2d"]
