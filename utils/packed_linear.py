"""Linear maps by oneDNN kernels on a CPU, with weights packed once, for models that only score."""

import math

import torch
from torch import Tensor, nn

# |score| in units of log2 up to which exp2 is taken as it is: 2^100 times 2^10 keys is far from
# float32's 2^128, and a row whose largest term is 2^-100 still has 26 bits above the denormals
SAFE_EXPONENT = 100.0
# just under the 32 MiB up to which glibc's malloc adapts, see `keep_freed_memory`
ADAPTING_BYTES = 31 << 20


def can_pack(dtype: torch.dtype = torch.float32) -> bool:
    """Whether the kernels below run on this machine's processor."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def keep_freed_memory() -> None:
    """Have malloc reuse the buffers of a layer instead of returning them to the system each time.

    The kernels used here allocate their results, 1 to 4 MB each; a tenth of the time went into page
    faults. glibc keeps blocks as large as the largest that was ever freed (of at most 32 MiB), so
    one block, never touched, is freed. Without effect on other C libraries.
    """
    torch.empty(ADAPTING_BYTES, dtype=torch.uint8)


class PackedLinear:
    """x W^T + b with W in oneDNN's own layout; `dtype` is that of the product's inputs."""

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        """`weight` (out, in), `bias` (out,)."""
        self.dtype = dtype
        self.bias = bias.to(dtype)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype).contiguous())

    @classmethod
    def of(cls, linear: nn.Linear, dtype: torch.dtype) -> "PackedLinear":
        """The packed copy of a module."""
        return cls(linear.weight.detach(), linear.bias.detach(), dtype)

    def __call__(self, x: Tensor, activation: str = "none") -> Tensor:
        """(T, in) -> (T, out) in `dtype`; `activation`: none or relu."""
        x = x.to(self.dtype)
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, activation, [], "")

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """residual + x W^T + b, float32."""
        if self.dtype == torch.float32:
            return torch.ops.mkldnn._linear_pointwise.binary(
                x, residual, self.weight, self.bias, "add"
            )
        return residual + self(x)

    @classmethod
    def of_attention(
        cls, weight: Tensor, bias: Tensor, nhead: int, dtype: torch.dtype
    ) -> "PackedLinear":
        """Fused queries, keys and values (3 D, D); scores q k^T come out in units of log2.

        softmax(s) = 2^(s log2 e) / sum, and s has the factor 1 / sqrt(D / nhead).
        """
        weight, bias, d = weight.detach(), bias.detach(), weight.shape[1]
        factor = torch.ones(3 * d)
        factor[:d] = math.log2(math.e) / math.sqrt(d // nhead)
        return cls(weight * factor[:, None], bias * factor, dtype)
