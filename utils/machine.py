"""Where a number was measured: versions, device, memory, time; for the record of a result."""

import os
import platform
import resource
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

# distributions whose version can change a number
LIBRARIES = (
    *("torch", "torchvision", "timm", "tensorflow", "numpy", "scipy"),
    *("faiss-cpu", "faiss-gpu-cu12", "opencv-python-headless", "pydegensac", "pillow"),
)
MIB = 2**20


def library_versions() -> dict[str, str]:
    """Versions of those libraries that are installed, and Python's."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def describe_device(device: Any = "cpu") -> str:
    """The device in words: "NVIDIA H100 80GB HBM3 (cuda:0)", or the processor and its cores.

    `device`: a torch device or its name. torch is not imported for it: whoever computed with it
    has done so.
    """
    name, torch = str(device), sys.modules.get("torch")
    if name.startswith("cuda") and torch is not None:
        return f"{torch.cuda.get_device_name(device)} ({name})"
    return f"{_processor()}, {len(os.sched_getaffinity(0))} cores ({name})"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def peak_memory() -> dict[str, float]:
    """MiB at most so far: this process, its largest child, and its share of the GPU if it has one.

    The kernel counts kibibytes; pages of mapped files that are held count too.
    """
    found = {}
    for what, who in (("process", resource.RUSAGE_SELF), ("child", resource.RUSAGE_CHILDREN)):
        peak = resource.getrusage(who).ru_maxrss * 1024 / MIB
        if peak:
            found[what] = round(peak, 1)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        found["gpu"] = round(torch.cuda.max_memory_allocated() / MIB, 1)
    return found


def describe_run(run: Any, device: Any = "cpu") -> dict[str, Any]:
    """Device, versions, peak memory, seed, start and wall time of a sacred run, as plain values."""
    now = datetime.now(UTC).replace(tzinfo=None)  # sacred notes times in UTC without saying so
    started = getattr(run, "start_time", None) or now
    config: Mapping[str, Any] = getattr(run, "config", None) or {}
    return {
        "started": started.isoformat(timespec="seconds") + "Z",
        "wall_time_seconds": round((now - started).total_seconds(), 2),
        "peak_memory_mib": peak_memory(),
        "device": describe_device(device),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "seed": config.get("seed"),
        "versions": library_versions(),
    }
