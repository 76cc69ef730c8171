"""python tests/benchmarks/start_of_training.py runs/A runs/B ...: the step at which each run's loss left ln(classes).

From metrics.jsonl; train the runs with log_every=10. docs/claims.md has the commands of a measurement.
"""

import sys
from pathlib import Path

from alexnet_repro.data import PreparedData
from alexnet_repro.runs.folder import RunFolder
from alexnet_repro.runs.metrics_log import read_metrics
from alexnet_repro.training.chance import step_that_left
from data_prep.common.endings import run_and_exit


def main(folders: list[str]) -> None:
    for folder in map(RunFolder, map(Path, folders)):
        config, entries = folder.config(), read_metrics(folder.metrics, "steps")
        classes = len(PreparedData(config.data.path).classes)
        left = step_that_left(entries, classes)
        last = int(entries[-1]["step"]) if entries else 0
        found = f"left ln({classes}) at step {left}" if left else f"still at ln({classes}) at step {last}"
        model, optim = config.model, config.optim
        print(
            f"{folder.path}: {found}; {model.name}, width {model.width:g}, input {model.input_size}, batch "
            f"{optim.batch_size}, rate {optim.learning_rate:g}, entries every {config.log_every} steps"
        )


if __name__ == "__main__":
    run_and_exit(lambda: main(sys.argv[1:]))
