"""Finds a data set's official files: in the user's folder, in the cache, or on the network.

A file is used only if its checksum is that of the authors.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from benchmark.core.errors import UserError
from benchmark.data.download import DownloadFailed, download, md5_of

DATA_VARIABLE = "BENCHMARK_DATA"
"""Environment variable: a folder with official files, searched first."""

MIRROR_VARIABLE = "BENCHMARK_MIRROR"
"""Environment variable: a base URL with the same layout, tried before the official URLs."""

DEFAULT_CACHE = Path("data/downloads")
"""The folder of downloads, relative to the project."""


@dataclass(frozen=True)
class RemoteFile:
    """One official file: its path in its folder, its md5 and its URLs."""

    path: str
    md5: str
    urls: tuple[str, ...] = ()


def locate(folder: str, file: RemoteFile, cache: Path = DEFAULT_CACHE) -> Path:
    """The path of a file with the right checksum, downloaded to `cache`/`folder` if needed.

    Raises UserError if the file is damaged, or is missing and cannot be downloaded.
    """
    if found := local(folder, file):
        return found
    target = cache / folder / file.path
    if target.is_file():
        if (actual := md5_of(target)) != file.md5:
            target.unlink()
            raise UserError(
                f"{wrong_checksum(target, file.md5, actual)}; it was removed: run again to download it"
            )
        return target
    mirror = os.environ.get(MIRROR_VARIABLE, "").rstrip("/")
    mirrored = (f"{mirror}/{folder}/{file.path}", f"{mirror}/{file.path}") if mirror else ()
    try:
        download((*mirrored, *file.urls), target, file.md5)
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

    Raises UserError if the variable does not name a folder, or the checksum is wrong.
    """
    root = user_folder()
    if not root:
        return None
    for path in (root / folder / file.path, root / file.path):
        if path.is_file():
            if (actual := md5_of(path)) != file.md5:
                raise UserError(wrong_checksum(path, file.md5, actual))
            return path
    return None


def user_folder() -> Path | None:
    """The folder that `$BENCHMARK_DATA` names, None if the variable is not set.

    Raises UserError if it names something else.
    """
    value = os.environ.get(DATA_VARIABLE)
    if not value:
        return None
    root = Path(value).expanduser()
    if not root.is_dir():
        # A download would hide a mistyped path behind a network error.
        raise UserError(f"{DATA_VARIABLE}: expected a folder, found {value!r}, which is not one")
    return root


def wrong_checksum(path: Path, expected: str, actual: str) -> str:
    """The message for a file with another checksum."""
    return f"{path}: expected md5 {expected}, found {actual}"
