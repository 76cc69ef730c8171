"""The line that is seen while a run trains, on a terminal and in a file, and the one that closes an epoch."""

import io
import os
import re

import pytest
from evidence import EPOCH_ROW

from alexnet_repro.monitor.live_line import LiveLine, epoch_line
from data_prep.common.text import duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2


def train_half_an_epoch(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first 100 of 200 batches of 50 images, 2 s each, a quarter of it waiting, in epoch 3 of 5."""
    now = 1000.0
    monkeypatch.setattr("tqdm.std.time", lambda: now)
    monkeypatch.setattr("sys.stderr", stream)
    means = {"train_top1_error": 0.7, "train_top5_error": 0.4, "images_per_second": 25.0, "data_wait": 0.25}
    line = LiveLine(epoch=3, epochs=5, images=10_000, done=0, fixed_end=True, last=EPOCH_ROW)
    for step in range(1, 101):
        now += 2.0
        line.update(step, 2.0, 0.01, 50 * step, means, "still high" if step <= 40 else "")
    line.close()


def test_the_live_line_in_a_file_is_a_plain_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    train_half_an_epoch(stream, monkeypatch)
    lines = stream.getvalue().splitlines()
    assert "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()
    assert len(lines) == 3  # 200 seconds
    assert "step 30, loss 2.000 (still high), run" in lines[0]
    # At 90 of 200 batches 5,500 images are left at 25 a second: 220 s; then two epochs of 400 s more.
    assert lines[2] == (
        "epoch 3/5: 45 %, 4500 of 10000 images, 25.00 images/s, step 90, loss 2.000, run 17 min 00 s left, "
        "train error 70.0 %, top-5 40.0 %, val 62.5 %, top-5 25.0 %, rate 0.01, waits for data 25.0 %, left 03:40"
    )


def test_the_live_line_on_a_terminal_is_one_line_that_vanishes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.get_terminal_size", lambda _: os.terminal_size((110, 30)))
    monkeypatch.setenv("COLUMNS", "110")  # tqdm 4.66 asks for these, and takes one away
    monkeypatch.setenv("LINES", "30")
    stream = Terminal()
    train_half_an_epoch(stream, monkeypatch)
    drawn = [line for line in stream.getvalue().split("\r") if line.strip()]
    assert "\n" not in stream.getvalue() and stream.getvalue().endswith("\r")
    seen = r"epoch 3/5:  50%\|.*\| 5000/10000 \[03:20<03:20, 25\.00 images/s, step 100, loss 2\.000, run 16 min 40 s"
    assert re.match(seen, drawn[-1]), drawn[-1]
    assert len(drawn[-1]) < 110


def test_the_line_that_closes_an_epoch() -> None:
    assert epoch_line(EPOCH_ROW, 90) == (
        "epoch 1/90  rate 0.01  train loss 2.250, top-1 error 75.0 %, top-5 37.5 %  "
        "val loss 2.500, top-1 62.5 %, top-5 25.0 %  "
        "50.0 images/s, waited for data 50.0 %, 1 min 04 s"
    )
    spans = {12.2: "12 s", 59.6: "1 min 00 s", 3599.8: "1 h 00 min", 5.5 * 86400: "5 d 12 h"}
    assert {seconds: duration(seconds) for seconds in spans} == spans
