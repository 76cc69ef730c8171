"""What goes wrong around a preparation: the disk, the source, other processes. One line each, and nothing is lost."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import layouts
import numpy as np
import pytest
from conftest import independent_reading, prepare_config
from test_prepare import contents

from data_prep import prepare as prepare_module
from data_prep.common.errors import RequestError, RunError
from data_prep.common.files import exclusive
from data_prep.format import Manifest
from data_prep.prepare import prepare
from data_prep.verify import check


def folders_of(archives: Path, folder: Path) -> Path:
    layouts.image_folder(folder, *independent_reading(archives))
    return folder


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) < 500
    return text


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1.8 MB: what is estimated for the noise below, and less than it takes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if not mount or subprocess.run([mount, "-t", "tmpfs", "-o", "size=1800k", "tmpfs", folder], check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def noise_folders(folder: Path) -> Path:
    """Images that JPEG cannot make small, so that they need more room than is estimated."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 4)):
        for i in range(count):
            header = b"P6 128 128 255\n"
            pixels = rng.integers(0, 256, 128 * 128 * 3, np.uint8).tobytes()
            layouts.write(folder / split / f"class{i % 2}" / f"{i}.ppm", header + pixels)
    return folder


def test_a_disk_that_fills_up(tmpfs: Path, tmp_path: Path) -> None:
    src = noise_folders(tmp_path / "src")
    config = prepare_config(src, tmpfs / "out", image_size=128, images_per_shard=4)
    with pytest.raises(RunError) as error:
        prepare(config)
    assert f"{tmpfs}/out/" in one_line(error)
    assert "cannot be written (No space left on device); make room there; what was finished is kept" in str(error.value)
    kept = {name: data for name, data in contents(tmpfs / "out").items() if name.endswith(".tar")}
    assert kept
    subprocess.run(["mount", "-o", "remount,size=8m", tmpfs], check=True)
    prepare(config)
    assert kept.items() <= contents(tmpfs / "out").items()
    prepare(prepare_config(src, tmp_path / "whole" / "out", image_size=128, images_per_shard=4))
    assert contents(tmpfs / "out") == contents(tmp_path / "whole" / "out")


