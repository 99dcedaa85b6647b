"""Finds a user's images: a folder for each class, or such folders in a folder for each split."""

from __future__ import annotations

import os
import re
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


def existing(given: str) -> Path | None:
    """The folder that a user's path leads to, None if it leads to none."""
    # A path with an unknown user, or too long for the system, leads to no folder either.
    path = Path(os.path.expanduser(given))  # noqa: PTH111  # Path.expanduser raises
    return path if given and os.path.isdir(path) else None  # noqa: PTH112  # Path.is_dir raises


@dataclass(frozen=True)
class Found:
    """The images of a user's folder.

    parts: by part (`all`, or the official splits) and class, sorted by name, the paths of the images
    relative to `root`, sorted. Strings, since a million `Path` objects take half a gigabyte. ignored:
    numbers of other files, by suffix.
    """

    root: Path
    parts: dict[str, dict[str, list[str]]]
    ignored: dict[str, int]

    @property
    def names(self) -> list[str]:
        """The paths of all images, in their order."""
        return [
            name for part in self.parts.values() for members in part.values() for name in members
        ]


def find(root: Path, official: Mapping[str, str] | None = None) -> Found:
    """The images in `root`. Links are followed; hidden files and folders are skipped.

    `official` has the names of the split folders by split, if these are fixed. Raises UserError for an
    entry that cannot be read, for split folders that are not a whole official split, for fewer than two
    classes, classes whose names differ only in case, and a class with too few images.
    """
    listing = _Listing(root)
    folders = listing.loose(root)
    if official:
        names = {folder.name for folder in folders}
        if missing := [name for name in official.values() if name not in names]:
            raise ParamsError(
                f"data.options.path: expected the folders {' and '.join(official.values())} in {root}, "
                f"found no {missing[0]}"
            )
        splits = {split: root / name for split, name in official.items()}
    else:
        splits = _splits(root, folders, listing) or {"all": root}
    parts = {}
    for part, folder in splits.items():
        classes = folders if folder == root else listing.loose(folder)
        parts[part] = {child.name: listing.images(child) for child in classes}
    listing.check()
    ignored = dict(sorted(listing.ignored.items()))
    _check(parts, splits, ignored)
    return Found(root, parts, ignored)


def find_unlabelled(root: Path) -> tuple[list[str], dict[str, int]]:
    """The images in a folder and its subfolders, and the numbers of other files, as in `Found`."""
    listing = _Listing(root)
    names = listing.images(root)
    listing.check()
    ignored = dict(sorted(listing.ignored.items()))
    if not names:
        left = f"; ignored files: {listed(ignored)}" if ignored else ""
        raise ParamsError(f"data.options.train: expected images in {root}, found none{left}")
    return names, ignored


@dataclass
class _Listing:
    """Lists folders, and collects unreadable entries and the counts of other files."""

    root: Path
    problems: list[str] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)

    def loose(self, folder: Path) -> list[Path]:
        """The folders in a folder. Files in it are ignored."""
        folders, files = self.entries(str(folder))
        self.ignored.update(f"{_suffix(file)} outside the class folders" for file in files)
        return [folder / name for name in folders]

    def images(self, folder: Path) -> list[str]:
        """The images of a class, sorted by path."""
        if folder.name != _printable(folder.name):
            self.problems.append(f"{folder} (its name is not UTF-8)")
            return []
        below = "" if folder == self.root else folder.relative_to(self.root).as_posix() + "/"
        return sorted(self._walk(str(folder), below, (folder.parent.resolve(),)))

    def check(self) -> None:
        """Raises UserError if an entry cannot be read."""
        if self.problems:
            more = len(self.problems) - NAMED
            said = ", ".join(self.problems[:NAMED]) + (f" and {more} more" if more > 0 else "")
            raise UserError(_printable(f"cannot read {said}: correct, rename or remove them"))

    def _walk(self, folder: str, below: str, above: tuple[Path, ...]) -> Iterator[str]:
        """The images in a folder, whose path from the root is `below`, and in its subfolders.

        `above` are the folders it is in, resolved.
        """
        resolved = Path(folder).resolve()
        if any(other.is_relative_to(resolved) for other in above):
            self.problems.append(f"{folder} (a link to a folder that it is in)")
            return
        folders, files = self.entries(folder)
        for file in files:
            if file.lower().endswith(SUFFIXES):
                yield below + file
            else:
                self.ignored[_suffix(file)] += 1
        for child in folders:
            yield from self._walk(f"{folder}/{child}", f"{below}{child}/", (*above, resolved))

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        """The names of the folders and files in a folder, without hidden ones, sorted."""
        folders, files = [], []
        try:
            children = sorted(os.scandir(folder), key=lambda child: child.name)
        except OSError as error:
            self.problems.append(f"{folder} ({error.strerror})")
            children = []
        for child in children:
            if child.name.startswith("."):
                continue
            try:
                if child.is_dir():
                    folders.append(child.name)
                elif child.is_file():
                    files.append(child.name)
                else:
                    child.stat()  # raises for a link to nothing
                    self.problems.append(f"{child.path} (neither a file nor a folder)")
            except OSError as error:
                link = "a link to nothing: " if child.is_symlink() else ""
                self.problems.append(f"{child.path} ({link}{error.strerror})")
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
    inside = [child for folder in named for child in listing.entries(str(folder))[0]]
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
    parts: Mapping[str, Mapping[str, Sequence[str]]],
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
        if same := [
            n for n, count in Counter(name.casefold() for name in classes).items() if count > 1
        ]:
            alike = [name for name in classes if name.casefold() == same[0]]
            raise UserError(
                f"{folders[part]}: the names of the class folders {' and '.join(alike)} differ only in "
                "case; merge or rename them"
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


def _suffix(file: str) -> str:
    return _printable(Path(file).suffix.lower()) or "without a suffix"


def _printable(name: str) -> str:
    """A name with its bytes that are not UTF-8 written out."""
    return name.encode("utf-8", "backslashreplace").decode()
