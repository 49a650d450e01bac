"""Checkpoints: released state dicts loaded strictly, own ones saved in one step.

    python -m utils.checkpoints convert FILE.pt             writes FILE.safetensors and its card
    python -m utils.checkpoints convert FILE.safetensors    writes FILE.pt again

Tensors are the same byte for byte; whatever else the file holds comes along in the card,
FILE.safetensors.json.
"""

import argparse
import hashlib
import io
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.checkpoints_safetensors import SUFFIX, card_path, from_safetensors, to_safetensors
from utils.command_line import run_command
from utils.paths import atomic_path, require_file

SHOWN = 10  # entries of each kind that an error message names
STATE = "state"  # entry of a checkpoint that holds the weights
# what reading a damaged file was seen to raise
UNREADABLE = (
    *(RuntimeError, EOFError, KeyError, ValueError, TypeError, IndexError, AttributeError),
    *(AssertionError, OverflowError, MemoryError, struct.error),
)
# the same of a damaged zip file; RuntimeError: a flag says that it is encrypted
DAMAGED_ZIP = (
    *(zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, RuntimeError, OSError),
    *(zlib.error, struct.error),
)


def load_state(path: str | Path, allowed: Collection[type] = ()) -> dict[str, Any]:
    """What a checkpoint file holds, on the CPU; tensors, numbers, strings and plain containers.

    A `.safetensors` file is read too, with its card where there is one.
    `allowed`: further classes that the file may hold (argparse.Namespace, say), admitted for this
    file alone. ValueError, with the file and a remedy, for a file that is damaged, cut short, no
    checkpoint (a saved web page, say) or would run code when read.
    """
    path = require_file(path, "download it or give the path of a checkpoint")
    if path.suffix == SUFFIX:
        return from_safetensors(path)
    is_zip = _check_archive(path)
    try:
        # a plain pickle is read from memory, which reserves no more than the file has
        source = path if is_zip else io.BytesIO(path.read_bytes())
        with torch.serialization.safe_globals(list(allowed)):
            content = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refusal(path, f"tensors and plain containers ({_reason(error)})") from error
    except UNREADABLE as error:
        raise _refusal(path, f"a whole checkpoint ({_reason(error)})") from error
    if not isinstance(content, dict):
        raise _refusal(path, f"a dict, but a {type(content).__name__}")
    return content


def _check_archive(path: Path) -> bool:
    """Whether it is a zip file, as torch writes it since 1.6, or a plain pickle as before.

    ValueError unless a zip file is whole: torch itself does not compare the checksums.
    """
    with path.open("rb") as file:
        start = file.read(256)
    if not start:
        raise _refusal(path, "a checkpoint, but empty")
    if start.lstrip()[:1] == b"<":
        raise _refusal(path, "a checkpoint, but a web page: the download went wrong")
    if start[:2] != b"PK":
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except DAMAGED_ZIP as error:
        raise _refusal(path, f"a whole checkpoint ({_reason(error)})") from error
    if damaged is not None:
        raise _refusal(path, f"a whole checkpoint (wrong checksum of its part {damaged})")
    return True


def _refusal(path: Path, what: str) -> ValueError:
    return ValueError(
        f"{path} is not {what}; fetch or make the file again, or give the path of a checkpoint "
        "that torch.save wrote"
    )


def _reason(error: BaseException) -> str:
    """What went wrong, without torch's advice to read the file unsafely."""
    text = str(error)
    refused = re.search(r"(?:WeightsUnpickler error|Unsupported global): *(.*)", text)
    line = refused.group(1) if refused else text.strip().split("\n")[0]
    return line[:200] or type(error).__name__


def load_weights(
    path: str | Path, entry: str = STATE, allowed: Collection[type] = ()
) -> dict[str, Tensor]:
    """The state dict of a file: the file's content itself, or its entry of that name.

    `allowed`: as for `load_state`. ValueError when there is no state dict.
    """
    content = load_state(path, allowed)
    state = content.get(entry, content)
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(
            f"{path} holds no state dict: expected tensors by name, or the entry {entry!r} with "
            f"them; found entries {_some(map(str, content))}"
        )
    return dict(state)


def load_released(module: nn.Module, path: str | Path, drop: Collection[str] = ()) -> nn.Module:
    """Load the weights of `path` into `module`, names and shapes exactly; returns `module`.

    The file holds the state dict itself or has it as the entry "state". `drop`: names of entries
    that the file may have and the module does not. ValueError lists what does not fit.
    """
    state = load_weights(path)
    return load_exactly(module, {k: v for k, v in state.items() if k not in drop}, path)


