"""The end of the demo: the service fine-tunes a descendant on images that it has not seen, and the same network from scratch.

Both runs have the same data, settings, seed and number of updates; they differ in the first weights alone.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tleg_core
from service.api.schemas.budget import BudgetBody
from service.api.schemas.fine_tunes import FineTuneBody, FineTuneSettingsBody
from service.api.schemas.models import CreatedModel, ModelRequestBody
from service.cli.console import err, out, percent, print_table
from service.cli.demo_accuracy import measure_top1
from service.cli.job_watch import watch_job
from service.client import Client, ClientError
from tleg_core.fine_tuning import Precision, Start
from tleg_core.images import load_image_set

IMAGES = Path(tleg_core.__file__).parent / "data" / "openclipart15-grey.zip"
"""2,476 grey drawings of 15 classes that are part of the package (public domain); about a quarter are its test part."""

EPOCHS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """One row of the comparison."""

    title: str
    steps: int
    seconds: float | None
    top1: float


def compare_starts(client: Client, url: str, descendant: CreatedModel, folder: Path) -> list[Trained]:
    """Fine-tune the descendant, and the same network from scratch, both watched live; return what each came to.

    Accuracy is measured on the downloaded files, in plain timm, on the images' test part.
    """
    dataset = client.upload_dataset(IMAGES)
    test_images = load_image_set(_unpacked(folder / "images"), split="test", size=descendant.recipe["img_size"])
    out.print(
        f"\nNow d{descendant.member.depth} is fine-tuned, on images that its learngene has not seen: {dataset.train:,} "
        f"drawings of {dataset.num_classes} classes, measured on {dataset.test:,} others. They are grey and light on black, as "
        "what it learned from; in colour on white they gain nothing from it (docs/experiments.md).\n"
    )

    def measured(model_id: str) -> float:
        path = folder / f"{model_id}.safetensors"
        model = client.download(model_id, path)
        return measure_top1(f"{url}{model.links['config']}", path, test_images)

    budget = BudgetBody(depth=descendant.member.depth)
    before = client.create_model(
        ModelRequestBody(budget=budget, learngene=descendant.learngene, num_classes=dataset.num_classes)
    )
    rows = [Trained(title="descendant, before (its new head is all zeros)", steps=0, seconds=None, top1=measured(before.id))]
    for start, title in ((Start.MODEL, "descendant, after"), (Start.SCRATCH, "the same network from scratch")):
        err.print(f"{title} …")
        settings = FineTuneSettingsBody(epochs=EPOCHS, start=start, seed=0, precision=Precision.FLOAT32)
        job = client.create_fine_tune(FineTuneBody(model=descendant.id, dataset=dataset.id, settings=settings))
        job = watch_job(client, job)
        if job.result is None or job.started_at is None or job.finished_at is None:
            raise ClientError(f"{job.id} has succeeded without a result")
        seconds = (job.finished_at - job.started_at).total_seconds()
        rows.append(Trained(title=title, steps=job.progress.step, seconds=seconds, top1=measured(job.result.model)))
    return rows


def print_comparison(rows: Sequence[Trained]) -> None:
    """Print before, after and from scratch."""
    out.print()
    print_table(
        ("fine-tuned on drawings", "steps", "time", "top-1"),
        [
            (row.title, f"{row.steps:,}", "-" if row.seconds is None else f"{row.seconds:.0f} s", percent(row.top1))
            for row in rows
        ],
    )
    err.print(f"the same images, settings and {EPOCHS} epochs for both; one seed: a point or two may be chance")


def _unpacked(folder: Path) -> Path:
    """Return the folder, with the images in it as a user's own would lie there."""
    with zipfile.ZipFile(IMAGES) as archive:
        archive.extractall(folder)
    return folder
