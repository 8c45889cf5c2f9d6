"""The engine through its socket: what it reports, obeys, refuses, and how quickly it begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from service.domain.model import FineTuning, Model, Usage
from service.worker.protocol import EpochDone, Failed, FineTuneRun, Finished, Note, Saved, Started, Stepped, Stopped
from tests.engine.conftest import CLASSES, Scene, again
from tests.engine.driver import Engine
from tleg_core.canonical import sha256_hex
from tleg_core.description import Preprocessing
from tleg_core.fine_tuning import FineTuneSettings
from tleg_core.image_file import ImageFile, decode_image


def test_a_job_is_reported_from_its_start_to_its_weights(engine: Engine, scene: Scene) -> None:
    """Started with settings in which nothing is auto, then steps and epochs in order, then the weights, learned."""
    run = scene.run(epochs=8, lr=3e-3)
    reports = engine.do(run)
    assert isinstance(reports[0], Started)
    assert "auto" not in reports[0].settings.values()
    assert reports[0].steps == 8 * 9
    epochs = [report for report in reports if isinstance(report, EpochDone)]
    assert [report.epoch for report in epochs] == list(range(1, 9))
    assert [report.step for report in epochs] == [9 * epoch for epoch in range(1, 9)]
    steps = [report.step for report in reports if isinstance(report, Stepped)]
    assert steps == sorted(set(steps))
    assert [report.epoch for report in epochs if report.weights] == [2, 4, 6]  # the last is the result
    finished = reports[-1]
    assert isinstance(finished, Finished)
    assert finished.metrics["top1"] > 0.9
    assert finished.weights.images == 18


def test_the_weights_load_strictly_in_plain_timm_and_score_as_reported(engine: Engine, scene: Scene) -> None:
    """Top-1 over the held-out images, found by loading the file in timm with its own evaluation transform."""
    run = scene.run(epochs=6, lr=3e-3)
    finished = engine.do(run)[-1]
    path = scene.store.local_path(finished.weights.key)
    assert path is not None
    network = timm.create_model(scene.model.architecture, num_classes=3, **scene.model.model_args)
    network.load_state_dict(load_file(path), strict=True)
    network.eval()
    transform = timm.data.create_transform(32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="bicubic", crop_pct=1.0)
    file = ImageFile.open(scene.store.local_path(scene.dataset.object_key) or "")
    losses, right = [], []
    for row in range(len(file)):
        with torch.inference_mode():
            logits = network(transform(decode_image(file.encoded(row)))[None])
        right.append(int(logits.argmax()) == file.labels[row])
        losses.append(float(nn.functional.cross_entropy(logits, torch.tensor([file.labels[row]]))))
    held = _held_out(file, FineTuneSettings.from_json(run.settings))
    np.testing.assert_allclose(finished.metrics["top1"], np.mean(np.array(right)[held]))
    np.testing.assert_allclose(finished.metrics["loss"], np.mean(np.array(losses)[held]), rtol=1e-3)


def _held_out(file: ImageFile, settings: FineTuneSettings) -> np.ndarray:
    from tleg_core.training.fine_tune import split_images  # noqa: PLC0415

    return split_images(file, settings).held_out.numpy()


def test_the_same_job_gives_the_same_weights_another_seed_others(engine: Engine, scene: Scene) -> None:
    """FineTuneRun twice in one warm engine, the decoded images and all else reused."""
    first, second, other = (engine.do(scene.run(seed=seed))[-1].weights.sha256 for seed in (0, 0, 1))
    assert first == second != other


def test_a_fine_tuned_model_can_be_fine_tuned_again(engine: Engine, scene: Scene) -> None:
    """From its file in the object store; with its classes kept it starts where the other ended."""
    run = scene.run(epochs=6, lr=3e-3)
    finished = engine.do(run)[-1]
    model = tuned_model(scene, run, finished.weights.key, finished.weights.sha256)
    settings = scene.settings(epochs=1, lr=1e-9).to_json() | {"head": "keep"}
    kept = engine.do(scene.run().model_copy(update={"model": model.to_json(), "settings": settings}))[-1]
    assert abs(kept.metrics["loss"] - finished.metrics["loss"]) < 1e-3


def tuned_model(scene: Scene, run: FineTuneRun, weights_key: str, weights_sha256: str) -> Model:
    """Return the model that is recorded of a job whose result lies under that key."""
    tuning = FineTuning.of(
        scene.dataset,
        parent=scene.model.id,
        usage=Usage(preprocessing=Preprocessing(), class_names=CLASSES, licence="Apache-2.0"),
        job=run.job,
        settings=run.settings,
        epoch=6,
        step=54,
        metrics={},
        images=18,
        weights_sha256=weights_sha256,
        weights_key=weights_key,
        size_bytes=1000,
    )
    return Model.fine_tuned(scene.model, tuning)


def test_stop_with_save_leaves_a_state_that_goes_on_to_the_same_weights(engine: Engine, scene: Scene) -> None:
    """The next attempt takes the saved step's successor first."""
    undisturbed = engine.do(scene.run(epochs=30))[-1]
    run = scene.run(epochs=30)
    engine.order(run)
    engine.until(Stepped)
    engine.stop(run.job, save=True)
    reports = engine.until(Stopped)
    assert isinstance(reports[-1], Stopped)
    saved = [report for report in reports if isinstance(report, Saved)]
    assert len(saved) == 1
    assert 0 < saved[0].step < undisturbed.step
    resumed = engine.do(again(run, saved[0].key))
    assert min(report.step for report in resumed if isinstance(report, Stepped)) > saved[0].step
    assert resumed[-1].weights.sha256 == undisturbed.weights.sha256


