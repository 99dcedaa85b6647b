"""Files with a backbone's initial weights: where they are, and that they are the declared ones.

Needs no torch. `benchmark.backbones.weights` reads the tensors.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.core.errors import UserError
from benchmark.core.value import Value

HUB = "hf-hub:"
"""The start of names of files on the Hugging Face hub: `hf-hub:OWNER/NAME`, `@REVISION` may follow."""

HUB_NAME = re.compile(rf"{HUB}[\w.-]+/[\w.-]+(@\S+)?")

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""The names of timm's files there, the best first."""

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".pth.tar")


class Loaded(Value):
    """What became of the tensors of a file, by timm's names."""

    tensors: int
    """How many of them the network has."""
    left_out: tuple[str, ...]
    """Those of its classifier, of its norms where the norm there has no such tensor, and those that
    timm's conversion drops."""
    initial: tuple[str, ...]
    """Tensors of norms that the file lacks, which keep their initial values."""
    changed: tuple[str, ...]
    """What was changed to fit the network, e.g. `conv1.weight: (64, 3, 7, 7) → (64, 1, 7, 7)`."""

    def __str__(self) -> str:
        """For a person: with the first names of long lists."""
        said = {
            "left out": self.left_out,
            "kept at their initial values": self.initial,
            "changed": self.changed,
        }
        more = [f"{what}: {few(names)}" for what, names in said.items() if names]
        return "; ".join([f"{self.tensors} tensors loaded", *more])


def few(names: Sequence[str], shown: int = 4) -> str:
    """The first of many names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def check(weights: str, sha256: str | None) -> None:
    """Raises UserError for a name that cannot be that of weights, and if `sha256` is missing.

    The message then has the checksum of the file, which is read for it and for nothing else.
    """
    if not (HUB_NAME.fullmatch(weights) or (weights.endswith(SUFFIXES) and HUB not in weights)):
        raise UserError(
            f"weights is {weights!r}, expected a file whose name ends in {', '.join(SUFFIXES)}, or "
            f"{HUB}OWNER/NAME"
        )
    if sha256 is None:
        found = hashlib.sha256(read(weights)).hexdigest()
        raise UserError(f"weights has no sha256 beside it; that of the file is `sha256: {found}`")


def read(weights: str, sha256: str | None = None) -> bytes:
    """The bytes of the file with the weights, from the hub if they are named so.

    Raises UserError if it is not there, cannot be read, or has another checksum than `sha256`.
    """
    if weights.startswith(HUB):
        content = _from_hub(weights, sha256)
    else:
        try:
            content = Path(weights).expanduser().read_bytes()
        except RuntimeError as error:  # of an unknown user's home
            raise UserError(f"weights is {weights!r}: {error}") from None
        except OSError as error:
            raise UserError(f"weights is {weights!r}: {error.strerror or error}") from None
    found = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, found):
        raise UserError(f"weights is {weights!r}: its sha256 is {found}, expected {sha256}")
    return content


def _from_hub(weights: str, sha256: str | None) -> bytes:
    """The file on the hub: that in the cache of huggingface_hub if it is the one, or the newest."""
    from huggingface_hub.utils import logging

    with contextlib.suppress(OSError, ValueError):  # it is not there, or has no such name
        content = _fetched(weights, local_files_only=True).read_bytes()
        if sha256 in (None, hashlib.sha256(content).hexdigest()):
            return content
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # each of its attempts would be a line
    try:
        return _fetched(weights).read_bytes()
    except Exception as error:
        # A network, a proxy, a server or a name can be wrong in many ways.
        said = str(error).strip().partition("\n")[0]
        raise UserError(
            f"weights is {weights!r}, and it cannot be downloaded ({type(error).__name__}: {said}); "
            "a path to a copy of the file does as well"
        ) from None
    finally:
        logging.set_verbosity(verbosity)


def _fetched(weights: str, **how: Any) -> Path:
    """The path of the first of `HUB_FILES` that the hub, or its local cache, has."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, _, revision = weights.removeprefix(HUB).partition("@")

    def fetch(file: str) -> Path:
        found = huggingface_hub.hf_hub_download(repository, file, revision=revision or None, **how)
        return Path(found)

    try:
        return fetch(HUB_FILES[0])
    except EntryNotFoundError as error:
        # Without a network it is not known whether the hub has the other one.
        if isinstance(error, LocalEntryNotFoundError) and not how:
            raise
        return fetch(HUB_FILES[1])
