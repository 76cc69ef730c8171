"""python -m alexnet_repro.evaluate run=NAME [split=val] [views=10|1]: errors, predictions and the report.

With runs=[a,b,c] [weights=[...]], of the ensemble; with --multirun run=a,b,c, of one after the other. What was stopped
goes on where it was.
"""

from contextlib import ExitStack
from pathlib import Path

from alexnet_repro.config import EvaluateConfig
from alexnet_repro.data import PreparedData
from alexnet_repro.evaluation.evaluation import Evaluation
from alexnet_repro.evaluation.predictions import FILE, KeptPredictions, picture_names
from alexnet_repro.evaluation.submission import check_ids, read_ids, write_submission
from alexnet_repro.reporting.progress import duration, percent
from alexnet_repro.reporting.report import report_folder, write_report
from alexnet_repro.run_folder import RunFolder
from alexnet_repro.trained import prepared_for
from data_prep.command import RequestError, main
from data_prep.format import exclusive


def evaluate(config: EvaluateConfig) -> None:
    members = config.members()
    configs = [RunFolder(member.folder).config() for member in members]
    data = prepared_for(configs[0], config.data_path)
    reader = data.split(config.split)
    ids = _ids(config, [info.wnid for info in data.manifest.classes])
    name = "+".join(config.names())
    out = _out(config)
    with ExitStack() as locks:
        for folder in sorted({out, *(report_folder(member.folder, config.split) for member in members)}):
            _make(folder)
            locks.enter_context(exclusive(folder / ".lock", str(folder)))
        print(f"data: {data.describe()}; split {config.split}, {config.views} view{'s' * (config.views > 1)}")
        evaluation = Evaluation(config, data, members, configs)
        kept = evaluation.run(picture_names(reader))
        kept.save(out / FILE)
        facts = evaluation.facts(name, kept)
        evaluation.draw(kept, out, facts["fingerprint"])
        report = write_report(out, facts)
        evaluation.forget()
    for row in facts["results"]:
        low, high = row["top1_interval"]
        print(f"{row['views']:>2} view{'s' * (row['views'] > 1)}: top-1 error {percent(row['top1_error'])} "
              f"({100 * low:.1f} to {100 * high:.1f}), top-5 error {percent(row['top5_error'])}, "
              f"log-loss {row['log_loss']:.3f}")  # fmt: skip
    if config.submission:
        _submit(Path(config.submission), kept, ids, data, config.split)
    seconds = duration(facts["seconds"])
    print(f"{len(reader)} images of {data.manifest.name} in {seconds}; predictions: {out / FILE}; report: {report}")


def check(config: EvaluateConfig) -> None:
    """RequestError for whatever can be known to be wrong before one of several jobs begins."""
    folders = [RunFolder(member.folder) for member in config.members()]
    data = prepared_for(folders[0].config(), config.data_path)
    data.split(config.split)
    for folder in folders:
        if not (path := folder.checkpoint_path(config.checkpoint)).is_file():
            raise RequestError(f"{path}: no such checkpoint; train the run first, or name another with checkpoint=...")
    _ids(config, [info.wnid for info in data.manifest.classes])


def _out(config: EvaluateConfig) -> Path:
    name = "+".join(config.names())
    return Path(config.out) if config.out else report_folder(Path(config.runs_dir) / name, config.split)


def _ids(config: EvaluateConfig, classes: list[str]) -> dict[str, int]:
    if config.submission is None or config.devkit is None:
        return {}
    if not Path(config.submission).absolute().parent.is_dir():
        raise RequestError(f"submission={config.submission}: its folder does not exist; make it, or name another file")
    ids = read_ids(Path(config.devkit))
    check_ids(ids, classes, Path(config.devkit))
    return ids


def _submit(path: Path, kept: KeptPredictions, ids: dict[str, int], data: PreparedData, split: str) -> None:
    rejected = sum(entry.split == split for entry in data.manifest.rejected)
    blind = write_submission(path, kept, ids, len(kept.labels) + rejected)
    said = f", {blind} of them blind guesses for pictures that could not be read" if blind else ""
    print(f"{path}: {len(kept.labels) + rejected} lines{said}")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"{folder}: cannot be made ({error.strerror}); choose another folder with out=DIR") from None


if __name__ == "__main__":
    main("evaluate", EvaluateConfig, evaluate, check, writes=_out)
