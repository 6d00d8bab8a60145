"""The lock that allows one process at a time to write into a run folder."""

import errno
import fcntl
import logging
import os
from pathlib import Path

from skyrl_train.tracking.atomic_file import RunFolderError, write_error

LOCK_FILE = ".lock"

logger = logging.getLogger(__name__)


class FolderLock:
    """The lock of a folder; the system releases it when its process ends, even if it is killed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    def is_held(self) -> bool:
        """Whether a live process holds the lock."""
        try:
            descriptor = os.open(self._folder / LOCK_FILE, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            return False
        finally:
            os.close(descriptor)
        return False

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            RunFolderError: another process holds it, or the folder cannot be written.
        """
        path = self._folder / LOCK_FILE
        try:
            # Child programs do not inherit the descriptor; forked children close it below.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise write_error(path, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        except BlockingIOError as error:
            owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise RunFolderError(
                f"the run folder {self._folder} is in use by process {owner}: wait for it, stop it, or choose another "
                "run_folder."
            ) from error
        except OSError as error:
            os.close(descriptor)
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise write_error(path, error) from error
            logger.warning("the file system of %s has no locks; make sure that only one run writes there", self._folder)
            return
        self._descriptor = descriptor
        # Otherwise a forked worker that outlives a killed run would keep the folder locked.
        os.register_at_fork(after_in_child=self.release)

    def release(self) -> None:
        """Release the lock. A second call does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
