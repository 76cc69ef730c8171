"""The official releases of ILSVRC-2010 and ILSVRC-2012: a train tar of per-class tars, flat val and test tars, and a
devkit with the labels. Any of them may have been unpacked into a folder.

    SRC/ILSVRC2012_img_train.tar              n01440764.tar ..., each n01440764_10026.JPEG ...; or train/n01440764/...
    SRC/ILSVRC2012_img_val.tar                ILSVRC2012_val_00000001.JPEG ...; or val/, flat or by class
    SRC/ILSVRC2012_devkit_t12.tar.gz          needed unless val is sorted by class; or .tar, .tgz, a folder
    SRC/ILSVRC2010_images_{train,val,test}.tar, ILSVRC2010_devkit-1.0.tar.gz, patch_images.tar    those of 2010

What browsers and desktops add to a name, " (1)", is ignored. Images are addressed by their offset in the archive, so
that 138 GB never need to be unpacked.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from data_prep.common.errors import RequestError
from data_prep.sources import folders, tars
from data_prep.sources.base import Listing, Source, SourceImage
from data_prep.sources.devkit import Devkit, read_devkit, read_ground_truth
from data_prep.sources.inventory import Notes, find_named
from data_prep.sources.labels import WNID


@dataclass(frozen=True)
class Release:
    year: int
    archives: dict[str, str]  # of each split
    devkits: tuple[str, ...]  # the archive, then what it unpacks to
    complete: dict[str, int]
    smallest_class: int  # training images of it
    classes: int = 1000
    md5: dict[str, str] = field(default_factory=dict)  # of the archives, as published
    test_truth: str = ""
    patches: str = ""  # replacements for blank images

    def recognises(self, src: Path) -> bool:
        unpacked = [path for name in self._stems().values() if (path := find_named(src, name)) and path.is_dir()]
        if unpacked or any(self._archive(src, split) for split in self.archives):
            return True
        train, devkit = folders.split_folders(src, "train"), self._devkit(src)
        if devkit is not None and train:
            return True
        return bool(devkit is not None or train) and any(
            next(folder.glob(f"ILSVRC{self.year}_val_*"), None) is not None
            for folder in folders.split_folders(src, "val")
        )

    def read(self, src: Path) -> Source:
        """RequestError if a part is missing, damaged, or of another release."""
        notes = Notes(src)
        devkit_path = self._devkit(src)
        devkit = None if devkit_path is None else read_devkit(devkit_path, self.year)
        if not (part := self._part(src, "train")):
            raise RequestError(f"src={src}: {self._missing('train')}")
        train = self._images(src, "train", part, notes)
        known = train.class_counts()
        splits, no_val = {"train": train}, ""
        if part := self._part(src, "val"):
            splits["val"] = self._numbered(src, "val", part, devkit, known, notes)
        else:
            no_val = self._missing("val")
        if (part := self._part(src, "test")) and self.test_truth:
            splits["test"] = self._numbered(src, "test", part, devkit, known, notes)
        elif part:
            notes.pass_over("test split, without labels", part[0])
        splits = {split: self._patched(src, split, images) for split, images in splits.items()}
        class_names = {} if devkit is None else devkit.class_names
        classes = class_names or set(known)
        # Val and test have the same number of every class; of train the devkit says the numbers.
        per_class = self.least(classes) if len(classes) == self.classes else {}
        if devkit is not None:
            per_class["train"] = devkit.train_images
        return Source(
            layout=f"archives in the official ILSVRC-{self.year} layout",
            path=src,
            splits=splits,
            class_names=class_names,
            complete=self.complete,
            per_class=per_class,
            per_class_is_least=devkit is None,
            md5={path: md5 for name, md5 in self.md5.items() if (path := find_named(src, name)) is not None},
            left_out=notes.left_out(),
            notes=notes.taken(),
            no_val=no_val,
        )

    def least(self, classes: Iterable[str]) -> dict[str, dict[str, int]]:
        """What every class of a complete copy has at least."""
        sizes = {split: images // self.classes for split, images in self.complete.items()}
        return {split: dict.fromkeys(classes, size) for split, size in {**sizes, "train": self.smallest_class}.items()}

    def are_its_classes(self, wnids: Collection[str]) -> bool:
        """Whether these are wnids, as many as the release has classes."""
        return len(wnids) == self.classes and all(map(WNID.fullmatch, wnids))

    def _stems(self) -> dict[str, str]:
        return {split: Path(name).stem for split, name in self.archives.items()}

    def _archive(self, src: Path, split: str) -> Path | None:
        return find_named(src, self.archives[split]) if split in self.archives else None

    def _devkit(self, src: Path) -> Path | None:
        stem = self.devkits[0].removesuffix(".tar.gz")
        names = (self.devkits[0], *(f"{stem}{ending}" for ending in (".tar", ".tgz", ".gz")), *self.devkits[1:])
        return next((path for name in names if (path := find_named(src, name)) is not None), None)

    def _part(self, src: Path, split: str) -> list[Path]:
        """The archive of a split, or its folders; [] if there is neither."""
        archive = self._archive(src, split)
        if archive is not None:
            return [archive]
        unpacked = find_named(src, self._stems().get(split, split))
        return folders.split_folders(src, split) or ([unpacked] if unpacked is not None and unpacked.is_dir() else [])

    def _missing(self, split: str) -> str:
        return f"{self.archives[split]} is missing; the official layout needs {', '.join(self.archives.values())}"

    def _images(self, src: Path, split: str, part: list[Path], notes: Notes, known: Collection[str] = ()) -> Listing:
        if part[0].is_dir():
            return folders.read_split(part, notes, known)
        for folder in folders.split_folders(src, split):
            notes.pass_over("folders beside the archive of their split", folder)
        return Listing(tars.images_by_class(part[0], notes) if split == "train" else tars.images(part[0], "", notes))

    def _numbered(
        self, src: Path, split: str, part: list[Path], devkit: Devkit | None, known: Mapping[str, int], notes: Notes
    ) -> Listing:
        """Val or test: flat, ILSVRC2012_val_00000001.JPEG and so on, labels in the ground truth; or sorted by class."""
        images = self._images(src, split, part, notes, known)
        sorted_here = "" not in images.class_counts()
        if sorted_here and (devkit is None or not known.keys().isdisjoint(images.class_counts())):
            return images
        if devkit is None:
            raise RequestError(f"src={src}: {self.devkits[0]} is missing; it has the labels of {part[0].name}")
        wnids = devkit.val_wnids if split == "val" else self._test_wnids(src, devkit)
        if len(images) != len(wnids):
            raise RequestError(
                f"{part[0]}: {len(images)} images, but there are labels for {len(wnids)}; "
                "the two are of different releases, or the download is incomplete"
            )
        return Listing(
            replace(image, wnid=wnids[self._number(part[0], split, image, len(wnids)) - 1]) for image in images
        )

    def _number(self, part: Path, split: str, image: SourceImage, labels: int) -> int:
        prefix, name = f"ILSVRC{self.year}_{split}_", image.name.rpartition("/")[2]
        digits = name.partition(".")[0].removeprefix(prefix)
        number = int(digits) if name.startswith(prefix) and digits.isdecimal() else 0
        if not 1 <= number <= labels:
            raise RequestError(f"{part}: {image.name} is not named {prefix}<number>.JPEG with a label for it")
        return number

    def _test_wnids(self, src: Path, devkit: Devkit) -> list[str]:
        path = find_named(src, self.test_truth)
        if path is None:
            raise RequestError(f"src={src}: {self.test_truth} is missing; it has the labels of {self.archives['test']}")
        return read_ground_truth(path.read_bytes(), path, devkit.wnid_of_id)

    def _patched(self, src: Path, split: str, images: Listing) -> Listing:
        """The images of a split, with those that patch_images.tar has under <split>/<name> in place of the old ones."""
        archive = find_named(src, self.patches) if self.patches else None
        if archive is None:
            return images
        with archive.open("rb") as file:
            members = [m for m in tars.members(file, archive) if Path(m.name).parent.name == split]
        patches = {Path(member.name).name: member for member in members}

        def patched(image: SourceImage) -> SourceImage:
            patch = patches.get(image.name.rpartition("/")[2])
            return replace(image, path=str(archive), offset=patch.offset_data, size=patch.size) if patch else image

        return Listing(map(patched, images))


ILSVRC2012 = Release(
    year=2012,
    archives={"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"},
    devkits=("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_devkit_t12"),
    complete={"train": 1_281_167, "val": 50_000},
    smallest_class=732,
    md5={
        "ILSVRC2012_img_train.tar": "1d675b47d978889d74fa0da5fadfb00e",
        "ILSVRC2012_img_val.tar": "29b22e2961454d5413ddabcf34fc5622",
        "ILSVRC2012_devkit_t12.tar.gz": "fa75699e90414af021442c21a62c3abf",
    },
)
ILSVRC2010 = Release(
    year=2010,
    archives={split: f"ILSVRC2010_images_{split}.tar" for split in ("train", "val", "test")},
    devkits=("ILSVRC2010_devkit-1.0.tar.gz", "ILSVRC2010_devkit-1.0", "devkit-1.0"),
    complete={"train": 1_261_406, "val": 50_000, "test": 150_000},
    smallest_class=668,
    test_truth="ILSVRC2010_test_ground_truth.txt",
    patches="patch_images.tar",
)
