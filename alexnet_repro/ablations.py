"""python -m alexnet_repro.ablations runs_dir=runs/ablations baseline=NAME: what each change is worth, over seeds.

Takes every run in runs_dir that was evaluated; prints a table, and leaves it there as ablations.md and ablations.json.
"""

from alexnet_repro.config import AblationsConfig
from data_prep.common.cli import command_line, main

if __name__ == "__main__":
    jobs = command_line("ablations", AblationsConfig)  # first, as the imports below take seconds

from pathlib import Path

from alexnet_repro.compare import ablations

if __name__ == "__main__":
    main(jobs, ablations, writes=lambda config: Path(config.runs_dir))
