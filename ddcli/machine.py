"""The machine that computes, as far as the system tells."""

import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from .errors import counted

GB = 1e9


def processor() -> str:
    """What its maker calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> tuple[int, int]:
    """Bytes in all, and free; 0 where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        fields = {name: int(rest.split()[0]) * 1024 for name, _, rest in (x.partition(":") for x in lines)}
        allowed = _allowed(fields["MemTotal"])
        return allowed, min(allowed, fields["MemAvailable"])
    except (OSError, KeyError, ValueError):
        sizes = ("SC_PHYS_PAGES", "SC_PAGE_SIZE")
        known = hasattr(os, "sysconf") and all(size in os.sysconf_names for size in sizes)
        return (os.sysconf(sizes[0]) * os.sysconf(sizes[1]) if known else 0), 0


def _allowed(total: int) -> int:
    """Bytes that a container may have, where this is one, of all there are."""
    with suppress(OSError, ValueError):  # it is none, or it may have all
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total


def described(device: torch.device) -> str:
    """What computes, and how much memory it has: `Intel Xeon, 2 threads of 2 cores, 24 GB`."""
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        return f"{about.name}, {about.total_memory / GB:.0f} GB"
    total, _ = memory()
    size = f", {total / GB:.0f} GB" if total else ""
    beside = "" if device.type == "cpu" else f"{device.type} beside "
    threads = f"{counted(torch.get_num_threads(), 'thread')} on {counted(cores(), 'core')}"
    return f"{beside}{processor()}, {threads}{size}"


def versions(*packages: str) -> str:
    """`Python 3.11.2, torch 2.13.0`."""
    return ", ".join(
        [f"Python {platform.python_version()}", *(f"{name} {_version(name)}" for name in packages)]
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed: run from its source)"
