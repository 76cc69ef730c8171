"""TensorBoard events of a run."""

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from alexnet_repro.model import AlexNet
from alexnet_repro.reporting.figures import kernel_grid


class Dashboard:
    """One writer a run. A continued run passes the steps it has, and what lies beyond them is purged."""

    def __init__(self, folder: Path, step: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def configuration(self, text: str) -> None:
        self._writer.add_text("configuration", "".join(f"    {line}\n" for line in text.splitlines()))  # as code

    def train(self, step: int, loss: float, learning_rate: float, images_per_second: float) -> None:
        self._writer.add_scalar("train/loss", loss, step)
        self._writer.add_scalar("train/learning_rate", learning_rate, step)
        self._writer.add_scalar("train/images_per_second", images_per_second, step)

    def epoch(self, step: int, numbers: dict[str, float], model: AlexNet) -> None:
        for name in ("val_top1_error", "val_top5_error", "val_loss", "train_top1_error"):
            self._writer.add_scalar(f"epoch/{name}", numbers[name], step)
        if model.conv1.parts()[0].weight.shape[1] == 3:
            self._writer.add_image("conv1 kernels", kernel_grid(model), step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
