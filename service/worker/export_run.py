"""The export of a model in the engine: from an order to a file in the object store, checked against the network itself.

Where a stop is wanted it happens between the steps: one takes seconds, of the largest networks a minute.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable

import torch

from service.domain.export import ExportFormat
from service.domain.model import Model
from service.storage.object_store import export_key
from service.worker.protocol import ExportRun, Finished, Started, Stepped, Weights
from service.worker.run_reporter import Report
from service.worker.workbench import Workbench
from tleg_core.training.errors import TrainingInterruptedError
from tleg_core.training.loop import Wish
from tleg_core.training.network import Network

_STEPS = 3  # the network; the file, which is verified as it is made; storing it


def do_export(run: ExportRun, bench: Workbench, report: Report, wish: Callable[[], Wish]) -> None:
    """Export a model, and report its file; raises `ExportError`, and what fetching the weights does."""
    from tleg_core.training.export import (  # noqa: PLC0415 (it loads torch's exporter, which trainings do without)
        ExportMetadata,
        export_onnx,
        export_program,
    )

    for noisy in ("onnx_ir", "onnxscript"):  # they tell of each initialiser and rule
        logging.getLogger(noisy).setLevel(logging.WARNING)

    def step(number: int) -> None:
        report(Stepped(job=run.job, epoch=0, step=number, steps=_STEPS, images_per_s=None, metrics={}))
        if wish() is not Wish.GO_ON:
            raise TrainingInterruptedError("stopped between two steps of an export")

    report(Started(job=run.job, settings={}, steps=_STEPS))
    model = Model.from_json(run.model)
    network = Network(architecture=model.architecture, model_args=model.model_args, num_classes=model.recipe.num_classes).load(
        bench.weights(model), drop_path=0.0, device=torch.device("cpu")
    )
    metadata = ExportMetadata(
        name=model.id,
        preprocessing=bench.preprocessing(model),
        class_names=tuple(run.class_names),
        recipe=None if model.fine_tuning is not None else model.recipe.digest,
        licence=run.licence,
    )
    step(1)
    path = bench.work_dir / f"export{run.format.suffix}"
    write = export_onnx if run.format is ExportFormat.ONNX else export_program
    try:
        deviation = write(network, model.stack, path, metadata)
        step(2)
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        key = export_key(model.id, sha256, run.format.suffix)
        bench.store.move_file(key, path)
    finally:
        path.unlink(missing_ok=True)
    weights = Weights(key=key, sha256=sha256, size_bytes=size_bytes)
    report(Finished(job=run.job, epoch=0, step=_STEPS, metrics={"deviation": deviation}, weights=weights))
