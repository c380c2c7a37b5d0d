"""How processes are started: with a session of their own, a death signal, and for Postgres another user id."""

import ctypes
import os
import pwd
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Final

from services.stack import other_id

_PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None)  # loaded before any fork: a child must not import


def child_setup(death_signal: signal.Signals) -> Callable[[], None]:
    """A `preexec_fn`: the child leads a process group and gets `death_signal` when its parent dies."""
    parent = os.getpid()

    def setup() -> None:
        os.setsid()
        if sys.platform == "linux":
            _libc.prctl(_PR_SET_PDEATHSIG, int(death_signal))
            if os.getppid() != parent:  # it died before the line above: no signal will come
                os._exit(1)

    return setup


def unprivileged(command: Sequence[str], death_signal: signal.Signals) -> list[str]:
    """The command line that runs this command, whose program is a path, as a user whom Postgres does not refuse.

    It refuses root, and initdb an id without a name (as `docker run --user` gives). Then it runs in a user namespace in
    which this user has another id, or, of root, as another user; both work in folders that are private to root, too.
    Ends with `other_id.REFUSED` where the machine allows neither.
    """
    if _is_welcome(os.geteuid()):
        return list(command)
    numbers = map(str, (_known_id(), int(death_signal), os.getpid()))
    return [sys.executable, "-I", "-S", other_id.__file__, *numbers, *command]


def _is_welcome(uid: int) -> bool:
    return uid != 0 and any(user.pw_uid == uid for user in pwd.getpwall())


def _known_id() -> int:
    return next((user.pw_uid for user in pwd.getpwall() if user.pw_uid != 0), 65534)
