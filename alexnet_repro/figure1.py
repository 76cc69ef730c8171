"""python -m alexnet_repro.figure1 [runs_dir=runs]: Figure 1 from runs of experiment=cifar10_relu and cifar10_tanh.

The training error of an epoch is the mean over its batches, each before its update, as the code of 2012 printed it.
When it reaches the error that is asked for is interpolated linearly between epochs.
"""

from alexnet_repro.config import Figure1Config
from data_prep.common.cli import command_line, main

if __name__ == "__main__":
    jobs = command_line("figure1", Figure1Config)  # first, as the imports below take seconds

from alexnet_repro.figures import figure1

if __name__ == "__main__":
    main(jobs, figure1)
