"""Finds a user's images: a folder for each class, or such folders in a folder for each split."""

from __future__ import annotations

import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.core.errors import ParamsError, UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff")

WORDS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
"""Words in the names of split folders, such as `train` or `dataset_train`, and the split of each."""

NEEDED = {"all": ("train", "validation", "test"), "train": ("train", "validation")}
"""The splits that a part is divided into. Other parts are one split."""

NAMED = 3
"""Number of unreadable entries that an error names."""


@dataclass(frozen=True)
class Found:
    """The images of a user's folder.

    parts: by part (`all`, or the official splits) and class, sorted by name; the images of a class are
    sorted by path. ignored: numbers of other files, by suffix.
    """

    parts: dict[str, dict[str, list[Path]]]
    ignored: dict[str, int]


def find(root: Path) -> Found:
    """The images in `root`. Links are followed; hidden files and folders are skipped.

    Raises UserError for an entry that cannot be read, for split folders that are not a whole official
    split, for fewer than two classes and for a class with too few images.
    """
    listing = _Listing()
    folders = listing.loose(root)
    splits = _splits(root, folders, listing) or {"all": root}
    parts = {}
    for part, folder in splits.items():
        classes = folders if folder == root else listing.loose(folder)
        parts[part] = {child.name: listing.images(child) for child in classes}
    listing.check()
    ignored = dict(sorted(listing.ignored.items()))
    _check(parts, splits, ignored)
    return Found(parts, ignored)


@dataclass
class _Listing:
    """Lists folders, and collects unreadable entries and the counts of other files."""

    problems: list[str] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)

    def loose(self, folder: Path) -> list[Path]:
        """The folders in a folder. Files in it are ignored."""
        folders, files = self.entries(folder)
        self.ignored.update(f"{_suffix(file)} outside the class folders" for file in files)
        return folders

    def images(self, folder: Path) -> list[Path]:
        """The images of a class, sorted by path."""
        if folder.name != _printable(folder.name):
            self.problems.append(f"{folder} (its name is not UTF-8)")
            return []
        return sorted(self._walk(folder, (folder.parent.resolve(),)), key=Path.as_posix)

    def check(self) -> None:
        """Raises UserError if an entry cannot be read."""
        if self.problems:
            more = len(self.problems) - NAMED
            said = ", ".join(self.problems[:NAMED]) + (f" and {more} more" if more > 0 else "")
            raise UserError(_printable(f"cannot read {said}: correct, rename or remove them"))

    def _walk(self, folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
        """The images in a folder and its subfolders; `above` are the folders it is in, resolved."""
        resolved = folder.resolve()
        if any(other.is_relative_to(resolved) for other in above):
            self.problems.append(f"{folder} (a link to a folder that it is in)")
            return
        folders, files = self.entries(folder)
        for file in files:
            if file.suffix.lower() in SUFFIXES:
                yield file
            else:
                self.ignored[_suffix(file)] += 1
        for child in folders:
            yield from self._walk(child, (*above, resolved))

    def entries(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """The folders and files in a folder, without hidden ones, sorted by name."""
        folders, files = [], []
        try:
            children = sorted(folder.iterdir(), key=lambda child: child.name)
        except OSError as error:
            self.problems.append(f"{folder} ({error.strerror})")
            children = []
        for child in children:
            if child.name.startswith("."):
                continue
            try:
                mode = child.stat().st_mode
            except OSError as error:
                link = "a link to nothing: " if child.is_symlink() else ""
                self.problems.append(f"{child} ({link}{error.strerror})")
                continue
            if stat.S_ISDIR(mode):
                folders.append(child)
            elif stat.S_ISREG(mode):
                files.append(child)
            else:
                self.problems.append(f"{child} (neither a file nor a folder)")
        return folders, files


def _splits(root: Path, folders: Sequence[Path], listing: _Listing) -> dict[str, Path]:
    """The split folders by split, empty if the folders are classes.

    Two or more folders named after different splits are split folders if one of them has subfolders,
    or if there are no other folders. A class may be called `train`.
    """
    found = {folder: _words(folder.name) for folder in folders}
    named = [folder for folder, words in found.items() if words]
    if len(named) < 2 or len(set().union(*found.values())) < 2:
        return {}
    inside = [child for folder in named for child in listing.entries(folder)[0]]
    listing.check()
    if named != list(folders) and not inside:
        return {}
    splits = {next(iter(words)): folder for folder, words in found.items() if len(words) == 1}
    if len(splits) < len(folders) or not {"train", "test"} <= set(splits):
        raise ParamsError(
            f"data.options.path: {root} has the folders {', '.join(f.name for f in folders)}, of "
            f"which {', '.join(f.name for f in named)} are named after splits; expected train and "
            "test, or train, validation and test, each once and nothing else; or let the path lead "
            "to one of them, for the benchmark to split"
        )
    return {split: splits[split] for split in NEEDED["all"] if split in splits}


def _words(name: str) -> set[str]:
    return {WORDS[word] for word in re.findall("[a-z]+", name.lower()) if word in WORDS}


def _check(
    parts: Mapping[str, Mapping[str, Sequence[Path]]],
    folders: Mapping[str, Path],
    ignored: Mapping[str, int],
) -> None:
    """Raises UserError unless each part has the same two or more classes with enough images."""
    for part, classes in parts.items():
        if len(classes) < 2:
            wanted = "at least 2 class folders" if classes else "a folder for each class"
            found = f"1 ({next(iter(classes))})" if classes else "none"
            raise ParamsError(
                f"data.options.path: expected {wanted} in {folders[part]}, found {found}"
            )
    known = {name: part for part, classes in parts.items() for name in classes}
    for part, classes in parts.items():
        for name, other in known.items():
            if name not in classes:
                raise UserError(
                    f"class {name!r} is in {folders[other]} and not in {folders[part]}; expected "
                    "the same classes in each split"
                )
        splits = (part,) if "validation" in parts else NEEDED.get(part, (part,))
        for name, members in classes.items():
            if len(members) < len(splits):
                left = f"; ignored files: {listed(ignored)}" if ignored else ""
                raise UserError(
                    f"class {name!r}: expected at least {len(splits)} images in "
                    f"{folders[part] / name}, one for each of {', '.join(splits)}, found "
                    f"{len(members)}{left}"
                )


def listed(ignored: Mapping[str, int]) -> str:
    """E.g. `1 .heic, 3 .txt`."""
    return ", ".join(f"{number} {suffix}" for suffix, number in ignored.items())


def _suffix(file: Path) -> str:
    return _printable(file.suffix.lower()) or "without a suffix"


def _printable(name: str) -> str:
    """A name with its bytes that are not UTF-8 written out."""
    return name.encode("utf-8", "backslashreplace").decode()
