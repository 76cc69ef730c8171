"""What every layout yields: images where they lie, and the splits that they make up."""

import re
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, overload

import numpy as np


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image where it lies: `size` bytes at `offset` of the file `path`; nothing is ever extracted to disk."""

    name: str
    wnid: str  # or the name of the class's folder; "": none
    path: str
    offset: int
    size: int

    def read(self, most: int) -> bytes:
        """The bytes of an image file: all, or the first `most`.

        OSError if the file is shorter than it was; ValueError if this image alone is at fault.
        """
        length = min(self.size, most)
        with Path(self.path).open("rb", buffering=0) as file:
            file.seek(self.offset)
            data = file.read(length)
            while len(data) < length and (more := file.read(length - len(data))):  # some network drives give less
                data += more
        if len(data) != length:
            raise OSError(f"it ends after {len(data)} of the {self.size} bytes of {self.name}")
        return data

    def mark(self) -> str:
        """What tells this image from another of the same name, without reading it where that takes long."""
        return str(self.size)


def as_pnm(pixels: bytes, height: int, width: int, channels: int) -> bytes:
    """uint8 [height, width, channels] as an image file: a portable graymap or pixmap."""
    return b"%s %d %d 255\n" % (b"P5" if channels == 1 else b"P6", width, height) + pixels


@dataclass(frozen=True, slots=True)
class PixelImage(SourceImage):
    """An image that its source holds as plain pixels, not as an image file; small, and kept in memory."""

    pixels: bytes  # uint8 [height, width, channels]
    shape: tuple[int, int, int]

    def read(self, most: int) -> bytes:
        """As a portable graymap or pixmap, a header before the same bytes."""
        return as_pnm(self.pixels, *self.shape)

    def mark(self) -> str:
        return f"{self.shape} {zlib.crc32(self.pixels)}"


@dataclass(frozen=True, slots=True)
class DeadLink(SourceImage):
    """A link, named as an image, to a file that is not there: one of the images that are rejected."""

    target: str

    def read(self, most: int) -> bytes:
        raise ValueError(f"a link to {self.target}, which does not exist")

    def mark(self) -> str:
        return f"link to {self.target}"


_COMMON = len(fields(SourceImage))


class _Columns:
    """Classes, paths and kinds, which many images share, are kept once, and a number of it for each image."""

    def __init__(self, images: Iterable[SourceImage]) -> None:
        self.names, self.name_ends = bytearray(), array("q", [0])
        self.class_of, self.path_of, self.kind_of = array("i"), array("i"), bytearray()
        self.offsets, self.sizes = array("q"), array("q")
        self.more: list[tuple[Any, ...]] = []  # the fields that a kind has besides; neighbours share one
        classes: dict[str, int] = {}
        paths: dict[str, int] = {}  # of an archive; or of a folder, with "/" behind it
        kinds: dict[type[SourceImage], int] = {}
        last_kind: type[SourceImage] | None = None
        last_wnid: str | None = None
        last_path: str | None = None  # neighbours mostly share all three
        class_code = path_code = kind_code = 0
        extra: list[str] = []
        more: tuple[Any, ...] = ()
        for image in images:
            name, wnid, path = image.name, image.wnid, image.path
            self.names += name.encode("utf-8", "surrogatepass")
            self.name_ends.append(len(self.names))
            if wnid is not last_wnid:
                class_code, last_wnid = classes.setdefault(wnid, len(classes)), wnid
            if path is not last_path:
                folder, slash, file = path.rpartition("/")
                is_own_file = slash and file == name.rpartition("/")[2]
                path_code = paths.setdefault(folder + slash if is_own_file else path, len(paths))
                last_path = path
            if type(image) is not last_kind:
                last_kind = type(image)
                kind_code = kinds.setdefault(last_kind, len(kinds))
                extra = [field.name for field in fields(last_kind)[_COMMON:]]
            self.class_of.append(class_code)
            self.path_of.append(path_code)
            self.offsets.append(image.offset)
            self.sizes.append(image.size)
            self.kind_of.append(kind_code)
            own = tuple([getattr(image, name) for name in extra]) if extra else ()
            more = more if more == own else own
            self.more.append(more)
        self.classes, self.paths, self.kinds = list(classes), list(paths), list(kinds)

    def name(self, place: int) -> str:
        return self.names[self.name_ends[place] : self.name_ends[place + 1]].decode("utf-8", "surrogatepass")

    def image(self, place: int) -> SourceImage:
        name, path = self.name(place), self.paths[self.path_of[place]]
        if path.endswith("/"):
            path += name.rpartition("/")[2]
        kind, wnid = self.kinds[self.kind_of[place]], self.classes[self.class_of[place]]
        return kind(name, wnid, path, self.offsets[place], self.sizes[place], *self.more[place])


class Listing(Sequence[SourceImage]):
    """Images in an order, as columns: 1.3 million of them, or 15, in some 70 bytes each instead of 250 as objects.

    A slice and whatever else is chosen of it shares its columns. Pickled, it is a list.
    """

    def __init__(self, images: Iterable[SourceImage] = ()) -> None:
        self._columns = _Columns(images)
        self._places = np.arange(len(self._columns.kind_of))

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, number: int) -> SourceImage: ...
    @overload
    def __getitem__(self, number: slice) -> "Listing": ...
    def __getitem__(self, number: int | slice) -> "SourceImage | Listing":
        if isinstance(number, slice):
            return self.take(number)
        return self._columns.image(int(self._places[number]))

    def __iter__(self) -> Iterator[SourceImage]:
        return (self._columns.image(int(place)) for place in self._places)

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)

    def take(self, chosen: "np.ndarray | slice") -> "Listing":
        """The images at the positions `chosen`, or where that mask is true."""
        taken = object.__new__(Listing)
        taken._columns, taken._places = self._columns, self._places[chosen]
        return taken

    def class_counts(self) -> Counter[str]:
        """The number of images of every class that has any."""
        texts = self._columns.classes
        counts = np.bincount(self._class_codes(), minlength=len(texts)).tolist()
        return Counter({text: count for text, count in zip(texts, counts, strict=True) if count})

    def total_size(self) -> int:
        return int(np.asarray(self._columns.sizes)[self._places].sum())

    def labels(self, wnids: Sequence[str]) -> np.ndarray:
        """int32 [N]: the position of each image's class in `wnids`; -1 where it has none there."""
        label_of = {wnid: label for label, wnid in enumerate(wnids)}
        of_code = np.array([label_of.get(text, -1) for text in self._columns.classes], np.int32)
        return of_code[self._class_codes()]

    def of_classes(self, wnids: Collection[str]) -> "Listing":
        return self.take(self.labels(list(wnids)) >= 0)

    def rename_classes(self, name_of: Callable[[str], str]) -> "Listing":
        """The same images; every class has the name that `name_of` gives for its own."""
        columns, classes = copy(self._columns), dict[str, int]()
        code_of = [classes.setdefault(name_of(text), len(classes)) for text in columns.classes]
        codes = np.array(code_of, np.int32)[np.asarray(columns.class_of)]
        columns.classes, columns.class_of = list(classes), array("i", codes.tobytes())
        renamed = object.__new__(Listing)
        renamed._columns, renamed._places = columns, self._places
        return renamed

    def by_class_and_name(self) -> "Listing":
        """Sorted by class, within one by name. One class at a time: a key for every image would be 200 bytes each."""
        labels = self.labels(sorted(self.class_counts()))
        order = np.argsort(labels, kind="stable")
        for own in np.split(order, np.cumsum(np.bincount(labels))):  # a view of each class's part
            own[:] = sorted(own.tolist(), key=self._name_key)
        return self.take(order)

    def by_name(self) -> "Listing":
        texts, class_of = self._columns.classes, self._columns.class_of
        order = sorted(range(len(self)), key=lambda i: (self._name_key(i), texts[class_of[self._places[i]]]))
        return self.take(np.array(order, np.int64))

    def source_order(self) -> np.ndarray:
        """The positions of the images, in the order in which they lie in the source."""
        paths, path_of = self._columns.paths, np.asarray(self._columns.path_of)
        rank = np.empty(len(paths), np.int32)
        rank[sorted(range(len(paths)), key=paths.__getitem__)] = np.arange(len(paths), dtype=np.int32)
        offsets = np.asarray(self._columns.offsets)[self._places]
        ranks = rank[path_of[self._places]]
        order = np.lexsort((offsets, ranks))
        for own in np.split(order, np.cumsum(np.bincount(ranks))):  # a view of each path's part
            if len(own) and paths[path_of[self._places[own[0]]]].endswith("/"):  # a folder: by the files' names
                own[:] = sorted(own.tolist(), key=self._name)
        return order

    def doubled(self) -> list[SourceImage]:
        """Of a listing sorted by class and name: every image that has class, file name and size of the one before."""
        found = []
        sizes = np.asarray(self._columns.sizes)[self._places]
        alike = np.flatnonzero((sizes[1:] == sizes[:-1]) & (self._class_codes()[1:] == self._class_codes()[:-1])) + 1
        for i in alike.tolist():
            if self._name(i).rpartition("/")[2] == self._name(i - 1).rpartition("/")[2]:
                found.append(self[i])
        return found

    def _class_codes(self) -> np.ndarray:
        return np.asarray(self._columns.class_of)[self._places]

    def _name(self, position: int) -> str:
        return self._columns.name(int(self._places[position]))

    def _name_key(self, position: int) -> str:
        """The file's name, to be sorted by with numbers as numbers. The folder is no part of it."""
        return re.sub("[0-9]+", lambda digits: digits[0].zfill(20), self._name(position).rpartition("/")[2])


@dataclass
class Source:
    """All images of a source, by split, in the source's own order."""

    layout: str  # in words, for messages and the manifest; not a key of LAYOUTS
    path: Path
    splits: dict[str, Listing]
    class_names: dict[str, str] = field(default_factory=dict)  # what people call a class, by wnid, as far as is known
    complete: dict[str, int] = field(default_factory=dict)  # images of each split of a complete copy, if known
    per_class: dict[str, dict[str, int]] = field(default_factory=dict)  # split -> class -> the same
    per_class_is_least: bool = False  # whether those are what every class has at least
    md5: dict[Path, str] = field(default_factory=dict)  # of the files that were found, as officially published
    channels: int = 3
    side: int | None = None  # of its images, where all are squares of one size
    slow_at_random: bool = False  # a single image can only be had by reading its neighbours too
    left_out: list[str] = field(default_factory=list)  # what lies there and is not used, and why
    notes: list[str] = field(default_factory=list)  # what else is worth knowing of what was found
    no_val: str = ""  # what to say if val is needed and missing: where it would lie
