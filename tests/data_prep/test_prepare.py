"""Official archives to a prepared data set, checked with tarfile, scipy and Pillow alone."""

import contextlib
import io
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import numpy as np
import pytest
from conftest import independent_reading, prepare_config
from PIL import Image
from test_photographs import reference

from data_prep import prepare as prepare_module
from data_prep import sample, sample_images
from data_prep.common.errors import RequestError, RunError
from data_prep.common.files import write_atomically
from data_prep.format import Manifest
from data_prep.prepare import prepare
from data_prep.reader import SplitReader
from data_prep.sample import image_file
from data_prep.verify import check


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_labels_and_pixels_are_those_of_the_archives(archives: Path, tmp_path: Path) -> None:
    out = tmp_path / "raw"
    prepare(prepare_config(archives, out, encoding="raw"))
    manifest = Manifest.load(out)
    train, val = independent_reading(archives)
    wnids = [c.wnid for c in manifest.classes]
    assert wnids == sorted({wnid for wnid, _ in train.values()})
    assert manifest.classes[wnids.index("n03530642")].words == "honeycomb"
    for split, images in (("train", train), ("val", val)):
        reader = SplitReader(out, manifest, split)
        got = sorted((wnids[label], image.tobytes()) for image, label in (reader[i] for i in range(len(reader))))
        assert got == sorted((wnid, reference(data, 75).tobytes()) for wnid, data in images.values())
    labels = SplitReader(out, manifest, "train").labels
    assert (np.diff(labels) < 0).any()  # train is shuffled
    val_names = sorted(val)
    assert [wnids[i] for i in SplitReader(out, manifest, "val").labels] == [val[name][0] for name in val_names]
    pixels = np.stack([SplitReader(out, manifest, "train")[i][0] for i in range(60)]).astype(np.float64)
    np.testing.assert_allclose(np.load(out / "mean.npy"), pixels.mean(0), rtol=1e-6)
    covariance = np.cov(pixels.reshape(-1, 3).T, bias=True)
    np.testing.assert_allclose(manifest.statistics["rgb_covariance"], covariance, rtol=1e-9)


def test_the_sample_has_the_odd_files_of_imagenet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blank images instead of drawn ones: what kind of file an image becomes does not depend on what it shows."""
    monkeypatch.setattr(sample_images, "draw", lambda wnid, rng, width, height: Image.new("RGB", (width, height)))
    images = (Image.open(io.BytesIO(image_file("n11939491", (9, i)))) for i in range(250))
    kinds = {(image.format, image.mode) for image in images}
    assert kinds >= {("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB")}


def test_a_sample_that_was_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The archives of two requests are not taken for those of one."""
    monkeypatch.setattr(sample, "image_file", lambda wnid, seed: b"an image")
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: SimpleNamespace(Pool=ThreadPool))
    first = [str(tmp_path), "--train=1", "--val=1"]
    sample.main(first)
    sample.main(first)
    assert capsys.readouterr().out.endswith("the sample is there already\n")

    def killed(path: Path, write: Callable[[BinaryIO], object]) -> None:
        if path.name == sample.VAL:
            raise KeyboardInterrupt
        write_atomically(path, write)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sample, "write_atomically", killed)
        sample.main([str(tmp_path), "--train=2", "--val=1"])
    sample.main(first)
    assert capsys.readouterr().out.endswith("1 training and 1 validation images of each of 10 classes\n")


def test_a_worker_for_each_core_that_may_be_used(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a machine's 128, `srun --cpus-per-task=4` gives four."""
    asked = []

    def run(tasks: Sequence[object], workers: int, bar: object) -> None:
        asked.append(workers)
        raise RunError("not yet")

    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {8, 9, 10, 11}, raising=False)
    monkeypatch.setattr(prepare_module, "run_tasks", run)
    with pytest.raises(RunError, match="not yet"):
        prepare(prepare_config(archives, tmp_path / "out", workers="null"))
    assert asked == [4]


