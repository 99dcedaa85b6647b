"""Stores the images of a source in shards, as they are decoded. A killed run goes on where it was."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import multiprocessing
import os
import shutil
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

from benchmark.core import canonical_json
from benchmark.core.errors import UserError
from benchmark.data import decode, shards
from benchmark.data.decode import DIGEST, NOTHING, Stored
from benchmark.data.files import Files

if TYPE_CHECKING:
    from benchmark.data.pool import Piece

CHUNK = 32
"""Image files that a worker decodes at a time."""

COPIED = 1 << 26
"""Bytes that are copied at a time from a tensor."""

PARALLEL = 512
"""Fewest image files for which worker processes are started."""

NAMED = 3
"""Number of unreadable files that an error names."""

NOTE = "build.json"
"""What the shards in a folder are made from."""

Submit = Callable[..., "Future[Stored]"]


class Collected(NamedTuple):
    """What is known of all stored images."""

    shards: int
    digests: bytes
    """See `benchmark.data.decode.digests`; of an unreadable image its number."""
    unreadable: dict[int, str]
    """Why an image could not be read, by its number. It is black."""
    enlarged: int
    """How many were smaller than the size asked for."""


def collect(
    pieces: Sequence[Piece], folder: Path, notes: Path, key: Any, earlier: Path
) -> Collected:
    """Stores all images in `folder`, and what is known of them in `notes`.

    `key` names the source and the options that decide its images. If an earlier run had the same key and
    the same files, the shards that it finished, which are in `folder` or in `earlier`, are compared with
    their checksums and not made again. Raises UserError if too many files are unreadable or the disk is
    too small.
    """
    shape = tuple(pieces[0].shape)[-3:]
    size, total = math.prod(shape), sum(map(len, pieces))
    each = max(1, shards.BYTES // size)
    known = _begin(folder, notes, {"key": key, "files": _signature(pieces), "images": each})
    allowed = max((p.skip_unreadable for p in pieces if isinstance(p, Files)), default=0)
    found, count = NOTHING, 0
    with (
        tqdm(total=total, desc=earlier.name, unit="image", disable=None) as bar,
        _workers(pieces) as submit,
    ):
        for begin in range(0, total, each):
            name, rows = shards.file_name(count), min(each, total - begin)
            path, note = folder / name, (notes / name).with_suffix(".json")
            finished = None
            if known:
                _linked(earlier / name, path)
                finished = _finished(path, note, (rows, *shape))
            if finished is None:
                _check_space(folder, (total - begin) * size)
                left = allowed - len(found.unreadable)
                finished = _store(path, pieces, begin, (rows, *shape), submit, bar, left)
                content = {**finished._asdict(), "digests": finished.digests.hex()}
                canonical_json.write(note, json.dumps(content))
            else:
                bar.update(rows)
            found, count = found.then(finished, begin), count + 1
            _check_readable(found.unreadable.values(), allowed)
    digests = bytearray(found.digests)
    for number, said in found.unreadable.items():
        print(f"left out: {said}", file=sys.stderr)
        # Not a copy of a black image, nor of one another.
        digests[number * DIGEST : (number + 1) * DIGEST] = number.to_bytes(DIGEST, "big")
    return Collected(count, bytes(digests), found.unreadable, found.enlarged)


def _store(
    path: Path,
    pieces: Sequence[Piece],
    begin: int,
    shape: tuple[int, ...],
    submit: Submit,
    bar: tqdm[Any],
    allowed: int,
) -> Stored:
    """Makes the shard of `shape` whose first image has the number `begin`."""
    head, size = shards.header(shape), math.prod(shape[1:])
    with _whole(path) as part:
        with part.open("wb") as file:
            file.write(head)
            file.truncate(len(head) + shape[0] * size)
        tasks: list[tuple[int, int, Future[Stored]]] = []
        row = 0
        for piece, first, last in _chunks(pieces, begin, begin + shape[0], size):
            offset = len(head) + row * size
            if isinstance(piece, Files):
                given = str(piece.root), piece.names[first:last], piece.decoding
                task = submit(decode.store, str(part), offset, *given)
            else:
                pixels = piece[first:last].numpy()
                task = _now(
                    lambda *given: Stored(decode.write(*given), {}, 0), str(part), offset, pixels
                )
            tasks.append((row, last - first, task))
            row += last - first
        whole = NOTHING
        for row, count, task in tasks:
            whole = whole.then(task.result(), row)
            _check_readable(whole.unreadable.values(), allowed)
            bar.update(count)
    return whole


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A file to write, which becomes `path` if nothing fails."""
    # Named after the process: a worker of a killed run may still write to its own file.
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _chunks(
    pieces: Sequence[Piece], begin: int, end: int, size: int
) -> Iterator[tuple[Piece, int, int]]:
    """The images from `begin` to `end`, of all pieces, in parts of one piece: from, to in the piece."""
    before = 0
    for piece in pieces:
        step = CHUNK if isinstance(piece, Files) else max(1, COPIED // size)
        first, stop = max(0, begin - before), min(len(piece), end - before)
        for start in range(first, stop, step):
            yield piece, start, min(start + step, stop)
        before += len(piece)


def _begin(folder: Path, notes: Path, described: Any) -> bool:
    """Prepares both folders; whether shards of an earlier run are made from the same files."""
    note, text = notes / NOTE, canonical_json.compact(described)
    known = described["files"] is not None and note.is_file()
    known = known and note.read_text(encoding="utf-8") == text
    if not known:
        shutil.rmtree(folder, ignore_errors=True)
        for old in notes.glob("*.json"):
            old.unlink()
        canonical_json.write(note, text)
    folder.mkdir(exist_ok=True)
    for part in folder.glob("*.part"):
        part.unlink()
    return known


def _linked(earlier: Path, path: Path) -> None:
    """Takes a shard from the data set that is to be replaced, without copying it."""
    if not path.exists():
        with contextlib.suppress(OSError):
            path.hardlink_to(earlier)


def _signature(pieces: Sequence[Piece]) -> str | None:
    """A checksum of the names, sizes and times of all files; None for images that are in memory.

    Raises UserError for a file that has gone since it was found.
    """
    digest = hashlib.sha256()
    for piece in pieces:
        if not isinstance(piece, Files):
            return None
        for name in piece.names:
            path = f"{piece.root}/{name}"
            try:
                found = os.stat(path)  # noqa: PTH116  # a million paths are slow
            except OSError as error:
                # Not an error of the data set, which is written meanwhile.
                raise UserError(
                    f"{path}: {error.strerror}; it was there when the folder was listed: run again"
                ) from error
            line = f"{name}\0{found.st_size}\0{found.st_mtime_ns}\0"
            digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _finished(path: Path, note: Path, shape: tuple[int, ...]) -> Stored | None:
    """What is known of a shard if an earlier run has finished it and it is as that run left it."""
    try:
        known = json.loads(note.read_bytes())
        digests = bytes.fromhex(known["digests"])
        if path.stat().st_size != len(shards.header(shape)) + math.prod(shape):
            return None
        found = b"".join(decode.digests(part) for part in shards.in_parts(path))
    except (OSError, ValueError):
        return None
    if found != digests:
        return None
    unreadable = {int(place): said for place, said in known["unreadable"].items()}
    return Stored(digests, unreadable, known["enlarged"])


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder}: expected {_amount(needed)} free for the images, found {_amount(free)}; "
            "free some, make data a link to a larger disk, or ask for a smaller size"
        )


