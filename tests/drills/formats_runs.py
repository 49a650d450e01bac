"""Checkpoints from which training runs go on, and weights by the loaders of each system."""

from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

import r2former.run_state
import rrt_gld.run_state
import rrt_sop.run_state
import vitgal.run_state
from r2former.mining import Draws
from r2former.models.deit import DeiT
from r2former.models.network import DeiTR2Former
from r2former.models.weights import load_network, to_released_names
from tests.drills.formats_utils import make_net
from tests.drills.reading import Format, require
from utils.checkpoints import save_checkpoint
from vitgal.models.autoencoder import Autoencoder
from vitgal.models.weights import load_autoencoder
from vitgal.models.xcit import XCiTSizes

SETUP = {"lr": 1e-3, "epochs": 2, "seed": 0, "scales": [1, 2]}


def stepped(net: nn.Module) -> torch.optim.Optimizer:
    """An optimiser with the state of a step."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    net(torch.ones(3, 4)).sum().backward()
    optimizer.step()
    return optimizer


def make_rrt(module: ModuleType, batch: np.ndarray) -> Any:
    net = make_net()
    optimizer = stepped(net)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    progress = module.Progress(epochs_done=1, step=1, batches=[batch, batch[:2]], best=50.0)
    return module.RunParts(net, optimizer, schedule, progress)


def make_vitgal() -> Any:
    net = make_net()
    progress = vitgal.run_state.Progress(epochs_done=1, step=2, best=10.0, metrics={"top1": 10.0})
    return vitgal.run_state.RunParts(net, stepped(net), GradScaler("cpu", enabled=False), progress)


class Memory:
    """What a run keeps of its miner."""

    def __init__(self) -> None:
        self.memory = np.ones((5, 4), np.float32)


def make_r2former() -> Any:
    net = make_net()
    progress = r2former.run_state.Progress(
        epochs_done=1, step=1, triplets=np.ones((3, 4), np.int64), best=10.0, metrics={"R@1": 1.0}
    )
    miner: Any = Memory()
    return r2former.run_state.RunParts(net, stepped(net), miner, Draws.seeded(0), progress)


def check_parts(parts: Any, fresh: Any) -> Any:
    """All parts are of the types and shapes that a run works with."""
    progress = vars(parts.progress)
    require(progress.keys() == vars(fresh.progress).keys(), "entries of progress")
    for name, value in vars(fresh.progress).items():
        found = progress[name]
        kinds: Any = (int, float) if type(value) is float else type(value)
        fits = isinstance(found, kinds) and isinstance(found, bool) is isinstance(value, bool)
        require(fits and (type(value) is not int or found >= -1), f"{name} is {found!r}")
    state = getattr(parts, "model", None) or parts.net
    learned = parts.optimizer.state_dict()
    return [state.state_dict(), repr(progress), repr(learned["param_groups"])]


def read_rrt(folder: Path, module: ModuleType, batch: np.ndarray) -> Any:
    parts = make_rrt(module, batch)
    module.load_run(folder / "last.pt", parts, SETUP)
    for found in parts.progress.batches:
        require(found.dtype == np.int64 and found.shape[1:] == batch.shape[1:], "batches")
    return check_parts(parts, make_rrt(module, batch))


def read_vitgal(folder: Path) -> Any:
    parts = make_vitgal()
    vitgal.run_state.load_run(folder / "last.pt", parts, SETUP)
    return check_parts(parts, make_vitgal())


def read_r2former(folder: Path) -> Any:
    parts = make_r2former()
    r2former.run_state.load_run(folder / "last.pt", parts, SETUP)
    require(np.isfinite(parts.miner.memory).all(), "memory")
    require(parts.progress.triplets.dtype == np.int64 and parts.progress.triplets.ndim == 2, "tri")
    parts.draws.choice(5, 2)
    return check_parts(parts, make_r2former())


TRIPLETS, IMAGES = np.arange(9).reshape(3, 3), np.arange(5)


def tiny_place_net() -> DeiTR2Former:
    torch.manual_seed(0)
    deit = DeiT((16, 16), out_dim=4, embed_dim=8, depth=2, num_heads=2, patch_size=8)
    return DeiTR2Former(deit, local_dim=4, num_local=2, dim=8, depth=1, num_heads=2)


def tiny_autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(XCiTSizes(24, 1, 2), code_dim=8)


def finite_state(net: nn.Module) -> Any:
    state = net.state_dict()
    require(all(torch.isfinite(value).all() for value in state.values()), "weights are not finite")
    return state


def read_place_weights(folder: Path) -> Any:
    net = tiny_place_net()
    load_network(net, folder / "net.pth")
    return finite_state(net)


def make_place_weights(folder: Path) -> None:
    parts = {"model_state_dict": to_released_names(tiny_place_net()), "recalls": [1.0], "epoch": 3}
    save_checkpoint(folder / "net.pth", **parts)


def make_vitgal_weights(folder: Path) -> None:
    save_checkpoint(folder / "net.pth", model=tiny_autoencoder().state_dict(), epoch=3)


FORMATS = {
    "rrt_gld_run": Format(
        lambda f: rrt_gld.run_state.save_run(
            f / "last.pt", make_rrt(rrt_gld.run_state, TRIPLETS), SETUP
        ),
        ("last.pt",), partial(read_rrt, module=rrt_gld.run_state, batch=TRIPLETS),
    ),
    "rrt_sop_run": Format(
        lambda f: rrt_sop.run_state.save_run(
            f / "last.pt", make_rrt(rrt_sop.run_state, IMAGES), SETUP
        ),
        ("last.pt",), partial(read_rrt, module=rrt_sop.run_state, batch=IMAGES),
    ),
    "vitgal_run": Format(
        lambda f: vitgal.run_state.save_run(f / "last.pt", make_vitgal(), SETUP),
        ("last.pt",), read_vitgal,
    ),
    "r2former_run": Format(
        lambda f: r2former.run_state.save_run(f / "last.pt", make_r2former(), [1.0], SETUP),
        ("last.pt",), read_r2former,
    ),
    "r2former_weights": Format(make_place_weights, ("net.pth",), read_place_weights),
    "vitgal_weights": Format(
        make_vitgal_weights, ("net.pth",),
        lambda f: finite_state(load_autoencoder(tiny_autoencoder(), f / "net.pth")),
    ),
}  # fmt: skip
