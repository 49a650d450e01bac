"""Non-local block (Wang et al. 2018), for the option `non_local`: every place looks at all others.

y_i = sum_j softmax_j(q_i k_j) v_j,    x_i <- x_i + W y_i
"""

from torch import Tensor, nn


class NonLocal(nn.Module):
    """The embedded Gaussian form; W starts at zero, so that the block begins as the identity."""

    def __init__(self, channels: int, inner: int = 128) -> None:
        """`inner`: channels of queries, keys and values (`channel_bottleneck`)."""
        super().__init__()
        if inner < 1:
            raise ValueError(f"channel_bottleneck is {inner}, expected at least 1")
        self.query, self.key, self.value = (nn.Conv2d(channels, inner, 1) for _ in range(3))
        self.merge = nn.Conv2d(inner, channels, 1)
        nn.init.zeros_(self.merge.weight)
        assert self.merge.bias is not None
        nn.init.zeros_(self.merge.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        maps = self.query(x), self.key(x), self.value(x)
        q, k, v = (part.flatten(2).transpose(1, 2) for part in maps)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, scale=1.0)
        return x + self.merge(mixed.transpose(1, 2).unflatten(2, x.shape[-2:]))