def _amount(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def _check_readable(unreadable: Collection[str], allowed: int) -> None:
    """Raises UserError if more files than allowed are unreadable."""
    if len(unreadable) > allowed:
        some = list(unreadable)
        more = f" and {len(some) - NAMED} more" if len(some) > NAMED else ""
        hint = "correct or remove such files, or allow some with data.options.skip_unreadable"
        raise UserError(f"{'; '.join(some[:NAMED])}{more}; {hint}")


def _now(call: Callable[..., Stored], *given: Any) -> Future[Stored]:
    """Calls at once."""
    done: Future[Stored] = Future()
    done.set_result(call(*given))
    return done


@contextlib.contextmanager
def _workers(pieces: Sequence[Piece]) -> Iterator[Submit]:
    """Gives work to processes, one for each core, if there are many files to decode."""
    if sum(len(piece) for piece in pieces if isinstance(piece, Files)) < PARALLEL:
        yield _now
        return
    executor = ProcessPoolExecutor(
        len(os.sched_getaffinity(0)), multiprocessing.get_context("forkserver"), _follow
    )
    try:
        yield executor.submit
    except BrokenProcessPool as error:
        raise UserError(
            f"a process that decodes images was killed ({error}); run again to go on"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _follow() -> None:
    """Ends a worker with its parent: one that is killed cannot tell its workers."""

    def watch() -> None:
        if parent := multiprocessing.parent_process():
            wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
