"""NetVLAD (Arandjelovic et al. 2016) and its contextual reweighting CRN (Kim et al. 2017)."""

import torch
from torch import Tensor, nn


class NetVLAD(nn.Module):
    """Residuals to K centroids, softly assigned, normalised per centroid and as a whole."""

    def __init__(self, clusters: int, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, clusters, kernel_size=1, bias=False)
        self.centroids = nn.Parameter(torch.rand(clusters, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W) -> (B, K * D) unit rows."""
        return self.pool(nn.functional.normalize(x, dim=1))

    def pool(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """sum_p a_kp (x_p - c_k) as one product; `mask` (B, 1, H, W): a weight per place."""
        assigned = self.conv(x).softmax(dim=1)
        if mask is not None:
            assigned = assigned * mask
        weights, points = assigned.flatten(2), x.flatten(2)
        mass = weights.sum(dim=2, keepdim=True)
        residuals = weights @ points.transpose(1, 2) - mass * self.centroids
        return nn.functional.normalize(nn.functional.normalize(residuals, dim=2).flatten(1), dim=1)

    @torch.no_grad()
    def start_from(self, centroids: Tensor, descriptors: Tensor) -> None:
        """Begin with centroids (K, D) of a k-means and descriptors (N, D) that were clustered.

        The softmax is made so sharp that the nearest centroid outweighs the second a hundredfold.
        """
        directions = nn.functional.normalize(centroids, dim=1)
        best = (descriptors @ directions.T).topk(2, dim=1).values
        sharpness = torch.log(torch.tensor(100.0)) / (best[:, 0] - best[:, 1]).mean()
        self.centroids.copy_(centroids)
        self.conv.weight.copy_((sharpness * directions)[:, :, None, None])


class CRN(NetVLAD):
    """NetVLAD with weights of places from their surroundings (filters 3 x 3, 5 x 5, 7 x 7)."""

    def __init__(self, clusters: int, dim: int) -> None:
        super().__init__(clusters, dim)
        self.shrink = nn.AvgPool2d(3, 2, ceil_mode=True)
        self.filters = nn.ModuleList(
            nn.Conv2d(dim, width, size, padding=size // 2)
            for size, width in ((3, 32), (5, 32), (7, 20))
        )
        self.accumulate = nn.Conv2d(84, 1, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W) -> (B, K * D) unit rows."""
        small = self.shrink(x)
        context = torch.cat([torch.relu(conv(small)) for conv in self.filters], dim=1)
        mask = nn.functional.interpolate(
            torch.relu(self.accumulate(context)), size=x.shape[-2:], mode="bilinear"
        )
        return self.pool(nn.functional.normalize(x, dim=1), mask)
