"""What a run runs in: written down, so that its results can be traced and repeated."""

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from cnnzoo.data import Dataset
from cnnzoo.memory import peak_memory_above
from cnnzoo.threads import get_num_threads
from cnnzoo.versions import cpu_name, list_versions


def describe_environment(
    dataset: Dataset,
    fingerprint: str,
    algorithms: Mapping[str, Sequence[str]],
    resident_before: int | None,
    ranks: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the versions, the machine, the data, the algorithms and the command, as plain values for JSON.

    Parameters
    ----------
    dataset : Dataset
    fingerprint : str
        Of the data, see `Dataset.fingerprint`.
    algorithms : mapping from str to sequence of str
        Those chosen so far, see `Network.algorithms`.
    resident_before : int or None
        Bytes that the process held before the run.
    ranks : sequence of mapping from str to object
        As `Engine.members`.
    """
    packages = ("cnnzoo", "numpy", "numba", "llvmlite", "safetensors")
    return {
        "versions": {"python": platform.python_version()} | list_versions(packages),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory": _memory_bytes(),
        "peak_memory": peak_memory_above(resident_before),
        "threads": get_num_threads(),
        "ranks": [dict(rank) for rank in ranks],
        "data": {
            "name": dataset.name,
            "source": dataset.source,
            "train_images": len(dataset.train),
            "test_images": len(dataset.test),
            "sha256": fingerprint,
        },
        "command": sys.argv,
        "algorithms": {layer: list(names) for layer, names in algorithms.items()},
    }


def _memory_bytes() -> int | None:
    """Return the machine's memory; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