def test_an_attempt_that_goes_on_from_the_last_state_reports_the_same_end(engine: Engine, scene: Scene) -> None:
    """Its predecessor died between the last update and its report: the metrics are measured again."""
    run = scene.run(checkpoint_s=0.0, epochs=2, warmup_epochs=0)
    reports = engine.do(run)
    saved = [report for report in reports if isinstance(report, Saved)]
    assert saved[-1].step == reports[-1].step
    resumed = engine.do(again(run, saved[-1].key))
    assert set(resumed[-1].metrics) == {"train_loss", "loss", "top1", "top5"}
    assert resumed[-1] == reports[-1]
    assert [report.epoch for report in resumed if isinstance(report, EpochDone)] == [2]


def test_stop_without_save_stops_at_once(engine: Engine, scene: Scene) -> None:
    """Nothing is saved, and the engine takes the next job."""
    run = scene.run(epochs=1000)
    engine.order(run)
    engine.until(Stepped)
    engine.stop(run.job, save=False)
    reports = engine.until(Stopped)
    assert not any(isinstance(report, Saved) for report in reports)
    assert isinstance(engine.do(scene.run(epochs=1))[-1], Finished)


def test_a_stop_for_another_job_changes_nothing(engine: Engine, scene: Scene) -> None:
    """It may have crossed the report of that job's end."""
    run = scene.run()
    engine.order(run)
    engine.stop("ft-" + 32 * "e", save=False)
    assert isinstance(engine.until(Finished)[-1], Finished)


def test_a_state_that_is_gone_damaged_or_of_another_run_only_costs_time(engine: Engine, scene: Scene) -> None:
    """Training begins again, says so, and ends in the same weights."""
    expected = engine.do(scene.run())[-1].weights.sha256
    other = scene.run(seed=5, checkpoint_s=0.0, epochs=1)
    key = next(report.key for report in engine.do(other) if isinstance(report, Saved))
    own = next(report.key for report in engine.do(scene.run(checkpoint_s=0.0)) if isinstance(report, Saved))
    path = scene.store.local_path(own)
    assert path is not None
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for unusable in ("jobs/nothing.safetensors", key, own):
        reports = engine.do(again(scene.run(), unusable))
        assert any(isinstance(report, Note) for report in reports)
        assert reports[-1].weights.sha256 == expected


