"""What happens in a child between fork and exec: own session, a death signal, and for Postgres another user id."""

import ctypes
import os
import pwd
import signal
import sys
from collections.abc import Callable
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_CLONE_NEWUSER: Final = 0x10000000
_libc: Final = ctypes.CDLL(None, use_errno=True)  # loaded before any fork: a child must not import


def child_setup(death_signal: signal.Signals, *, unprivileged: bool) -> Callable[[], None]:
    """A `preexec_fn`: the child leads a process group and gets `death_signal` when its parent dies.

    `unprivileged`: Postgres refuses root, and initdb an id without a name (as `docker run --user` gives). Then it runs
    in a user namespace in which this user has another id; that works in folders that are private to root, too. The
    death signal comes last: a change of user clears it.
    """
    uid, gid, parent = os.geteuid(), os.getegid(), os.getpid()
    other = _known_id() if unprivileged and not _is_welcome(uid) else None

    def setup() -> None:
        try:
            prepare()
        except Exception as error:  # subprocess says no more than that there was one: the reason goes to its log
            os.write(2, f"cannot prepare this process: {error!r}\n".encode())
            raise

    def prepare() -> None:
        os.setsid()
        if other is not None:
            if _libc.unshare(_CLONE_NEWUSER) != 0:
                raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWUSER)")
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/gid_map", f"{other} {gid} 1")
            _write("/proc/self/uid_map", f"{other} {uid} 1")
        if sys.platform == "linux":
            _libc.prctl(_PR_SET_PDEATHSIG, int(death_signal))
            if os.getppid() != parent:  # it died before the line above: no signal will come
                os._exit(1)

    return setup


def _is_welcome(uid: int) -> bool:
    return uid != 0 and any(user.pw_uid == uid for user in pwd.getpwall())


def _known_id() -> int:
    return next((user.pw_uid for user in pwd.getpwall() if user.pw_uid != 0), 65534)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
