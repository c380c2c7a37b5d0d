"""What happens in a child between fork and exec: own session, a death signal, and for Postgres another user id."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_CLONE_NEWUSER: Final = 0x10000000
_MAPPED_ID: Final = 1000

_libc: Final = ctypes.CDLL(None, use_errno=True)  # loaded before any fork: a child must not import


def child_setup(death_signal: signal.Signals, *, unprivileged: bool) -> Callable[[], None]:
    """A `preexec_fn`: the child leads a process group and gets `death_signal` when its parent dies.

    `unprivileged`: Postgres refuses root, so as root it runs in a user namespace in which root is another user; this
    works in folders that are private to root, too. The death signal comes last: a change of user clears it.
    """
    as_other = unprivileged and os.geteuid() == 0
    parent = os.getpid()

    def setup() -> None:
        os.setsid()
        if as_other:
            if _libc.unshare(_CLONE_NEWUSER) != 0:
                raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWUSER)")
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/gid_map", f"{_MAPPED_ID} 0 1")
            _write("/proc/self/uid_map", f"{_MAPPED_ID} 0 1")
        if sys.platform == "linux":
            _libc.prctl(_PR_SET_PDEATHSIG, int(death_signal))
            if os.getppid() != parent:  # it died before the line above: no signal will come
                os._exit(1)

    return setup


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
