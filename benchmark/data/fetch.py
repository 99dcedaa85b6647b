"""Finds a data set's official files: in the user's folder, in the cache, or on the network.

Whatever the way, a file is used only after its checksum was compared with the authors'.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from benchmark.core.errors import UserError
from benchmark.data.download import DownloadFailed, download, md5_of

DATA_VARIABLE = "BENCHMARK_DATA"
"""Environment variable: a folder with official files, looked in before anything else."""

MIRROR_VARIABLE = "BENCHMARK_MIRROR"
"""Environment variable: a base URL, laid out like that folder, tried before the official URLs."""

DEFAULT_CACHE = Path("data/downloads")
"""Where downloads are kept, relative to the project root that commands run in."""


@dataclass(frozen=True)
class RemoteFile:
    """One official file: its path relative to its folder, its md5 and where it can be had."""

    path: str
    md5: str
    urls: tuple[str, ...] = ()


def locate(folder: str, file: RemoteFile, cache: Path = DEFAULT_CACHE) -> Path:
    """The path of a file whose checksum holds, downloaded to `cache`/`folder` if need be.

    Raises UserError, in one line, if the file is damaged, or is nowhere and cannot be had.
    """
    if found := local(folder, file):
        return found
    target = cache / folder / file.path
    if target.is_file():
        if (actual := md5_of(target)) != file.md5:
            target.unlink()
            raise UserError(
                f"{_wrong(target, file.md5, actual)}; it was removed: run again to download it"
            )
        return target
    try:
        download(_addresses(folder, file), target, file.md5)
    except DownloadFailed as failure:
        root = os.environ.get(DATA_VARIABLE)
        where = f"{DATA_VARIABLE} ({root or 'not set'})"
        raise UserError(
            f"{folder}/{file.path} is not in {where}, not in {cache}, and cannot be downloaded "
            f"({failure}); set {DATA_VARIABLE} to a folder that has {folder}/{file.path}"
        ) from failure
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error})") from error
    return target


def local(folder: str, file: RemoteFile) -> Path | None:
    """The file under `$BENCHMARK_DATA`, as <folder>/<file> or <file>; None if it is not there.

    Raises UserError if the variable names no folder, or the file's checksum is wrong.
    """
    value = os.environ.get(DATA_VARIABLE)
    if not value:
        return None
    root = Path(value).expanduser()
    if not root.is_dir():
        # Going on to download would hide a mistyped path behind a network error.
        raise UserError(f"{DATA_VARIABLE}: expected a folder, found {value!r}, which is not one")
    for path in (root / folder / file.path, root / file.path):
        if path.is_file():
            if (actual := md5_of(path)) != file.md5:
                raise UserError(_wrong(path, file.md5, actual))
            return path
    return None


def _addresses(folder: str, file: RemoteFile) -> tuple[str, ...]:
    mirror = os.environ.get(MIRROR_VARIABLE, "").rstrip("/")
    first = (f"{mirror}/{folder}/{file.path}", f"{mirror}/{file.path}") if mirror else ()
    return (*first, *file.urls)


def _wrong(path: Path, expected: str, actual: str) -> str:
    return f"{path}: expected md5 {expected}, found {actual}"
