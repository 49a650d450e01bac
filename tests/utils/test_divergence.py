"""A training whose loss or weights are no longer numbers ends."""

import math

import pytest
import torch

from utils.divergence import TrainingDivergedError, require_finite


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_ends_training(loss):
    with pytest.raises(TrainingDivergedError, match=r"step 7: .*not finite; lower lr or set a=1"):
        require_finite(7, loss, torch.nn.Linear(2, 2), "a=1")


def test_a_weight_that_is_no_number_ends_training():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    require_finite(7, 1.0, model, "a=1")
    require_finite(7, 1.0, torch.nn.Identity(), "a=1")
    with torch.no_grad():
        model[1].bias[1] = math.nan
    with pytest.raises(TrainingDivergedError, match="weights or loss"):
        require_finite(7, 1.0, model, "a=1")
