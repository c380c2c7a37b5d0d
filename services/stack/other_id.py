"""A program of its own: goes into a user namespace in which this user has another id, and becomes the given command.

    python -I -S other_id.py ID DEATH_SIGNAL PARENT COMMAND...

It is no function between fork and exec, because the kernel lets only a process with a single thread go there (EINVAL of
unshare(2)), and children that were just forked from the supervisor were seen with a second one. Standard library only.
"""

import ctypes
import os
import sys

REFUSED = 77  # EX_NOPERM of sysexits.h: the machine allows no user namespace
_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Never returns."""
    other, death_signal, parent, command = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    uid, gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER) != 0:
        _refuse(command, f"unshare: {os.strerror(ctypes.get_errno())}")
    try:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/gid_map", f"{other} {gid} 1")
        _write("/proc/self/uid_map", f"{other} {uid} 1")
    except OSError as error:
        _refuse(command, f"{error}")
    libc.prctl(_PR_SET_PDEATHSIG, death_signal)  # after the change of user, which clears it
    if os.getppid() != parent:  # it died before the line above: no signal will come
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606  # the caller's own command line


def _refuse(command: list[str], why: str) -> None:
    print(f"no user namespace to run {command[0]} in: {why}", file=sys.stderr)
    sys.exit(REFUSED)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


if __name__ == "__main__":
    main()