def test_shards_are_plain_tars(prepared: Path) -> None:
    manifest = Manifest.load(prepared)
    reader = SplitReader(prepared, manifest, "train")
    seen = 0
    for shard in manifest.splits["train"].shards:
        with tarfile.open(prepared / "train" / shard.file) as tar:
            members = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}  # type: ignore[union-attr]
        for name, data in members.items():
            if name.endswith(".jpg"):
                assert data == bytes(reader.member(seen))
                assert int(members[name[:-4] + ".cls"]) == reader.labels[seen]
                assert Image.open(io.BytesIO(data)).size == (75, 75)
                seen += 1
    assert seen == 60


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_shards_as_other_tools_open_them(encoding: str, archives: Path, tmp_path: Path) -> None:
    """`tar`, and the webdataset library, which pairs members by their names and decodes by their endings."""
    import webdataset

    prepare(prepare_config(archives, tmp_path / "out", encoding=encoding))
    manifest = Manifest.load(tmp_path / "out")
    reader = SplitReader(tmp_path / "out", manifest, "train")
    shards = [str(tmp_path / "out" / "train" / shard.file) for shard in manifest.splits["train"].shards]
    (tmp_path / "unpacked").mkdir()
    for shard in shards:
        subprocess.run(["tar", "-xf", shard, "-C", tmp_path / "unpacked"], check=True)
    ending = {"jpeg": "jpg", "raw": "npy"}[encoding]
    for i in range(len(reader)):
        assert (tmp_path / "unpacked" / f"{i:09d}.{ending}").read_bytes() == reader.member(i)
        assert int((tmp_path / "unpacked" / f"{i:09d}.cls").read_text()) == reader.labels[i]
    dataset = webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8").to_tuple(ending, "cls")
    for i, (pixels, label) in enumerate(dataset):
        np.testing.assert_array_equal(pixels, reader[i][0])
        assert label == reader.labels[i]
    assert i == 59


