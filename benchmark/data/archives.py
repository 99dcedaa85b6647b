"""Unpacks official archives into the cache, once and whole, or finds what the user unpacked."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

from benchmark.core.errors import UserError
from benchmark.data.download import md5_of
from benchmark.data.fetch import (
    DATA_VARIABLE,
    DEFAULT_CACHE,
    RemoteFile,
    local,
    locate,
    user_folder,
    wrong_checksum,
)


def unpacked(
    folder: str, archive: RemoteFile, names: Sequence[str], cache: Path = DEFAULT_CACHE
) -> Path:
    """The path of an archive's top folder `folder`, unpacked, with the files or folders `names` in it.

    A folder with all names is taken from `$BENCHMARK_DATA` (<folder>/<folder> or <folder>) or from
    `cache`/<folder>/<folder>. Otherwise the archive is found or downloaded, its checksum compared, and
    unpacked there. Raises UserError if the user's folder has only some names and no archive is beside
    it, or if the archive cannot be had or unpacked.
    """
    target = cache / folder / folder
    own = user_folder()
    for root in (own / folder / folder, own / folder) if own else ():
        missing = [name for name in names if not (root / name).exists()]
        if not missing:
            return root
        if len(missing) < len(names) and not local(folder, archive):
            raise UserError(
                f"{DATA_VARIABLE}: expected {', '.join(names)} in {root}, found no {missing[0]}"
            )
    if not all((target / name).exists() for name in names):
        _unpack(locate(folder, archive, cache), target)
    return target


def unpacked_files(
    folder: str, archive: RemoteFile, files: Sequence[RemoteFile], cache: Path = DEFAULT_CACHE
) -> list[Path]:
    """The paths of files in an archive's top folder, see `unpacked`, each with the right checksum.

    Raises UserError if a file is damaged.
    """
    root = unpacked(folder, archive, [file.path for file in files], cache)
    for file in files:
        if (actual := md5_of(root / file.path)) != file.md5:
            wrong = wrong_checksum(root / file.path, file.md5, actual)
            raise UserError(f"{wrong}; remove {root} to take it from the archive")
    return [root / file.path for file in files]


def _unpack(archive: Path, target: Path) -> None:
    """Unpacks the top folder of the name of `target`."""
    part = target.with_name(f"{target.name}.part")
    try:
        # A killed run leaves the part. A whole folder gets its name in one step, at the end.
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        with tarfile.open(archive) as tar:
            tar.extractall(part, filter="data")
        shutil.rmtree(target, ignore_errors=True)  # it misses files
        (part / target.name).replace(target)
    except (OSError, tarfile.TarError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{archive}: cannot be unpacked into {target} ({reason})") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
