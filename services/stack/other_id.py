"""A program of its own: gets another user id, and becomes the given command.

    python -I -S other_id.py ID DEATH_SIGNAL PARENT COMMAND...

By a user namespace in which this user has that id. Where the machine allows none (Docker's seccomp profile: none) and
this user is root, it is that user, with one of root's capabilities: to go through folders that are private to root.

It is no function between fork and exec, because the kernel lets only a process with a single thread into a namespace
(EINVAL of unshare(2)), and children that were just forked from the supervisor were seen with a second one. Standard
library only.
"""

import ctypes
import os
import struct
import sys

REFUSED = 77  # EX_NOPERM of sysexits.h: the machine allows neither
_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 47, 2
_CAP_DAC_OVERRIDE = 1
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Never returns."""
    other, death_signal, parent, command = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    try:
        (enter_namespace if _allows_namespace(other) else change_user)(other)
    except OSError as error:
        print(f"no user namespace and no other user to run {command[0]} with: {error}", file=sys.stderr)
        sys.exit(REFUSED)
    _libc.prctl(_PR_SET_PDEATHSIG, death_signal)  # after the change of user, which clears it
    if os.getppid() != parent:  # it died before the line above: no signal will come
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606  # the caller's own command line


def _allows_namespace(other: int) -> bool:
    """Tried by a child: who has entered a namespace and is refused the rest can do nothing else any more."""
    child = os.fork()
    if child == 0:
        try:
            enter_namespace(other)
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def enter_namespace(other: int) -> None:
    """Have that id in a user namespace: for everybody outside it is still this user. Raises OSError."""
    uid, gid = os.geteuid(), os.getegid()
    _ask(_libc.unshare, _CLONE_NEWUSER)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/gid_map", f"{other} {gid} 1")
    _write("/proc/self/uid_map", f"{other} {uid} 1")


def change_user(other: int) -> None:
    """Of root: be that user, who may do with files what root may, and nothing else of it (capabilities(7)).

    Raises OSError.
    """
    _ask(_libc.prctl, _PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(other, other, other)
    os.setresuid(other, other, other)
    bit = 1 << _CAP_DAC_OVERRIDE  # effective, permitted, inheritable, each in two words
    _ask(_libc.capset, struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), struct.pack("=6I", bit, bit, bit, 0, 0, 0))
    _ask(_libc.prctl, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0)  # kept by the exec


def _ask(call, *arguments) -> None:  # type: ignore[no-untyped-def]
    if call(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


if __name__ == "__main__":
    main()
