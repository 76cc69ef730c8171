"""What a folder of images is made of: the one place that decides it for every layout, in folders and in archives.

- Hidden and system names (.DS_Store, ._x, @eaDir, lost+found, __MACOSX ...) are neither classes nor images.
- An image is a file whose name ends as images do, or whose first bytes are those of an image, whatever its name.
- Links are followed, but for those to a folder above. One that leads nowhere is an image that will be rejected, if it
  is named as one; otherwise it is refused, since it may have been a class.
- The images of a class may lie in folders within the class's.
- Of a class's folder and its tar beside it only one is taken; where images lie both in folders of classes and beside
  these, those beside are passed over.

Whatever is passed over is counted by kind.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.common.errors import RequestError
from data_prep.common.text import encodable
from data_prep.sources.base import DeadLink, SourceImage

ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}

_SYSTEM = {
    "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin", "recycler",
    "system volume information", "found.000", "found.001", "lost+found", "thumbs.db", "desktop.ini", "icon\r",
    "__macosx", "network trash folder", "temporary items", "__pycache__", "_gsdata_",
}  # fmt: skip
# What browsers and desktops add to the name of a file that is there already.
_COPIED = re.compile(r"( ?\(\d+\)| copy| \d+)+(?=(\.\w+)*$)", re.IGNORECASE)
_HEAD = 16  # bytes that tell an image
_PART = re.compile(r"(?P<stem>.*?)(?P<number>\d+)(?P<rest>-of-(?P<count>\d+).*|\D*)")
# The same of numbered parts, whose number may follow a space; and what the `datasets` library adds.
_ADDED = re.compile(r"( ?\(\d+\)| copy|(?<=-of-\d{5})-[0-9a-f]{16})(?=\.[^.]*$)")


def is_system(name: str) -> bool:
    """Whether a file or folder of this name is the system's or a tool's own, wherever it lies."""
    return name.startswith(".") or name.lower().partition(" (")[0] in _SYSTEM  # "lost+found (1)": a copy's


def is_system_path(name: str) -> bool:
    """Whether a file in an archive, or a folder that it lies in there, has such a name; "." and ".." are none."""
    return any(is_system(part) for part in name.split("/") if part.strip("."))


def is_named_as_image(name: str) -> bool:
    dot = name.rfind(".")
    return dot > 0 and name[dot:].lower() in ENDINGS


def begins_as_image(head: bytes) -> bool:
    return (
        head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*"))
        or (head.startswith(b"BM") and head[6:10] == bytes(4))
        or (head.startswith(b"RIFF") and head[8:12] == b"WEBP")
        or re.match(rb"P[1-6]\s", head) is not None
    )


@dataclass
class Notes:
    """What is passed over below a source, and what is taken although it lies in an odd place: counted by kind."""

    src: Path
    passed: dict[str, tuple[str, int]] = field(default_factory=dict)  # kind -> the first place, and how many
    deeper: dict[str, tuple[str, int]] = field(default_factory=dict)

    def pass_over(self, kind: str, path: Path | str) -> None:
        self._count(self.passed, kind, path)

    def _count(self, counts: dict[str, tuple[str, int]], kind: str, path: Path | str) -> None:
        first, number = counts.get(kind) or (self._relative(path), 0)
        counts[kind] = first, number + 1

    def take_deeper(self, path: Path | str) -> None:
        self._count(self.deeper, "images in folders within the folder of their class", path)

    def _relative(self, path: Path | str) -> str:
        if isinstance(path, Path):
            path = path.relative_to(self.src).as_posix() if path.is_relative_to(self.src) else str(path)
        return encodable(path)

    def left_out(self) -> list[str]:
        """One line, or none, on what was passed over."""
        return ["; ".join(_counted(self.passed))] if self.passed else []

    def taken(self) -> list[str]:
        """One line, or none, on what was taken."""
        return [f"{line}; taken" for line in _counted(self.deeper)]


def _counted(counts: dict[str, tuple[str, int]]) -> list[str]:
    return [f"{kind}: {number:,} ({first}{', ...' * (number > 1)})" for kind, (first, number) in counts.items()]


def find_named(folder: Path, name: str) -> Path | None:
    """The file or folder of this name, as `is_called` has it."""
    if (folder / name).exists():
        return folder / name
    return next((path for path in entries(folder) if is_called(path, name)), None) if folder.is_dir() else None


def is_called(path: Path, name: str) -> bool:
    """Whether a file has this name, in any case, and with what browsers and desktops add: "devkit (1).gz"."""
    return _COPIED.sub("", path.name).lower() == name.lower()


HIDDEN, NO_IMAGES, EMPTY = "hidden or system names", "files that are no images", "folders without images"
LINKS = "links to a folder above or beside"


def entries(folder: Path) -> list[Path]:
    """What lies in `folder`, sorted, without hidden and system names."""
    return [path for path in sorted(folder.iterdir()) if not is_system(path.name)]


def folders_and_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The same, folders and files apart, without a look at each: a folder of val has 50,000 files, and may lie on a
    network drive.
    """
    folders: list[Path] = []
    files: list[Path] = []
    for entry in _scanned(folder):
        if not is_system(entry.name):
            (folders if entry.is_dir() else files).append(folder / entry.name)
    return folders, files