def test_failures_say_why_and_leave_the_engine_whole(engine: Engine, scene: Scene, tmp_path: Path) -> None:
    """A wrong setting, a diverging run, an unknown learngene, a missing data set: each has its code, then the next job runs."""
    plain = scene.run()
    foreign = scene.model.to_json()
    foreign["recipe"] = foreign["recipe"] | {"learngene": 64 * "0"}
    gone = replace(scene.dataset, object_key="datasets/gone.arrow").to_json()
    network = timm.create_model(scene.model.architecture, num_classes=3, **scene.model.model_args)
    save_file({name: torch.full_like(tensor, torch.nan) for name, tensor in network.state_dict().items()}, tmp_path / "nan")
    nan = (tmp_path / "nan").read_bytes()
    scene.store.put_file("weights/nan.safetensors", tmp_path / "nan")
    whole = tuned_model(scene, plain, "weights/nan.safetensors", sha256_hex(nan))
    damaged = tuned_model(scene, plain, "weights/nan.safetensors", sha256_hex(nan[:-1]))
    bad = {
        "invalid_settings": plain.model_copy(update={"settings": plain.settings | {"freeze": 9}}),
        "training_diverged": plain.model_copy(update={"model": whole.to_json()}),
        "weights_damaged": plain.model_copy(update={"model": damaged.to_json()}),
        "learngene_not_loaded": plain.model_copy(update={"model": foreign}),
        "dataset_missing": plain.model_copy(update={"dataset": gone}),
    }
    for code, run in bad.items():
        failed = engine.do(run)[-1]
        assert isinstance(failed, Failed)
        assert failed.code == code
        assert str(scene.learngene_path.parent) not in failed.message
    assert isinstance(engine.do(scene.run(epochs=1))[-1], Finished)


def test_a_state_that_cannot_be_saved_does_not_end_the_training(engine: Engine, scene: Scene) -> None:
    """A file stands where a folder must be made, as good as a full disk; the job goes on and says so."""
    run = scene.run(checkpoint_s=0.0)
    blocked = scene.store.local_path(f"jobs/{run.job}")
    assert blocked is not None
    blocked.parent.mkdir(exist_ok=True)
    blocked.write_text("in the way")
    *reports, finished = engine.do(run)
    assert any(isinstance(report, Note) and "could not be saved" in report.message for report in reports)
    assert not any(isinstance(report, Saved) for report in reports)
    assert finished.weights.sha256 == engine.do(scene.run())[-1].weights.sha256


def test_weights_that_cannot_be_stored_fail_the_job(engine: Engine, scene: Scene, tmp_path: Path) -> None:
    """As above, for the result; the message holds no path, and the next job runs."""
    folder = scene.store.local_path("weights")
    assert folder is not None
    engine.do(scene.run(epochs=1))
    folder.rename(tmp_path / "aside")
    folder.write_text("in the way")
    failed = engine.do(scene.run())[-1]
    folder.unlink()
    (tmp_path / "aside").rename(folder)
    assert isinstance(failed, Failed)
    assert failed.code == "storage_failed"
    assert str(folder.parent) not in failed.message
    assert isinstance(engine.do(scene.run(epochs=1))[-1], Finished)


def test_start_from_scratch_ignores_the_weights_and_is_reproducible(engine: Engine, scene: Scene) -> None:
    """The same seed gives the same network, which is another than the descendant's."""
    scratch = [engine.do(scene.run(start="scratch", seed=3))[-1].weights.sha256 for _ in range(2)]
    assert scratch[0] == scratch[1] != engine.do(scene.run(seed=3))[-1].weights.sha256


def test_heartbeats_come_while_a_job_runs(engine: Engine, scene: Scene) -> None:
    """Four in the time after which a silent engine counts as dead, but for moments in which the machine had no time for it."""
    engine.do(scene.run(epochs=60))
    gaps = np.diff(engine.beats)
    assert len(gaps) > 3
    assert np.median(gaps) < 1.0


@pytest.mark.slow
def test_the_engine_ends_when_the_supervisor_is_gone(start: Callable[..., Engine], scene: Scene) -> None:
    """In the middle of training, within a moment."""
    engine = start()
    engine.order(scene.run(epochs=100_00))
    engine.until(Stepped)
    engine.hang_up()
    engine.process.wait(10)