def load_exactly(module: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> nn.Module:
    """Give `module` the weights `state` of the file `path`; returns `module`.

    ValueError lists names and shapes that do not fit, and entries with NaN or infinite numbers.
    """
    difference = describe_difference(module.state_dict(), state)
    if difference:
        raise ValueError(
            f"{path} does not fit the model; choose the configuration that it was trained with, "
            f"or the file of this one\n{difference}"
        )
    broken = [name for name, value in state.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise ValueError(
            f"{path} has NaN or infinite weights in {_some(broken)}: the training fell apart or "
            "the file is damaged; use another checkpoint"
        )
    module.load_state_dict(state)
    return module


def describe_difference(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """Table of names and shapes in which two state dicts differ; empty when they do not."""
    missing = [f"{name} {_shape(expected[name])}" for name in expected if name not in found]
    unexpected = [f"{name} {_shape(found[name])}" for name in found if name not in expected]
    shapes = [
        f"{name} model {_shape(value)}, file {_shape(found[name])}"
        for name, value in expected.items()
        if name in found and found[name].shape != value.shape
    ]
    kinds = {"missing in the file": missing, "unknown to the model": unexpected}
    kinds["shape differs"] = shapes
    lines = []
    for kind, entries in kinds.items():
        if entries:
            lines.append(f"  {kind} ({len(entries)}):")
            lines += [f"    {entry}" for entry in entries[:SHOWN]]
            lines += ["    ..."] if len(entries) > SHOWN else []
    return "\n".join(lines)


def save_checkpoint(path: str | Path, **parts: Any) -> Path:
    """Write a dict of `parts` (state=..., optim=...) to `path` in one step; returns the path.

    Names in `state` lose each "module." of a data-parallel wrapper; tensors move to the CPU.
    Before the new file takes its name it is read back: TypeError when a part holds more than
    tensors, numbers, strings and plain containers (numpy values, say), which `load_state` refuses.
    """
    path = Path(path)
    content = {key: _to_cpu(value) for key, value in parts.items()}
    if STATE in content:
        content[STATE] = {k.replace("module.", ""): v for k, v in content[STATE].items()}
    with atomic_path(path) as temporary:
        _write(content, temporary)
        try:
            torch.load(temporary, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise TypeError(
                f"{path} could not be read back ({_reason(error)}); give tensors, numbers, strings "
                "and plain containers only"
            ) from error
    return path


def _write(content: Any, path: Path) -> None:
    """torch.save; a failed write is an OSError, Ctrl-C a KeyboardInterrupt: torch may hide both."""
    try:
        with path.open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError | KeyboardInterrupt):
            raise error.__context__ from error
        raise


def _to_cpu(value: Any) -> Any:
    """The same with detached tensors on the CPU and plain dicts, lists and tuples."""
    if isinstance(value, Tensor):
        cpu = value.detach().cpu()
        # a view would take along the whole storage that it looks into
        is_view = cpu.untyped_storage().nbytes() > cpu.numel() * cpu.element_size()
        return cpu.clone() if is_view else cpu
    if isinstance(value, Mapping):
        return {key: _to_cpu(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        entries = [_to_cpu(entry) for entry in value]
        return tuple(entries) if isinstance(value, tuple) else entries
    return value


def fingerprint_weights(module: nn.Module) -> str:
    """Short digest of names and values of all weights: which model a file was made by."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "scalar"


def _some(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


CONVERTED = (argparse.Namespace,)  # further class that released files hold


def convert(source: str | Path, target: str | Path | None = None, overwrite: bool = False) -> Path:
    """Write the other form of a checkpoint: torch's file as safetensors with a card, or back.

    `target`: path of the new file; None: beside the source. Returns it. ValueError, before
    anything is written, for what cannot be converted and for a file that is there already.
    """
    path = require_file(source, "give the path of a checkpoint")
    back = path.suffix == SUFFIX
    goal = Path(target) if target is not None else path.with_suffix(".pt" if back else SUFFIX)
    if (goal.suffix == SUFFIX) == back:
        raise ValueError(f"{path} becomes {goal}, expected a name that ends in "
                         f"{'.pt or .pth' if back else SUFFIX}")  # fmt: skip
    existing = [p for p in (goal, *([] if back else [card_path(goal)])) if p.exists()]
    if existing and not overwrite:
        raise ValueError(f"{existing[0]} is there already; choose another name or --overwrite")
    content = load_state(path, CONVERTED)
    if not back:
        return to_safetensors(content, goal, path)
    with atomic_path(goal) as temporary:
        _write(content, temporary)
    return goal


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; exit code 1 with one line that says what is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.checkpoints", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("command", choices=["convert"])
    parser.add_argument("source", type=Path, metavar="FILE", help=".pt, .pth or .safetensors")
    parser.add_argument("target", type=Path, nargs="?", help="the new file; default: beside FILE")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    options = parser.parse_args(argv)
    return run_command(
        "utils.checkpoints",
        lambda: f"{convert(options.source, options.target, options.overwrite)}\n",
    )


if __name__ == "__main__":
    raise SystemExit(main())
