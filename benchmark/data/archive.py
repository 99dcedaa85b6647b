"""Reads members of an archive without unpacking it."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from benchmark.core.errors import UserError


def read_members(archive: Path, names: Collection[str]) -> dict[str, bytes]:
    """The named members of a tar.gz archive, in memory: nothing is written to the disk.

    Raises UserError if the archive is unreadable, lacks a member, or holds any name that would
    lead outside the folder it is unpacked in: the authors' archives hold none.
    """
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if not _safe(member.name):
                    raise UserError(
                        f"{archive}: expected names inside the archive, found {member.name!r}"
                    )
                # Only plain files: a link could stand for any other path.
                if member.name in names and member.isreg():
                    stream = tar.extractfile(member)
                    found[member.name] = stream.read() if stream else b""
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{archive}: expected a tar.gz archive, found {error}") from error
    if missing := sorted(set(names) - set(found)):
        raise UserError(f"{archive}: expected the file {missing[0]} in it, found none")
    return found


def _safe(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name
