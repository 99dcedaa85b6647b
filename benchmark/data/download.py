"""Downloads one file over HTTP. Broken downloads resume; the checksum is compared at the end."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

import requests
import urllib3
from tqdm import tqdm

ATTEMPTS = 4
"""Attempts for each URL."""

PAUSE_S = 0.5
"""Seconds before the second attempt; doubled before each later one."""

TIMEOUT_S = (10.0, 30.0)
"""Seconds to wait for a connection, and for the next bytes of an answer."""

CHUNK = 1 << 20
"""Bytes read at a time."""


class DownloadFailed(Exception):
    """No URL gave the file. The message has the reason for each URL, in one line."""


def download(urls: Sequence[str], target: Path, md5: str) -> None:
    """Downloads the file with this checksum to `target`, from the first of `urls` that has it.

    The received bytes are in `<target>.part`, so a broken download resumes, also in a later run. Raises
    DownloadFailed, or OSError if the file cannot be written.
    """
    failures = []
    if urls:
        target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    for url in urls:
        failure = _try(url, part, md5)
        if failure is None:
            part.replace(target)
            return
        failures.append(f"{url}: {failure}")
    raise DownloadFailed("; ".join(failures) or "no address is known")


def md5_of(path: Path) -> str:
    """The file's md5, in hexadecimal."""
    with path.open("rb") as stream:
        # The authors publish md5. It detects damage, not an attack.
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _try(url: str, part: Path, md5: str) -> str | None:
    """Downloads `part` from one URL; returns the reason if it fails, else None."""
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_S * 2 ** (attempt - 1))
        resumed = part.exists()
        try:
            _transfer(url, part)
        except requests.HTTPError as error:
            status = error.response.status_code
            reason = f"HTTP {status}"
            if 400 <= status < 500 and status not in (408, 429):
                return reason  # another attempt would get the same answer
            continue
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            reason = type(error).__name__  # their messages run over several lines
            continue
        actual = md5_of(part)
        if actual == md5:
            return None
        part.unlink()
        reason = f"expected md5 {md5}, found {actual}"
        if not resumed:
            return reason  # the server's file is wrong
        # The resumed part may have been of another file: start again.
    return reason


def _transfer(url: str, part: Path) -> None:
    """Appends the missing bytes to `part`."""
    have = part.stat().st_size if part.exists() else 0
    # Without `identity` a server may compress the file, and byte ranges would be of the compressed one.
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as answer:
        if answer.status_code == 416 and have:
            return  # nothing is missing, or the part is of another file, which the checksum shows
        answer.raise_for_status()
        if answer.status_code != 206:
            have = 0  # the server cannot resume and sends the whole file
        length = answer.headers.get("Content-Length", "")
        with (
            part.open("ab" if have else "wb") as stream,
            tqdm(
                desc=part.name.removesuffix(".part"),
                total=have + int(length) if length.isdigit() else None,
                initial=have,
                unit="B",
                unit_scale=True,
                disable=None,
            ) as bar,
        ):
            # The raw stream: iter_content would decompress a gzip Content-Encoding.
            for chunk in answer.raw.stream(CHUNK, decode_content=False):
                stream.write(chunk)
                bar.update(len(chunk))
