"""A fine-tune in the engine: from an order to weights in the object store."""

from __future__ import annotations

import logging
from collections.abc import Callable

from service.domain.dataset import Dataset
from service.domain.model import Model
from service.storage.object_store import weights_key
from service.worker.protocol import FineTuneRun, Finished, Started, Weights
from service.worker.run_reporter import Report, Reporter
from service.worker.state_keeper import StateKeeper
from service.worker.workbench import Workbench
from tleg_core.errors import CheckpointError, ConfigError
from tleg_core.fine_tuning import FineTuneSettings, Start
from tleg_core.training.decoded import InputShape
from tleg_core.training.fine_tune import FineTune, Lesson
from tleg_core.training.loop import Wish
from tleg_core.training.network import Network

logger = logging.getLogger(__name__)


def do_fine_tune(run: FineTuneRun, bench: Workbench, report: Report, wish: Callable[[], Wish]) -> None:
    """Fine-tune a model, and report its weights; raises what the training does."""
    settings = FineTuneSettings.from_json(run.settings)
    if settings.nproc != bench.processes.count:
        raise ConfigError("nproc", f"is {settings.nproc}, but {bench.processes.count} processes run")
    model, dataset = Model.from_json(run.model), Dataset.from_json(run.dataset)
    preprocessing = bench.preprocessing(model)
    file = bench.images(dataset)
    args = model.model_args
    shape = InputShape.of(args["img_size"], args["in_chans"], preprocessing)
    lesson = Lesson(
        network=Network(architecture=model.architecture, model_args=args, num_classes=len(file.class_names)),
        weights=bench.weights(model) if settings.start is Start.MODEL else None,
        preprocessing=preprocessing,
        file=file,
        pixels=bench.pixels(dataset, file, shape),
        shape=shape,
        digest=f"{model.id} {dataset.id}",
    )
    reporter = Reporter(run.job, report)

    def fine_tune() -> FineTune:
        return FineTune(
            lesson,
            settings,
            device=bench.device,
            threads=bench.threads,
            keeper=StateKeeper(run, bench, report),
            observer=reporter,
            wish=wish,
            processes=bench.processes,
        )

    tuned = fine_tune()
    if run.resume_key is not None:
        try:
            tuned.load()
        except CheckpointError as error:
            logger.warning("a state is not used: %s", error, extra={"action": "state_unusable", "job": run.job})
            reporter.note("the saved state cannot be used; training begins again, to the same result")
            tuned = fine_tune()

    def stored_weights() -> Weights:
        path = bench.work_dir / "weights.safetensors"
        try:
            written = tuned.write_weights(path)
            key = weights_key(written.sha256)
            bench.store.move_file(key, path)
        finally:
            path.unlink(missing_ok=True)
        return Weights(key=key, sha256=written.sha256, size_bytes=written.size_bytes, images=tuned.images)

    def kept_weights(epoch: int) -> Weights | None:
        is_kept = epoch % settings.save_every_epochs == 0 and epoch < settings.epochs
        return stored_weights() if is_kept and bench.processes.first else None

    reporter.keep_weights = kept_weights
    report(Started(job=run.job, settings=tuned.settings.to_json(), steps=tuned.total_steps))
    tuned.run()
    if bench.processes.first:
        report(
            Finished(
                job=run.job,
                epoch=settings.epochs,
                step=tuned.total_steps,
                metrics=reporter.last_metrics,
                weights=stored_weights(),
            )
        )
