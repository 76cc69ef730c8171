"""python -m alexnet_repro.evaluate run=NAME [split=val] [views=10|1]: error rates and the report."""

import time
from dataclasses import asdict
from typing import Any

import numpy as np

from alexnet_repro import runtime
from alexnet_repro.config import EvaluateConfig, TrainConfig
from alexnet_repro.data import Loading, PreparedData, views_of, whole_images
from alexnet_repro.evaluation.metrics import log_loss, top_k_error
from alexnet_repro.evaluation.predict import predict
from alexnet_repro.evaluation.report import write_report
from alexnet_repro.reporting.progress import duration, percent, with_progress
from alexnet_repro.run_folder import RunFolder, flat
from alexnet_repro.trained import load_trained
from data_prep.command import RequestError, RunError, load, main


def evaluate(config: EvaluateConfig) -> None:
    folder = RunFolder(config.folder)
    trained_with = folder.config()
    trained = load_trained(config, config.checkpoint)
    data = PreparedData(config.data_path or trained_with.data.path)
    if [info.wnid for info in data.manifest.classes] != trained.checkpoint.classes:
        raise RequestError(f"{data.folder}: has other classes than run {config.run} was trained on")
    if data.image_size != trained.image_size:
        raise RequestError(
            f"{data.folder}: images of {data.image_size} pixels, the run was trained on {trained.image_size}"
        )
    reader = data.split(config.split)
    print(f"data: {data.describe()}; split {config.split}, {config.views} view{'s' * (config.views > 1)}")
    started = time.monotonic()
    loading = Loading(runtime.loader_workers(config.runtime), trained.inputs.use_gpu)
    batches = whole_images(reader, data.image_size, config.batch_size, loading)
    shown = with_progress(batches, len(reader), "evaluate")
    predictions = predict(trained.model, shown, views_of(config.views, trained.margin), trained.inputs)
    seconds = time.monotonic() - started
    if not np.isfinite(predictions.average).all():
        raise RunError(f"{folder.path}: checkpoint {config.checkpoint} gives probabilities that are not numbers")
    same_data = trained.checkpoint.data["plan"] == data.identity()["plan"]
    measured = {1: predictions.centre, config.views: predictions.average}
    results = [
        {
            "views": views,
            "top1_error": top_k_error(probabilities, predictions.labels, 1),
            "top5_error": top_k_error(probabilities, predictions.labels, 5),
            "log_loss": log_loss(probabilities, predictions.labels),
        }
        for views, probabilities in measured.items()
    ]
    facts: dict[str, Any] = {
        "run": config.run,
        "model": trained_with.model.name,
        "trained_on": trained.checkpoint.data,
        "data": data.identity(),
        "comparable": config.split == "val" and data.is_whole_ilsvrc2012() and same_data,
        "split": config.split,
        "images": len(reader),
        "checkpoint": config.checkpoint,
        "epochs": trained.checkpoint.epoch,
        "steps": trained.checkpoint.step,
        "results": results,
        "differs_from_paper": differences_from_paper(
            trained_with, trained.checkpoint.data, same_data and data.is_whole_ilsvrc2012()
        ),
        "images_per_second": len(reader) / seconds,
        "seconds": seconds,
        "machine": runtime.machine(),
    }
    report = write_report(folder.report, facts)
    for row in results:
        print(f"{row['views']:>2} view{'s' * (row['views'] > 1)}: top-1 error {percent(row['top1_error'])}, "
              f"top-5 error {percent(row['top5_error'])}, log-loss {row['log_loss']:.3f}")  # fmt: skip
    print(f"{len(reader)} images of {data.manifest.name} in {duration(seconds)}; report: {report}")


def differences_from_paper(config: TrainConfig, trained_on: dict[str, str], whole_ilsvrc2012: bool) -> list[str]:
    """Every setting of the run that profile `paper` has otherwise, and the data if they are not ILSVRC-2012."""
    differences = [] if whole_ilsvrc2012 else [f"trained on: {trained_on['description']}"]
    paper = flat(asdict(load("train", TrainConfig)))
    mine = flat(asdict(config))
    for key in sorted(paper.keys() | mine.keys()):
        if key.split(".")[0] in ("model", "augment", "optim", "schedule") and not key.endswith(".name"):
            ours, theirs = mine.get(key), paper.get(key)
            if ours != theirs:
                differences.append(f"{key}: {ours} (paper: {theirs})")
    return differences


if __name__ == "__main__":
    main("evaluate", EvaluateConfig, evaluate)
