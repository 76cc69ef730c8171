"""python -m alexnet_repro.figures run=NAME: the kernels of conv1 (Figure 3) and the learning curves of a run."""

from alexnet_repro.config import FiguresConfig
from alexnet_repro.reporting.figures import save_curves, save_kernels
from alexnet_repro.run_folder import LAST, RunFolder
from alexnet_repro.trained import load_trained
from data_prep.command import RequestError, main


def figures(config: FiguresConfig) -> None:
    folder = RunFolder(config.folder)
    trained = load_trained(config, config.checkpoint)
    channels = trained.checkpoint.mean_image.shape[-1]
    if channels != 3:
        raise RequestError(
            f"run={config.run}: its kernels have {channels} channels; Figure 3 shows those of colour pictures"
        )
    history = folder.checkpoint(LAST).history
    folder.report.mkdir(parents=True, exist_ok=True)
    kernels, curves = folder.report / "conv1_kernels.png", folder.report / "curves.png"
    save_kernels(trained.model, kernels)
    save_curves(history, curves, f"{config.run}: {trained.checkpoint.epoch} epochs")
    print(f"{kernels}\n{curves}")


if __name__ == "__main__":
    main("figures", FiguresConfig, figures)