@pytest.mark.parametrize("file", ["train/shard-00002.tar", ".unfinished/train-00001.npz", "mean.npy", "manifest.json"])
def test_a_file_that_finds_the_disk_full(
    file: str, archives: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without privileges: the temporary name of one file is /dev/full, which takes no byte."""
    out = tmp_path / "small"
    with monkeypatch.context() as patch, pytest.raises(RunError, match="not yet"):
        patch.setattr(prepare_module, "_make", stop)
        prepare(prepare_config(archives, out))
    (out / f"{file}.partial").symlink_to("/dev/full")
    with pytest.raises(RunError) as error:
        prepare(prepare_config(archives, out))
    assert "cannot be written (No space left on device)" in one_line(error)
    prepare(prepare_config(archives, out))
    assert contents(out) == contents(prepared)


def stop(*_: object) -> None:
    raise RunError("not yet")


def test_a_disk_that_is_too_small_is_refused_before_any_work(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    with pytest.raises(RequestError, match=r"needs about \d+\.\d MB, and 0\.1 MB are free there; make room"):
        prepare(prepare_config(archives, tmp_path / "out", image_size=256))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("in_source_order", "needed"), [("false", "6.6 MB"), ("true", "13.1 MB")])
def test_the_room_for_the_records_is_counted(
    in_source_order: str, needed: str, archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 90 shards of an image each, with sums of 4 x 3 x 75 x 75 bytes, and 5.4 kB for the image."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))
    config = prepare_config(archives, tmp_path / "out", images_per_shard=1, in_source_order=in_source_order)
    with pytest.raises(RequestError, match=f"needs about {needed}, and"):
        prepare(config)


def test_a_shard_that_is_lost_between_runs(
    archives: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "small"
    with monkeypatch.context() as patch, pytest.raises(RunError, match="not yet"):
        patch.setattr(prepare_module, "finish", stop)
        prepare(prepare_config(archives, out))
    (out / "val/shard-00000.tar").unlink()
    prepare(prepare_config(archives, out))
    assert contents(out) == contents(prepared)


def test_paths_that_are_no_utf8(archives: Path, tmp_path: Path) -> None:
    src, out = (tmp_path / os.fsdecode(name) for name in (b"b\xe9ta", b"s\xe9t"))
    folders_of(archives, src)
    prepare(replace(prepare_config(archives, tmp_path), src=str(src), out=str(out)))
    manifest = Manifest.load(out)
    assert (manifest.name, manifest.source["path"]) == (r"s\xe9t", rf"{tmp_path}/b\xe9ta")
    assert check(out).problems == []


@pytest.mark.parametrize("way", ["gone", "shorter", "directory"])
def test_a_source_that_changes_meanwhile(
    way: str, archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = folders_of(archives, tmp_path / "src")
    image = next((src / "train").glob("*/*_3.JPEG"))
    data = image.read_bytes()

    def change(*_: object) -> None:
        image.unlink()
        if way == "shorter":
            image.write_bytes(data[:100])
        elif way == "directory":
            image.mkdir()

    monkeypatch.setattr(prepare_module, "check_free_space", change)  # after the listing, before the work
    with pytest.raises(RunError) as error:
        prepare(prepare_config(src, tmp_path / "out"))
    said = {"gone": "No such file", "shorter": f"ends after 100 of the {len(data)}", "directory": "Is a directory"}[way]
    assert str(image) in one_line(error) and said in str(error.value) and "mend the source" in str(error.value)
    monkeypatch.undo()
    if way == "directory":
        image.rmdir()
    image.write_bytes(data)
    prepare(prepare_config(src, tmp_path / "out"))
    assert check(tmp_path / "out").problems == []


def test_a_source_that_changes_between_runs(archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src, out = folders_of(archives, tmp_path / "src"), tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(RunError, match="not yet"):
        patch.setattr(prepare_module, "finish", stop)
        prepare(prepare_config(src, out))
    before = contents(out)
    image = next((src / "train").glob("*/*_3.JPEG"))
    data = image.read_bytes()
    image.write_bytes(data + b"\0")
    with pytest.raises(RequestError, match=r"a data set was begun there from other images \(as many, but not the"):
        prepare(prepare_config(src, out))
    image.unlink()
    with pytest.raises(RequestError, match=r"from other images \(60 train, 30 val; src has 59 train, 30 val\)"):
        prepare(prepare_config(src, out))
    image.write_bytes(data)
    with pytest.raises(RequestError, match=r"with encoding=jpeg, not raw; choose another folder, or delete that one"):
        prepare(prepare_config(tmp_path / "not even looked at", out, encoding="raw"))
    with pytest.raises(RequestError, match="was begun with in_source_order=false; go on with that"):
        prepare(prepare_config(src, out, in_source_order=True))
    assert contents(out) == before
    prepare(prepare_config(src, out))
    image.write_bytes(data + b"\0")
    with pytest.raises(RequestError, match="holds a data set from other images"):
        prepare(prepare_config(src, out))


def test_a_source_without_permission(archives: Path, tmp_path: Path) -> None:
    """As a user would see it, in a process that is not root."""
    src = folders_of(archives, tmp_path / "src")
    closed = src / "train"
    program = f"""
import os, sys
from pathlib import Path
from data_prep.common.errors import RequestError
from data_prep.sources import find_source
if os.geteuid() == 0:
    os.seteuid(65534)
try:
    find_source(Path({str(src)!r}))
except RequestError as error:
    print(error)
"""
    for folder in (tmp_path, *tmp_path.parents):
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)
    closed.chmod(0)
    try:
        said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    finally:
        closed.chmod(0o755)
    assert said == f"src={src}: {closed} cannot be read (Permission denied); mend it, or copy it anew\n"


def test_a_class_without_an_image_that_can_be_read(archives: Path, tmp_path: Path) -> None:
    src = folders_of(archives, tmp_path / "src")
    layouts.write(src / "train/n00000000/a.JPEG", b"no image")
    with pytest.raises(RunError, match="none of the train images of n00000000 can be read") as error:
        prepare(prepare_config(src, tmp_path / "out", max_rejected=0.1))
    one_line(error)


def test_a_temporary_folder_whose_name_no_socket_takes(
    archives: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ("t" * 143)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("t" * 143)))
    prepare(prepare_config(archives, tmp_path / "small"))
    assert contents(tmp_path / "small") == contents(prepared)


def test_two_at_once_on_one_folder(archives: Path, tmp_path: Path) -> None:
    """The second is refused before it lists the source, which is not even there."""
    out, nowhere = tmp_path / "out", tmp_path / "nowhere"
    (out / ".unfinished").mkdir(parents=True)
    with (
        exclusive(out / ".unfinished" / "lock", "the other"),
        pytest.raises(RequestError, match=f"out={out}: another process is at work on it"),
    ):
        prepare(prepare_config(nowhere, out))
    prepare(prepare_config(archives, out))
    assert check(out).problems == []


def test_a_lock_that_the_other_has_just_cleared_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "lock"
    import fcntl

    taken = fcntl.flock

    def finished_meanwhile(*arguments: object) -> None:
        lock.unlink()
        taken(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", finished_meanwhile)
    with pytest.raises(RequestError, match="has just finished it"), exclusive(lock, "out"):
        pass


def test_the_lock_is_let_go_before_it_is_cleared_away(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On NFS the name of an open file stays, and its folder with it."""
    cleared = []

    def clear(folder: Path, **options: bool) -> None:
        with exclusive(folder / "lock", "out"):  # which is refused while the lock is held
            cleared.append(folder)
        shutil.rmtree(folder, **options)

    monkeypatch.setattr(prepare_module, "shutil", SimpleNamespace(rmtree=clear))
    prepare(prepare_config(archives, tmp_path / "out"))
    assert cleared == [tmp_path / "out/.unfinished"] and not cleared[0].exists()


def test_wrong_requests_as_typed(archives: Path, tmp_path: Path) -> None:
    def run(*settings: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "data_prep.prepare", *settings]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        return result.returncode, result.stderr.splitlines()[-1]

    code, said = run(f"src={archives}", f"out={tmp_path / 'o'}", "val_from_train=1.5")
    assert code == 2 and said.endswith("val_from_train=1.5: must be a fraction between 0 and 1, or null")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    code, said = run(f"src={archives}", f"out={tmp_path / 'full'}")
    assert code == 2 and "is not empty, and no preparation was begun there" in said
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


@pytest.fixture
def damaged(prepared: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    shutil.copytree(prepared, tmp_path / "damaged")
    return tmp_path / "damaged"


def with_its_sha256(folder: Path, shard: str, data: bytes) -> None:
    """Writes the shard and makes the manifest agree: what only a reading of the tar can find."""
    import hashlib

    (folder / "train" / shard).write_bytes(data)
    manifest = Manifest.load(folder)
    for info in manifest.splits["train"].shards:
        if info.file == shard:
            info.sha256, info.bytes = hashlib.sha256(data).hexdigest(), len(data)
    manifest.save(folder)


def test_damage_that_the_checksum_does_not_show(damaged: Path) -> None:
    shard = (damaged / "train" / "shard-00000.tar").read_bytes()
    index = np.load(damaged / "train" / "index.npy")
    start = int(index["offset"][1])

    def problems(data: bytes) -> list[str]:
        with_its_sha256(damaged, "shard-00000.tar", data)
        found = check(damaged).problems
        assert all("\n" not in problem for problem in found)
        return found

    (only,) = problems(b"no tar at all" * 100)
    assert "shard-00000.tar: cannot be read" in only or "its members are not pairs" in only
    (only,) = problems(b"")
    assert "shard-00000.tar: cannot be read" in only
    (only,) = problems(shard[:start] + bytes(100) + shard[start + 100 :])
    assert "000000001.jpg: cannot be decoded" in only
    label = shard.index(b"000000001.cls") + 512
    (only,) = problems(shard[:label] + bytes([shard[label] ^ 1]) + shard[label + 1 :])
    assert "000000001.jpg: label differs from the index" in only
    (only,) = problems(shard.replace(b"000000003.cls", b"000000004.cls"))  # also breaks the header's checksum
    assert "shard-00000.tar: cannot be read" in only or "shard-00000.tar: its members are not pairs" in only
    assert problems(shard) == []


def test_damage_outside_the_shards(damaged: Path) -> None:
    def problems() -> list[str]:
        return check(damaged).problems

    mean = (damaged / "mean.npy").read_bytes()
    (damaged / "mean.npy").write_bytes(mean[:-1] + bytes([mean[-1] ^ 1]))
    (only,) = problems()
    assert "mean.npy: its bytes are not those that were written" in only
    (damaged / "mean.npy").write_bytes(mean[:200])
    (only,) = problems()
    assert "mean.npy: cannot be read" in only
    (damaged / "mean.npy").write_bytes(mean)

    index_file = damaged / "val" / "index.npy"
    index = np.load(index_file)
    rows = index.copy()
    rows["label"][[0, 1]] = [rows["label"][0] + 1, 77]
    np.save(index_file, rows)
    found = problems()
    assert "val/index.npy: its bytes are not those" in found[0] and "has labels outside 0 to 9" in found[1]
    assert sum("label differs from the index" in problem for problem in found) == 2
    index_file.unlink()
    (only,) = problems()
    assert "val/index.npy: cannot be read" in only
    np.save(index_file, index)
    (damaged / "val" / "shard-00009.tar").write_bytes(b"")
    (only,) = problems()
    assert "shard-00009.tar: no part of the data set" in only


def test_verify_as_typed(damaged: Path, prepared: Path, tmp_path: Path) -> None:
    from data_prep.verify import main

    assert main([str(prepared)]) == main([f"out={prepared}"]) == 0
    (damaged / "train" / "shard-00001.tar").unlink()
    assert main([str(damaged)]) == 1
    assert main([]) == 2 and main(["--help"]) == 0
    with pytest.raises(RequestError, match="no prepared data set here"):
        main([str(tmp_path)])
    (damaged / "manifest.json").write_text(json.dumps([1]))
    with pytest.raises(RequestError, match="not a manifest"):
        main([str(damaged)])


def test_images_that_are_in_train_and_val(archives: Path, tmp_path: Path) -> None:
    train, val = independent_reading(archives)
    (_, (wnid, data)), name = next(iter(train.items())), next(iter(val))
    layouts.image_folder(tmp_path / "src", train, {**val, name: (wnid, data)})
    prepare(prepare_config(tmp_path / "src", tmp_path / "out"))
    found = check(tmp_path / "out")
    assert found.problems == []
    (note,) = found.notes
    assert note.startswith("1 val images are in train too, byte for byte; first val/shard-")
