"""The official releases of ILSVRC-2010 and ILSVRC-2012: a train tar of per-class tars, flat val and test tars, and a
devkit with the labels. Any of them may have been unpacked into a folder.

    SRC/ILSVRC2012_img_train.tar              n01440764.tar ..., each n01440764_10026.JPEG ...; or train/n01440764/...
    SRC/ILSVRC2012_img_val.tar                ILSVRC2012_val_00000001.JPEG ...; or val/, flat or by class
    SRC/ILSVRC2012_devkit_t12.tar.gz          needed unless val is sorted by class
    SRC/ILSVRC2010_images_{train,val,test}.tar, ILSVRC2010_devkit-1.0.tar.gz, patch_images.tar    those of 2010

Images are addressed by their offset in the archive, so that 138 GB never need to be unpacked.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from data_prep.common.errors import RequestError
from data_prep.sources import folders, tars
from data_prep.sources.base import Source, SourceImage
from data_prep.sources.devkit import Devkit, read_devkit, read_ground_truth


@dataclass(frozen=True)
class Release:
    year: int
    archives: dict[str, str]  # of each split
    devkits: tuple[str, ...]  # the archive, then what it unpacks to
    id_field: str  # of the devkit's synsets
    complete: dict[str, int]
    smallest_class: int  # training images of it
    classes: int = 1000
    md5: dict[str, str] = field(default_factory=dict)  # of the archives, as published
    test_truth: str = ""
    patches: str = ""  # replacements for blank images

    def recognises(self, src: Path) -> bool:
        named = any((src / name).is_file() or (src / Path(name).stem).is_dir() for name in self.archives.values())
        flat_val = src / "val"
        return named or (flat_val.is_dir() and next(flat_val.glob(f"ILSVRC{self.year}_val_*"), None) is not None)

    def read(self, src: Path) -> Source:
        """RequestError if a part is missing, damaged, or of another release."""
        devkit_path = next((src / name for name in self.devkits if (src / name).exists()), None)
        devkit = None if devkit_path is None else read_devkit(devkit_path, self.id_field)
        part = self._required(src, "train")
        train = list(folders.by_class(part) if part.is_dir() else tars.images_by_class(part))
        splits = {"train": train, "val": self._numbered(src, "val", devkit)}
        if self.test_truth and self._part(src, "test") is not None:
            splits["test"] = self._numbered(src, "test", devkit)
        splits = {split: self._patched(src, split, images) for split, images in splits.items()}
        class_names = {} if devkit is None else devkit.class_names
        classes = class_names or {image.wnid for image in train}
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
            md5={src / name: md5 for name, md5 in self.md5.items() if (src / name).is_file()},
        )

    def least(self, classes: Iterable[str]) -> dict[str, dict[str, int]]:
        """What every class of a complete copy has at least."""
        sizes = {split: images // self.classes for split, images in self.complete.items()}
        return {split: dict.fromkeys(classes, size) for split, size in {**sizes, "train": self.smallest_class}.items()}

    def _part(self, src: Path, split: str) -> Path | None:
        """The archive of a split, or its folder."""
        archive = src / self.archives[split]
        unpacked = (folder for folder in (src / split, src / archive.stem) if folder.is_dir())
        return archive if archive.is_file() else next(unpacked, None)

    def _required(self, src: Path, split: str) -> Path:
        part = self._part(src, split)
        if part is None:
            needed = ", ".join(self.archives.values())
            raise RequestError(f"src={src}: {self.archives[split]} is missing; the official layout needs {needed}")
        return part

    def _numbered(self, src: Path, split: str, devkit: Devkit | None) -> list[SourceImage]:
        """Val or test: flat, ILSVRC2012_val_00000001.JPEG and so on, labels in the ground truth; or sorted by class."""
        part = self._required(src, split)
        if folders.has_classes(part):
            return list(folders.by_class(part))
        if devkit is None:
            raise RequestError(f"src={src}: {self.devkits[0]} is missing; it has the labels of {part.name}")
        wnids = devkit.val_wnids if split == "val" else self._test_wnids(src, devkit)
        images = list(folders.flat(part) if part.is_dir() else tars.images(part))
        if len(images) != len(wnids):
            raise RequestError(
                f"{part}: {len(images)} images, but there are labels for {len(wnids)}; "
                "the two are of different releases, or the download is incomplete"
            )
        return [replace(image, wnid=wnids[self._number(part, split, image, len(wnids)) - 1]) for image in images]

    def _number(self, part: Path, split: str, image: SourceImage, labels: int) -> int:
        prefix = f"ILSVRC{self.year}_{split}_"
        digits = Path(image.name).stem.removeprefix(prefix)
        number = int(digits) if image.name.startswith(prefix) and digits.isdecimal() else 0
        if not 1 <= number <= labels:
            raise RequestError(f"{part}: {image.name} is not named {prefix}<number>.JPEG with a label for it")
        return number

    def _test_wnids(self, src: Path, devkit: Devkit) -> list[str]:
        path = src / self.test_truth
        if not path.is_file():
            raise RequestError(f"src={src}: {self.test_truth} is missing; it has the labels of {self.archives['test']}")
        return read_ground_truth(path.read_bytes(), path, devkit.wnid_of_id)

    def _patched(self, src: Path, split: str, images: list[SourceImage]) -> list[SourceImage]:
        """With the images that the release replaced: patch_images.tar, <split>/<name>."""
        archive = src / self.patches
        if not self.patches or not archive.is_file():
            return images
        with archive.open("rb") as file:
            members = [m for m in tars.members(file, archive) if Path(m.name).parent.name == split]
        patches = {Path(member.name).name: member for member in members}

        def patched(image: SourceImage) -> SourceImage:
            patch = patches.get(Path(image.name).name)
            return replace(image, path=str(archive), offset=patch.offset_data, size=patch.size) if patch else image

        return [patched(image) for image in images]


ILSVRC2012 = Release(
    year=2012,
    archives={"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"},
    devkits=("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_devkit_t12"),
    id_field="ILSVRC2012_ID",
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
    id_field="ILSVRC2010_ID",
    complete={"train": 1_261_406, "val": 50_000, "test": 150_000},
    smallest_class=668,
    test_truth="ILSVRC2010_test_ground_truth.txt",
    patches="patch_images.tar",
)
