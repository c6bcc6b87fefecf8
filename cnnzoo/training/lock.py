"""Having a run's folder to oneself."""

import os
import weakref
from pathlib import Path

from cnnzoo.errors import CheckpointError
from cnnzoo.training.checkpoint import FOLDER

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]


class Lock:
    """Keeps all others from a run's folder, until `close`, until nobody has the lock, or this process ends by a kill.

    Parameters
    ----------
    folder : Path
        Of the run, with its folder of checkpoints.

    Raises
    ------
    CheckpointError
        Another one has it.
    OSError
        The folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        descriptor = os.open(folder / FOLDER / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        self._close = weakref.finalize(self, os.close, descriptor)
        if fcntl is None:  # Windows has no such locks
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise CheckpointError(
                f"{folder}: expected a run that nobody has, found it in use by another process, or by a trainer in this"
            ) from None

    def close(self) -> None:
        """Let others have the folder."""
        self._close()
