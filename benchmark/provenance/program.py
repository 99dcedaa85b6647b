"""The program that runs: its commit, whether the tree was clean, its lock, and its image."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tomllib
from importlib.metadata import distributions
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict

IMAGE = Path("/opt/benchmark/image.json")
"""The file in which the Dockerfile writes the commit, the lock's checksum and the base."""

IMAGE_ID = "BENCHMARK_IMAGE_ID"
"""The environment variable for the image's ID, which an image does not contain."""

RESULTS = (":(exclude)results", ":(exclude,glob)**/dvc.lock", ":(exclude)README.md")
"""Files that a run of the pipeline writes or that only describe it: changes there do not count."""

CODE = Path(__file__).resolve().parents[2]
"""The top of the checkout of this program, or the folder of installed packages."""


class Image(BaseModel):
    """The image that a program runs in."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    commit: str
    """The commit that it was built from."""
    lock_sha256: str
    base: str
    base_digest: str
    id: str | None = None


class Program(BaseModel):
    """A program that makes records. Null where it is not known."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    commit: str | None = None
    dirty: bool | None = None
    """Whether the checkout had changes that are in no commit."""
    lock_sha256: str | None = None
    """sha256 of the program's uv.lock."""
    as_locked: bool | None = None
    """Whether every installed package that the lock names has a version that it names."""
    image: Image | None = None
    """Null outside of an image."""
    reconstructed: bool = False
    """Whether only the commit that published the record is known, from the history."""


def program() -> Program:
    """The program that is running."""
    image = _image()
    commit, dirty = _commit(CODE)
    lock = CODE / "uv.lock"
    lock_sha256 = hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else None
    if commit is None and image and (lock_sha256 is None or IMAGE.parent == CODE):
        # The image's own program, which was built from a commit without changes.
        commit, dirty, lock = image.commit, False, IMAGE.parent / "uv.lock"
        lock_sha256 = image.lock_sha256
    return Program(
        commit=commit,
        dirty=dirty,
        lock_sha256=lock_sha256,
        as_locked=as_locked(lock) if lock.is_file() else None,
        image=image,
    )


def as_locked(lock: Path) -> bool:
    """Whether the installed packages have the versions of a uv.lock, without local labels (+cu130)."""
    locked = versions(lock)
    return all(
        found.version.split("+")[0] in locked[name]
        for found in distributions()
        if (name := str(found.metadata["Name"]).lower().replace("_", "-")) in locked
    )


def versions(lock: Path) -> dict[str, set[str]]:
    """The versions of each package in a uv.lock; some have one for each version of Python."""
    found: dict[str, set[str]] = {}
    if lock.is_file():
        for package in tomllib.loads(lock.read_text(encoding="utf-8"))["package"]:
            found.setdefault(package["name"], set()).add(package.get("version", ""))
    return found


def _image() -> Image | None:
    try:
        image = Image.model_validate_json(IMAGE.read_bytes())
    except (OSError, ValueError):
        return None
    return image.model_copy(update={"id": os.environ.get(IMAGE_ID) or None})


def _commit(top: Path) -> tuple[str | None, bool | None]:
    """A checkout's commit and whether it has changes, untracked files included."""
    if not (top / ".git").exists():
        return None, None
    if shutil.which("git") is None:
        return _commit_without_git(top)
    commit = _git(top, "rev-parse", "HEAD")
    changed = _git(top, "status", "--porcelain", "--", ".", *RESULTS)
    return commit or None, None if changed is None else bool(changed)


def _commit_without_git(top: Path) -> tuple[str | None, bool | None]:
    """The same by the library that DVC uses, since the image has no git."""
    from dulwich import porcelain
    from dulwich.repo import Repo

    try:
        with Repo(str(top)) as repository:
            commit = repository.head().decode()
            found = porcelain.status(repository, untracked_files="all")
    except Exception:  # a damaged repository: unknown
        return None, None
    staged = [path for of in found.staged.values() for path in of]
    paths = [os.fsdecode(path) for path in [*staged, *found.unstaged, *found.untracked]]
    return commit, not all(_is_result(path) for path in paths)


def _is_result(name: str) -> bool:
    path = PurePosixPath(name)
    return path.parts[0] == "results" or path.name == "dvc.lock" or name == "README.md"


def _git(top: Path, *arguments: str) -> str | None:
    command = ["git", "-c", f"safe.directory={top}", "-C", str(top), *arguments]
    # Without GIT_DIR and the like, which a hook of another repository sets.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
