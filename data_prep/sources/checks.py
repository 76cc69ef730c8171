"""What was found in a source, beside what should be there."""

import hashlib
from collections import Counter

from tqdm import tqdm

from data_prep.command import RequestError
from data_prep.sources.base import Source, SourceImage


def say_what_was_understood(source: Source, wnids: list[str], images: dict[str, list[SourceImage]]) -> None:
    """Layout, classes, counts and size; and what a complete copy would have besides."""
    counts = ", ".join(f"{len(listed):,} {split}" for split, listed in images.items())
    size = sum(image.size for listed in images.values() for image in listed)
    print(f"{source.path}: {source.layout}; {len(wnids)} classes; {counts} pictures; {size / 1e6:,.1f} MB")
    for split, complete in source.complete.items():
        if split in images and len(images[split]) != complete:
            print(f"note: a complete copy has {complete:,} {split} pictures; this one has {len(images[split]):,}")
    found = Counter(image.wnid for image in images["train"])
    short = [f"{wnid} {found[wnid]} of {source.train_images[wnid]}" for wnid in wnids
             if found[wnid] < source.train_images.get(wnid, 0)]  # fmt: skip
    if short:
        more = f" and {len(short) - 5} more" if len(short) > 5 else ""
        print(f"warning: {len(short)} classes are short of training pictures: {', '.join(short[:5])}{more}")


def check_md5(source: Source) -> None:
    """RequestError if a file is not what was published."""
    if not source.md5:
        print("note: no official md5 is known for these files")
    for path, official in source.md5.items():
        digest = hashlib.md5(usedforsecurity=False)
        bar = tqdm(total=path.stat().st_size, desc=f"md5 of {path.name}", unit="B", unit_scale=True, leave=False)
        with path.open("rb") as file, bar:
            while block := file.read(1 << 22):
                digest.update(block)
                bar.update(len(block))
        if digest.hexdigest() != official:
            raise RequestError(f"{path}: its md5 is {digest.hexdigest()}, officially {official}; download it again")
        print(f"{path}: md5 as published")
