"""Progress bars with images/s and time left, and the lines that close an epoch."""

from collections.abc import Iterable, Iterator

from tqdm import tqdm

from alexnet_repro.data import Batch


def with_progress(batches: Iterable[Batch], images: int, what: str) -> Iterator[Batch]:
    """The same batches, with a bar on stderr that counts images and vanishes at the end."""
    with tqdm(total=images, desc=what, unit=" images", leave=False) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch.labels))


def percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def duration(seconds: float) -> str:
    """12 s, 3 min 05 s, 2 h 07 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
