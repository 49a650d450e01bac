"""One process at a time on a file that is filled in place; the lock ends with its process."""

import fcntl
import logging
import os
import weakref
from pathlib import Path
from typing import BinaryIO

logger = logging.getLogger(__name__)


def _let_go(file: BinaryIO, path: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked worker has only a copy
        path.unlink(missing_ok=True)
    file.close()


class Lock:
    """A claim on `path`, by a lock on `.<name>.lock` beside it; the same process may claim twice.

    Locks of POSIX: forked workers do not hold them, a killed process lets go of them.
    """

    def __init__(self, path: str | Path, wait: bool = True) -> None:
        """Takes the lock; `wait`: for another process that has it, else RuntimeError."""
        self.path = Path(path)
        self.file_path = self.path.with_name(f".{self.path.name}.lock")
        self.file_path.parent.mkdir(parents=True, exist_ok=True)
        file = self._take(wait)
        while file is None:
            file = self._take(wait)
        self._let_go = weakref.finalize(self, _let_go, file, self.file_path, os.getpid())

    def _take(self, wait: bool) -> BinaryIO | None:
        """The locked file; None when its last holder has taken it away meanwhile."""
        file = self.file_path.open("ab")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if not isinstance(error, BlockingIOError | PermissionError):
                file.close()
                raise
            if not wait:
                file.close()
                raise RuntimeError(
                    f"another process writes to {self.path}; let it end first, or name another "
                    "place"
                ) from error
            logger.info("another process writes to %s; waiting for it", self.path)
            fcntl.lockf(file, fcntl.LOCK_EX)
        if self.file_path.exists() and os.path.samestat(
            os.fstat(file.fileno()), self.file_path.stat()
        ):
            return file
        file.close()
        return None

    def release(self) -> None:
        """Let go, and take the file of the lock away; does nothing a second time."""
        self._let_go()

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
