"""The criterion of our own, with all images of a batch as negatives, and where it needs places."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from r2former.datasets.place_set import PlaceSet
from r2former.datasets.triplets import GroupOptions, make_batches
from r2former.losses import in_batch_terms
from r2former.training import GlobalStage, Passes, RerankStage
from tests.r2former.short_runs import train, weights, write_street
from utils.distributed import Ranks

GROUPS, SLOTS, WIDTH = 3, 4, 5
TEMPERATURE = 0.1


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_street(tmp_path_factory.mktemp("sets"))


def make_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Unit descriptors (b, T, D) and places (b, T, 3) 100 m apart, but for query and positive."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(GROUPS, SLOTS, WIDTH, generator=generator)
    places = torch.zeros(GROUPS, SLOTS, 3, dtype=torch.float64)
    places[..., 0] = 100 * torch.arange(GROUPS * SLOTS).view(GROUPS, SLOTS)
    places[:, 1] = places[:, 0] + 5
    return torch.nn.functional.normalize(features, dim=-1), places


def plainly(features: torch.Tensor, places: torch.Tensor) -> list[float]:
    """Anchor by anchor."""
    images = [(g, s) for g in range(GROUPS) for s in range(SLOTS)]
    terms = []
    for group in range(GROUPS):
        losses = []
        for anchor, partner in (((group, 0), (group, 1)), ((group, 1), (group, 0))):
            total = 0.0
            for image in images:
                near = float((places[image] - places[anchor]).norm()) <= 25
                if image == partner or not near:
                    total += math.exp(float(features[image] @ features[anchor]) / TEMPERATURE)
            own = float(features[partner] @ features[anchor]) / TEMPERATURE
            losses.append(math.log(total) - own)
        terms.append(sum(losses) / 2)
    return terms


def test_terms_are_those_of_the_plain_loop():
    features, places = make_batch()
    places[2, 3] = places[0, 0] + 20  # a negative of another group at the place of an anchor
    made = in_batch_terms(features, places, TEMPERATURE)
    assert made.shape == (GROUPS, SLOTS - 2)
    np.testing.assert_allclose(made[:, 0], plainly(features, places), rtol=1e-5)
    assert not made[:, 1:].any()


def test_images_at_the_place_of_an_anchor_do_not_count():
    features, places = make_batch()
    places[1] = places[0, 0]
    features[1] = features[0]  # would be perfect negatives
    alone = in_batch_terms(features[[0, 2]], places[[0, 2]], TEMPERATURE)
    torch.testing.assert_close(in_batch_terms(features, places, TEMPERATURE)[0], alone[0])


def test_cities_are_apart():
    """The same coordinates in two cities are two places."""
    utm = np.array([[0.0, 0.0], [0.0, 0.0]])
    places = PlaceSet(
        "two", "", ["a", "b"], ["c", "d"], utm, utm, np.array([0, 1]), np.array([0, 1])
    )
    first, second = places.places_of(np.array([[0, 0, 1]]))[0, 1:]
    assert np.linalg.norm(first - second) > 1e7
    assert np.array_equal(places.places_of(np.array([[1, 1]]))[0, 0], second)


def test_batches_say_where_their_images_are():
    utm = np.arange(8.0).reshape(4, 2)
    places = PlaceSet("four", "", list("abcd"), list("efgh"), utm, utm + 100)

    class Rows:
        """Groups without images."""

        def __init__(self) -> None:
            self.places, self.triplets = places, np.array([[0, 1, 2], [3, 0, 1]])

        def __len__(self) -> int:
            return 2

        def __getitem__(self, item: tuple[int, int, bool]) -> torch.Tensor:
            return torch.zeros(3, 1)

    (batch,) = make_batches(Rows(), GroupOptions(2), 0, 0)
    assert batch.places is not None
    assert batch.places[:, :, :2].tolist() == [
        [[100, 101], [2, 3], [4, 5]],
        [[106, 107], [0, 1], [2, 3]],
    ]


@pytest.mark.parametrize("stage", ["global", "rerank"])
def test_a_run_trains_with_it(street, tmp_path, stage):
    """Other weights than by triplets, and finite ones."""
    changes = {"epochs_num": 1} | ({"fix": 0} if stage == "rerank" else {})
    train(stage, street, tmp_path / "triplet", **changes)
    train(stage, street, tmp_path / "batch", criterion="in_batch", **changes)
    before, after = weights(tmp_path / "triplet"), weights(tmp_path / "batch")
    assert all(bool(value.isfinite().all()) for value in after.values())
    assert not all(torch.equal(value, after[name]) for name, value in before.items())


def test_only_whole_batches_with_places_are_taken():
    for kind in (GlobalStage, RerankStage):
        for shared in ({"passes": Passes(2)}, {"ranks": Ranks(0, 2)}):
            with pytest.raises(ValueError, match="compares all images of a batch"):
                kind(criterion="in_batch", **shared)
        with pytest.raises(ValueError, match=r"temperature is 0\.0"):
            kind(criterion="in_batch", temperature=0.0)
    features = torch.nn.Linear(3 * 4 * 4, WIDTH)
    net = torch.nn.Sequential(torch.nn.Flatten(), features)
    with pytest.raises(ValueError, match="needs the places of the images"):
        GlobalStage("in_batch").backward(net, torch.zeros(2, 3, 3, 4, 4), 2)
    with pytest.raises(ValueError, match="four has no positions"):
        PlaceSet("four", "", ["a"], ["b"]).places_of(np.array([[0, 0]]))