class Killable:
    """tests/data_prep/killable.py: preparations of `archives`, started in far less time than a command takes."""

    def __init__(self, archives: Path) -> None:
        self.settings = [f"src={archives}", "image_size=75", "images_per_shard=4", "workers=2"]
        self.server = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("killable.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, start_new_session=True,
        )  # fmt: skip

    def start(self, out: Path, *more: str) -> int:
        assert self.server.stdin and self.server.stdout
        self.server.stdin.write(json.dumps([*self.settings, f"out={out}", *more]) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def end(self) -> int:
        assert self.server.stdout
        return int(self.server.stdout.readline())

    def close(self) -> None:
        assert self.server.stdin and self.server.stdout
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()


@pytest.fixture(scope="module")
def whole(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every file of a preparation that was not disturbed, in shards of four."""
    out = tmp_path_factory.mktemp("whole") / "small"  # the name is part of the manifest
    prepare(prepare_config(archives, out, images_per_shard=4))
    return contents(out)


@pytest.mark.parametrize(("kills", "in_source_order"), [(6, "false"), (4, "true")])
def test_kills_at_random_moments(
    archives: Path, whole: dict[str, bytes], tmp_path: Path, kills: int, in_source_order: str
) -> None:
    """Wherever it strikes, in a shard, between shards or at the end: started again, it ends byte-identical.

    Half of the kills spare the workers, which must not go on writing beside those of the next preparation.
    """
    more = f"in_source_order={in_source_order}"
    out = tmp_path / "small"
    killable = Killable(archives)
    killable.start(out, more)
    started = time.monotonic()
    assert killable.end() == 0
    whole_run = time.monotonic() - started
    assert contents(out) == whole
    rng = np.random.default_rng(0)
    done = 0
    while done < kills:
        if (out / "manifest.json").exists():
            shutil.rmtree(out)
        process = killable.start(out, more)
        time.sleep(rng.uniform(0, 1) * whole_run)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL) if done % 2 else os.kill(process, signal.SIGKILL)
        status = killable.end()
        assert status in (0, signal.SIGKILL)
        done += status == signal.SIGKILL
        if (out / "manifest.json").exists():
            killable.start(out, more)  # nothing to do, or to clear away
            assert killable.end() == 0
            assert contents(out) == whole
    killable.start(out, more)
    assert killable.end() == 0
    assert contents(out) == whole
    killable.close()


def test_the_command_killed_and_started_again(archives: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    """As typed: killed when the first shards are there, its workers left behind."""
    out = tmp_path / "small"
    command = [sys.executable, "-m", "data_prep.prepare", f"src={archives}", f"out={out}", "image_size=75"]
    command += ["images_per_shard=4", "workers=2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(out.glob(".unfinished/*.npz"))) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "\r" not in result.stderr  # which is no terminal
    assert re.search(r"continuing: \d+ of 23 parts are there already", result.stdout)
    assert "images/s" in result.stderr and "MB/s" in result.stderr
    assert contents(out) == whole


def test_killed_before_anything_was_planned(archives: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / ".unfinished").mkdir(parents=True)
    (out / ".unfinished" / "plan.json.partial").write_text('{"pl')
    prepare(prepare_config(archives, out))
    assert check(out).problems == []
    assert not (out / ".unfinished").exists()


def test_more_shards_than_open_files(prepared: Path) -> None:
    """ImageNet has 1252 shards, and a process often may open 256 or 1024 files."""
    reader = SplitReader(prepared, Manifest.load(prepared), "train")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(list(Path("/dev/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 2, hard))
    try:
        for i in range(len(reader)):
            reader.member(i)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_unreadable_images_are_listed_and_too_many_fail(archives: Path, tmp_path: Path) -> None:
    train, val = independent_reading(archives)
    for split, images in (("train", train), ("val", val)):
        for name, (wnid, data) in images.items():
            path = tmp_path / "src" / split / wnid / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data[: len(data) // 2] if name == "n03530642_3.JPEG" else data)
    with pytest.raises(RunError, match=r"1 of 90 images cannot be read.*n03530642_3\.JPEG"):
        prepare(prepare_config(tmp_path / "src", tmp_path / "strict"))
    prepare(prepare_config(tmp_path / "src", tmp_path / "lenient", max_rejected=0.02))
    manifest = Manifest.load(tmp_path / "lenient")
    assert [(r.split, r.name) for r in manifest.rejected] == [("train", "n03530642/n03530642_3.JPEG")]
    assert manifest.splits["train"].images == 59
    assert check(tmp_path / "lenient").problems == []


def test_verify_finds_what_is_wrong(archives: Path, prepared: Path, tmp_path: Path) -> None:
    assert check(prepared).problems == []
    bad = tmp_path / "bad"
    shutil.copytree(prepared, bad)
    shard = bad / "train" / "shard-00001.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    (bad / "val" / "shard-00000.tar").unlink()
    found = check(bad).problems
    assert len(found) == 2
    assert "shard-00001.tar: its bytes are not those" in found[0]
    assert "val/shard-00000.tar: missing" in found[1]
    with pytest.raises(RequestError, match=r"val/shard-00000\.tar: is missing or has changed; delete"):
        prepare(prepare_config(archives, bad))


def test_wrong_requests(archives: Path, prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("mine")
    for src, out, said in (
        (tmp_path / "nowhere", tmp_path / "o", "nowhere: does not exist"),
        (tmp_path / "other", tmp_path / "o", "found letter.txt, but no layout known.{1,250}$"),
        (archives, tmp_path / "other", "is not empty"),
    ):
        with pytest.raises(RequestError, match=said):
            prepare(prepare_config(src, out))
    with pytest.raises(RequestError, match="a data set with jpeg_quality=95, not 80"):
        prepare(prepare_config(archives, prepared, jpeg_quality=80))
    partial = tmp_path / "partial"
    partial.mkdir()
    shutil.copy(archives / "ILSVRC2012_img_train.tar", partial)
    with pytest.raises(RequestError, match=r"ILSVRC2012_img_val\.tar is missing"):
        prepare(prepare_config(partial, tmp_path / "o"))
    assert not (tmp_path / "o").exists()
    assert (tmp_path / "other" / "letter.txt").read_text() == "mine"


def test_a_manifest_of_another_version_is_refused(prepared: Path, tmp_path: Path) -> None:
    raw = json.loads((prepared / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**raw, "format_version": 99}))
    with pytest.raises(RequestError, match="format version 99"):
        Manifest.load(tmp_path)
