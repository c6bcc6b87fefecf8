"""What algorithms were measured to take on this machine, kept in the cache folder."""

import hashlib
import json
import math
from collections.abc import Collection
from typing import Any

from cnnzoo.atomic import write_atomically
from cnnzoo.kernels.compile import cache_directory
from cnnzoo.kernels.vectors import VECTOR_BYTES
from cnnzoo.threads import count_cores, get_num_threads
from cnnzoo.versions import cpu_name, list_versions

_PACKAGES = ("numpy", "numba", "llvmlite")


def describe_conditions() -> dict[str, Any]:
    """Return what measured times depend on: the machine, the threads, the kernels and what compiled them."""
    return {
        "cpu": cpu_name(),
        "cores": count_cores(),
        "vector_bytes": VECTOR_BYTES,
        "threads": get_num_threads(),
        "kernels": cache_directory().name,  # carries a hash of their sources
        "versions": list_versions(_PACKAGES),
    }


class Measurements:
    """The seconds that each algorithm takes for each pass, of one machine and number of threads; in a file of its own.

    Attributes
    ----------
    path : Path
        The file, in the cache folder. Its name carries a hash of the conditions.
    ignored : str or None
        Why something that the file held is not used.
    """

    def __init__(self) -> None:
        self._conditions = describe_conditions()
        digest = hashlib.sha256(json.dumps(self._conditions, sort_keys=True).encode()).hexdigest()
        self.path = cache_directory() / f"tuning-{digest[:16]}.json"
        self.ignored: str | None = None
        self._seconds: dict[str, Any] = self._read()

    def find(self, measured_pass: str, algorithms: Collection[str]) -> dict[str, float] | None:
        """Return the seconds of each of the `algorithms` for a pass, by its name; None where they are not known."""
        found = self._seconds.get(measured_pass)
        if found is None:
            return None
        if not isinstance(found, dict) or found.keys() != set(algorithms) or not all(map(_is_time, found.values())):
            self.ignored = f"{self.path}: {measured_pass}: expected seconds of {', '.join(algorithms)}, got {found}"
            return None
        return found

    def add(self, measured_pass: str, seconds: dict[str, float]) -> None:
        """Keep what was measured for a pass, on disk too if that can be written, beside what others kept meanwhile."""
        self._seconds = self._read() | self._seconds | {measured_pass: seconds}
        content = {"conditions": self._conditions, "seconds": self._seconds}
        try:
            write_atomically(self.path, json.dumps(content, indent=1).encode() + b"\n")
        except OSError as error:  # it saves time alone
            self.ignored = f"{self.path}: {error.strerror}: what is measured is not kept"

    def _read(self) -> dict[str, Any]:
        """Return what the file holds; nothing, and the reason in `ignored`, where it cannot be used."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            conditions, seconds = dict(content["conditions"]), dict(content["seconds"])
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError):
            self.ignored = f"{self.path}: expected measurements of algorithms, found something else"
            return {}
        differences = [
            f"{name} {value}, got {conditions.get(name)}"
            for name, value in self._conditions.items()
            if conditions.get(name) != value
        ]
        if differences:
            self.ignored = f"{self.path}: expected measurements with {'; '.join(differences)}"
            return {}
        return seconds


def _is_time(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value) and value > 0