def _scanned(folder: Path) -> list["os.DirEntry[str]"]:
    """All that lies in `folder`, sorted by name."""
    with os.scandir(folder) as scan:
        return sorted(scan, key=lambda entry: entry.name)


def images_below(folder: Path, notes: Notes, prefix: str = "", top: Path | None = None) -> Iterator[SourceImage]:
    """The images in `folder` and in the folders within it, named with `prefix` and their path below `folder`. `top`:
    the folder that was begun with, a class's, if that is another.
    """
    if is_endless_link(folder) or (top and _leads_to_other_classes(folder, top)):
        notes.pass_over(LINKS, folder)
        return
    folders = []
    for entry in _scanned(folder):
        if is_system(entry.name):
            notes.pass_over(HIDDEN, Path(entry.path))
        elif entry.is_dir():
            folders.append(entry)
        elif image := _image(entry, prefix):
            if top:
                notes.take_deeper(Path(entry.path))
            yield image
        else:
            notes.pass_over(NO_IMAGES, Path(entry.path))
    for entry in folders:
        yield from images_below(Path(entry.path), notes, f"{prefix}{encodable(entry.name)}/", top or folder)


def is_endless_link(folder: Path) -> bool:
    """Whether it is a link to a folder that it lies in, by the path or where that really is."""
    if not folder.is_symlink():
        return False
    target = folder.resolve()
    return folder.parent.resolve().is_relative_to(target) or any(target == path.resolve() for path in folder.parents)


def _leads_to_other_classes(folder: Path, top: Path) -> bool:
    """Whether it is a link, within the class `top`, to what lies beside that."""
    if not folder.is_symlink():
        return False
    target, top = folder.resolve(), top.resolve()
    return target.is_relative_to(top.parent) and not target.is_relative_to(top)


def loose_images(folder: Path, notes: Notes) -> Iterator[SourceImage]:
    """The images that lie in `folder` itself."""
    for entry in _scanned(folder):
        if is_system(entry.name):
            notes.pass_over(HIDDEN, Path(entry.path))
        elif not entry.is_dir():
            if image := _image(entry, ""):
                yield image
            elif not is_archive(entry.name):
                notes.pass_over(NO_IMAGES, Path(entry.path))


def is_archive(name: str) -> bool:
    return name.lower().endswith(".tar")


def _image(entry: "os.DirEntry[str]", prefix: str) -> SourceImage | None:
    named = is_named_as_image(entry.name)
    try:
        size = entry.stat().st_size
        if not entry.is_file():
            return None  # a pipe, a device
        if not named:
            with Path(entry.path).open("rb") as file:
                if not begins_as_image(file.read(_HEAD)):
                    return None
    except FileNotFoundError:
        if not entry.is_symlink():
            return None
        if not named:
            refuse_dead_link(Path(entry.path))
        name = prefix + encodable(entry.name)
        return DeadLink(name, "", entry.path, 0, 0, encodable(str(Path(entry.path).readlink())))
    return SourceImage(prefix + encodable(entry.name), "", entry.path, 0, size)


def refuse_dead_link(path: Path) -> None:
    """RequestError if `path` is a link that leads nowhere: nothing tells what it was."""
    if path.is_symlink() and not path.exists():
        raise RequestError(f"{path}: a link to {path.readlink()}, which is not there; bring that back, or take it away")


def refuse_missing_parts(paths: Sequence[Path]) -> None:
    """RequestError if one of the numbered files or folders of a split is not there, or is there twice.

    Of train-00000-of-00294 and so on there must be as many as the names say. Of others, alike but for the last number
    in their names, none may be missing between the first and the last, if they count: with zeros before the numbers, or
    from 0 or 1.
    """
    names: dict[str, Path] = {}
    parts: dict[tuple[str, str], dict[int, re.Match[str]]] = {}
    for path in paths:
        if path.parent != paths[0].parent:
            raise RequestError(f"{paths[0]} and {path} are of one split, in two folders; move one of these away")
        other = names.setdefault(_ADDED.sub("", path.name), path)
        if other is not path:
            raise RequestError(f"{other} and {path.name} are the same part; move one of them away")
        if match := _PART.fullmatch(_ADDED.sub("", path.name)):
            parts.setdefault((match["stem"], match["rest"]), {})[int(match["number"])] = match
    counted: dict[str, re.Match[str]] = {}
    for (stem, rest), numbers in parts.items():
        first, last = min(numbers), max(numbers)
        text, count = numbers[first]["number"], numbers[first]["count"]
        if count:
            if (known := counted.setdefault(stem, numbers[first]))["rest"] != rest:
                two = f"{known.string} and {numbers[first].string}"
                raise RequestError(f"{paths[0].parent}: {two} are of two sets; move one of them away")
            first = first if first <= 1 else 0
            last = first + int(count) - 1
        elif first > 1 and not text.startswith("0"):
            continue
        if (missing := last - first + 1 - len(numbers)) > 0:
            absent = next(number for number in range(first, last + 1) if number not in numbers)
            more = f", and {missing - 1:,} more," if missing > 1 else ""
            path = paths[0].with_name(f"{stem}{absent:0{len(text)}d}{rest}")
            raise RequestError(
                f"{path}{more} is missing: of {last - first + 1:,} parts {len(numbers):,} are there; download the rest"
                f"{'' if count else ', or rename without gaps those that you chose'}"
            )
