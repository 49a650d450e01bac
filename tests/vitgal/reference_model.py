"""The S12 autoencoder with the weights of the reference answers, made once."""

from functools import lru_cache
from typing import cast

from tests.vitgal.golden_models import fill
from vitgal.models.autoencoder import Autoencoder
from vitgal.models.xcit import XCiTSizes


@lru_cache(maxsize=1)
def reference_model() -> Autoencoder:
    """In evaluation mode."""
    model = Autoencoder(XCiTSizes(384, 12, 8, 1.0, 0.0, 0.0))
    return cast(Autoencoder, fill(model).eval())
