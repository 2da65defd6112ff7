"""Exec a program that dies with its parent, under another account if asked. Run as a script, standard library only.

In: `PARENT_PID DEATH_SIGNAL ACCOUNT -- PROGRAM ARGS…`, where ACCOUNT is `UID:GID` or `-` for the caller's own.
Out: the program itself, under the same process id.
"""

import ctypes
import os
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def launch_command(program: Sequence[str], *, account: tuple[int, int] | None, death_signal: int) -> list[str]:
    """The argv that starts `program` as a child which cannot outlive this process.

    The kernel watches the *thread* that starts the child: start it from one that lives as long as the process.
    """
    as_whom = "-" if account is None else f"{account[0]}:{account[1]}"
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(death_signal), as_whom, "--", *program]


def _become(account: str) -> None:
    uid, gid = (int(part) for part in account.split(":"))
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def die_with(parent: int, death_signal: int) -> None:
    """Have the kernel send this process a signal when `parent`'s calling thread ends; leave if it has ended already."""
    # Changing the account clears the setting, so this comes after it. Elsewhere than on Linux the supervisor's own
    # shutdown has to do.
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


def main(argv: Sequence[str]) -> None:
    """Replace this process by the program named in `argv`; exits 126 with the reason if that cannot be done."""
    parent, death_signal, account, _, *program = argv
    try:
        if account != "-":
            _become(account)
        die_with(int(parent), int(death_signal))
        os.execvp(program[0], program)  # noqa: S606 - the program comes from our own supervisor
    except OSError as error:
        sys.stderr.write(f"cannot start {program[0]} as account {account}: {error}\n")
        sys.exit(126)


if __name__ == "__main__":
    main(sys.argv[1:])
