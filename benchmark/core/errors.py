"""The two ways a command ends early: the user's input is wrong, or a check failed."""

from __future__ import annotations

import contextlib
import difflib
import errno
from collections.abc import Collection, Iterable, Iterator


class UserError(Exception):
    """The user's input is wrong: one line with the key, the value and what is allowed (exit 2)."""

    def __init__(self, said: str) -> None:
        # Quoted errors of other libraries may have several lines.
        super().__init__(" ".join(line.strip() for line in str(said).splitlines()))


class ParamsError(UserError):
    """A value of `params.yaml` is wrong. The command line adds the name of the file."""


class CheckFailed(Exception):
    """A check that the command makes failed (exit 1)."""


REFUSALS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
)
"""System errors whose cause is the machine, not the program: a full disk, a read-only folder."""


def refused(error: OSError) -> str:
    """A system error in one line with the file's name."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


@contextlib.contextmanager
def within(where: str) -> Iterator[None]:
    """Puts a place, such as the name of a file, before every UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def check_known(kind: str, names: Iterable[object], allowed: Collection[str]) -> None:
    """Raises UserError for the first name that is not one of `allowed`."""
    for name in names:
        if name not in allowed:
            raise unknown(kind, name, allowed)


def unknown(kind: str, name: object, allowed: Iterable[str]) -> UserError:
    """The error for a name that is not one of `allowed`, with the nearest one suggested."""
    names = sorted(allowed)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UserError(f"unknown {kind} {name!r}{hint} (allowed: {', '.join(names) or 'none'})")
