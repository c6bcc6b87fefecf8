"""How much memory this process holds, and how much it may still take."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def resident_memory(peak: bool = False, proc: Path = Path("/proc")) -> int | None:
    """Return the bytes of memory that this process holds now, or held at its peak.

    Where the system tells the peak alone, it is the peak in either case; None where it tells neither.
    """
    try:
        fields = dict(line.split(":", 1) for line in (proc / "self/status").read_text().splitlines())
        return int(fields["VmHWM" if peak else "VmRSS"].split()[0]) * 1024
    except (OSError, KeyError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_memory_above(before: int | None) -> int | None:
    """Return the most bytes that this process has held so far, above those `before`; None where they are not known."""
    peak = resident_memory(peak=True)
    return None if before is None or peak is None else peak - before


def free_memory(proc: Path = Path("/proc"), cgroups: Path = _ROOT) -> int | None:
    """Return the bytes that can be allocated without swapping or being killed; None where the system does not tell.

    The least of what the machine has available, what the control groups that the process is in leave (containers and
    batch systems set such limits), and what its own limit on address space leaves.

    Parameters
    ----------
    proc, cgroups : Path
        Where Linux tells it.
    """
    found = [value for value in (_available(proc), _address_space(proc)) if value is not None]
    found += list(_left_by_groups(proc, cgroups))
    return max(0, min(found)) if found else None


def _available(proc: Path) -> int | None:
    try:
        match = re.search(r"^MemAvailable:\s+(\d+) kB", (proc / "meminfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return int(match[1]) * 1024 if match else None


def _address_space(proc: Path) -> int | None:
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return None
        return limit - int((proc / "self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, OSError):
        return None


def _left_by_groups(proc: Path, cgroups: Path) -> Iterator[int]:
    """Return what is left in each group from the process's up to the root; files that can be dropped do not count."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = cgroups, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top, names = cgroups / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder == top or top in folder.parents:
                yield from _left(folder, *names)


def _left(folder: Path, limit_name: str, usage_name: str, droppable_name: str) -> Iterator[int]:
    try:
        limit, usage = (folder / limit_name).read_text().strip(), (folder / usage_name).read_text()
        match = re.search(rf"^{droppable_name} (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
    except OSError:
        return  # this level has no limit
    if limit != "max":
        yield int(limit) - int(usage) + (int(match[1]) if match else 0)
