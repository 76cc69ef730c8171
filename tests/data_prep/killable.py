"""Preparations to be killed: `python killable.py` imports what they need once, and forks one for each line it reads.

A line is the settings as JSON. Answers: the process id when it has started, its wait status when it has ended.
"""

import json
import multiprocessing
import os
import sys

from data_prep import pool
from data_prep.common.cli import load
from data_prep.prepare import PrepareConfig, prepare


def main() -> None:
    pool._context = lambda tasks: multiprocessing.get_context("fork")  # type: ignore[assignment]  # no new interpreters
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os.setsid()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            try:
                prepare(load("prepare", PrepareConfig, json.loads(line)))
            except BaseException:
                os._exit(1)
            os._exit(0)
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    main()
