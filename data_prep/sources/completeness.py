"""What was found in a source, and what it lacks of a complete copy, or has beyond one."""

import hashlib
from collections import Counter
from collections.abc import Iterator

from data_prep.common.errors import RequestError
from data_prep.common.progress import progress_bar
from data_prep.common.text import few
from data_prep.sources.base import Listing, Source

_NAMED = 5  # classes that a warning names


def print_summary(source: Source, splits: dict[str, Listing], image_size: int) -> None:
    """Prints layout, classes, counts and size, and what is missing of a complete copy."""
    counts = ", ".join(f"{len(listed):,} {split}" for split, listed in splits.items())
    size = sum(listed.total_size() for listed in splits.values())
    classes = len(splits["train"].class_counts())
    print(f"{source.path}: {source.layout}; {classes} classes; {counts} images; {size / 1e6:,.1f} MB")
    for reason in source.left_out:
        print(f"note: left out: {reason}")
    for note in source.notes:
        print(f"note: {note}")
    if source.side and source.side != image_size:
        print(
            f"note: these images are {source.side}x{source.side} and become {image_size}x{image_size}; "
            f"image_size={source.side} encoding=raw would keep them as they are"
        )
    for line in _shortages(source):
        print(line)


def refuse_more(source: Source) -> None:
    """RequestError if a source has more than a complete copy: images, those of two copies or sets, which would count
    twice; or classes, which would move the labels.
    """
    for split, complete in source.complete.items():
        found = len(source.splits.get(split, ()))
        if found > complete:
            raise RequestError(
                f"src={source.path}: {found:,} {split} images, and a complete copy has {complete:,}; two copies in one "
                "folder? Move away what does not belong to it"
            )
    known = source.per_class.get("train", {})
    if known and (others := sorted(source.splits["train"].class_counts().keys() - known.keys())):
        raise RequestError(
            f"src={source.path}: {few(others, 1)} in train, not among the {len(known):,} classes of a complete copy; "
            "move away what does not belong to it"
        )
    if source.per_class_is_least:
        return
    for split, expected in source.per_class.items():
        counts = source.splits[split].class_counts() if split in source.splits else Counter()
        for wnid, number in expected.items():
            if counts[wnid] > number:
                raise RequestError(
                    f"src={source.path}: {counts[wnid]:,} {split} images of {wnid}, and a complete copy has "
                    f"{number:,}; two copies in one folder? Move away what does not belong to it"
                )


def _shortages(source: Source) -> Iterator[str]:
    for split, complete in source.complete.items():
        found = len(source.splits.get(split, ()))
        if split in source.splits and found != complete:
            kind = "note" if found < complete / 2 else "warning"  # a part that was chosen, or one that was lost
            yield f"{kind}: a complete copy has {complete:,} {split} images; this one has {found:,}"
    at_least = "at least " * source.per_class_is_least
    for split, expected in source.per_class.items():
        if split not in source.splits:
            continue
        counts = source.splits[split].class_counts()
        absent = sorted(wnid for wnid in expected if not counts[wnid])
        if len(absent) > len(expected) / 2:  # a part that was chosen
            yield f"note: {len(absent)} of {len(expected)} classes have no {split} images here"
            expected = {wnid: number for wnid, number in expected.items() if counts[wnid]}
        short = [f"{wnid} {counts[wnid]} of {at_least}{expected[wnid]}" for wnid in sorted(expected)
                 if counts[wnid] < expected[wnid]]  # fmt: skip
        if short:
            number = "1 class is" if len(short) == 1 else f"{len(short)} classes are"
            yield f"warning: {number} short of {split} images: {few(short, _NAMED)}"


def check_md5(source: Source) -> None:
    """RequestError if a file is not what was published."""
    if not source.md5:
        print("note: no official md5 is known for these files")
    for path, official in source.md5.items():
        digest = hashlib.md5(usedforsecurity=False)
        bar = progress_bar(path.stat().st_size, f"md5 of {path.name}", unit="B", stays=False)
        with path.open("rb") as file, bar:
            while block := file.read(1 << 22):
                digest.update(block)
                bar.update(len(block))
        if digest.hexdigest() != official:
            raise RequestError(f"{path}: its md5 is {digest.hexdigest()}, officially {official}; download it again")
        print(f"{path}: md5 as published")
