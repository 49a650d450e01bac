"""Descriptors reduced to principal components, against the eigenvectors of their covariance."""

import numpy as np
import pytest
import torch

from r2former import evaluate as entry
from r2former import reduction
from r2former.datasets.transforms import make_database_transform
from r2former.datasets.vg_folder import list_images
from r2former.embedding import Reading, embed_images
from r2former.evaluation import Settings, evaluate
from r2former.reduction import reduce_by_pca
from tests.r2former.place_folders import draw_places
from tests.r2former.small_runs import make_tiny, options, write_checkpoint
from tests.run_folder import check_record, observed

SIZE, READING = [32, 48], Reading(4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("reduction")
    draw_places(root / "set")
    write_checkpoint(root / "global.pth", make_tiny().backbone)
    return root


def describe(net, paths):
    return embed_images(net, paths, make_database_transform(SIZE), READING).astype(np.float64)


def test_rows_are_coordinates_along_the_first_eigenvectors(folder):
    paths = list_images(folder / "set")
    net = make_tiny().backbone
    plain = describe(net, paths)
    centred = plain - plain.mean(axis=0)
    axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :3]
    wanted = centred @ axes
    found = describe(reduce_by_pca(net, paths, 3, SIZE, READING, seed=0), paths)
    signs = np.sign((found * wanted).sum(axis=0))  # an eigenvector has none
    np.testing.assert_allclose(found * signs, wanted, rtol=0, atol=1e-5)


def test_of_many_images_some_are_drawn(folder, monkeypatch, caplog):
    """The same ones for the same seed."""
    paths = list_images(folder / "set")
    monkeypatch.setattr(reduction, "MOST_IMAGES", 5)
    net = make_tiny().backbone
    with caplog.at_level("INFO"):
        made = [reduce_by_pca(net, paths, 4, SIZE, READING, seed) for seed in (1, 1, 2)]
    assert "4 of 16 components keep 100.0 % of the variance" in caplog.text
    assert torch.equal(made[0].mean, made[1].mean)
    assert not torch.equal(made[0].mean, made[2].mean)
    with pytest.raises(ValueError, match="pca_dim is 6, expected 1 to 5: descriptors have 16 num"):
        reduce_by_pca(net, paths, 6, SIZE, READING, 0)


def test_evaluation_says_that_descriptors_are_reduced(folder, tmp_path, capsys):
    given = options(
        folder / "set", tmp_path / "out", resume=str(folder / "global.pth"), rerank=False,
        pca_dim=3, pca_dataset_folder="set/database", dataset={"datasets_folder": str(folder)},
    )  # fmt: skip
    with observed(entry.ex, tmp_path / "runs") as run_folder:
        done = entry.ex.run(config_updates=given)
        record = check_record(run_folder, done.result)
    assert 0 <= done.result["R@1"] <= 100
    assert record.content["method"]["pca_dim"] == 3
    assert "PCA to 3 numbers" in capsys.readouterr().out
    del given["pca_dataset_folder"]
    with pytest.raises(ValueError, match="no training split for pca_dim: give pca_dataset_folder"):
        entry.ex.run(config_updates=given)


def test_reduced_descriptors_are_neither_reranked_nor_held_against_tables():
    with pytest.raises(ValueError, match="pca_dim reduces global descriptors only"):
        Settings(pca_dim=8)
    assert not Settings(rerank=False, pca_dim=8).is_tabled((480, 640))
    with pytest.raises(ValueError, match="pca_dim goes with descriptors of reduction"):
        evaluate(make_tiny(), None, Settings(rerank=False, pca_dim=8))  # type: ignore[arg-type]
