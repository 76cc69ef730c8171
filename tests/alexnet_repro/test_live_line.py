"""The line that is seen while a run trains, on a terminal and in a file, and the one that closes an epoch."""

import io
import re

import pytest
from evidence import EPOCH_ROW

from alexnet_repro.monitor.progress import TrainingBar, epoch_line
from data_prep.common.text import duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def train_an_epoch(stream: io.StringIO) -> list[float]:
    """200 batches of 50 pictures, 2 s each, a quarter of it waiting, in epoch 3 of 5."""
    now = [0.0]
    settings = {"epoch": 3, "epochs": 5, "images": 10_000, "fixed_end": True, "between_epochs": 100.0}
    errors = {"train_top1_error": 0.7, "train_top5_error": 0.4}
    with TrainingBar(**settings, last=EPOCH_ROW, stream=stream, clock=lambda: now[0]) as bar:  # type: ignore[arg-type]
        for step in range(1, 101):
            now[0] += 2.0
            bar.update(50, 0.5, step, loss=2.0, learning_rate=0.01, **(errors if step > 50 else {}))
    return now


def test_the_live_line_in_a_file_is_a_plain_line_a_minute() -> None:
    stream = io.StringIO()
    train_an_epoch(stream)
    lines = stream.getvalue().splitlines()
    assert "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()
    assert len(lines) == 3  # 200 seconds
    # At 90 of 200 batches 5,500 pictures are left at 25 a second: 220 s; then 100 s of validation and two epochs more.
    assert lines[2] == (
        "epoch 3/5 45 %  step 90  loss 2.000  left 3 min 40 s (run 22 min 00 s)  25.0 images/s  "
        "train error 70.0 %, top-5 40.0 %  val 62.5 %, top-5 25.0 %  rate 0.01  waits for data 25.0 %"
    )


def test_the_live_line_on_a_terminal_is_one_line_that_vanishes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    train_an_epoch(stream)
    drawn = [line for line in stream.getvalue().split("\r") if line.strip()]
    assert "\n" not in stream.getvalue() and stream.getvalue().endswith("\r")
    assert re.match(r"epoch 3/5  50 % \|\S+ +\|  step 100  loss 2\.000  left 3 min 20 s \(run 21 min 40 s\)", drawn[-1])


def test_the_line_that_closes_an_epoch() -> None:
    assert epoch_line(EPOCH_ROW, 90) == (
        "epoch 1/90  rate 0.01  train loss 2.250, top-1 error 75.0 %, top-5 37.5 %  "
        "val loss 2.500, top-1 62.5 %, top-5 25.0 %  "
        "50.0 images/s, waited for data 50.0 %, 1 min 04 s"
    )
    spans = {12.2: "12 s", 59.6: "1 min 00 s", 3599.8: "1 h 00 min", 5.5 * 86400: "5 d 12 h"}
    assert {seconds: duration(seconds) for seconds in spans} == spans
