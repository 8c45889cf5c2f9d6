"""What a run leaves behind: its journal, read back, and the event files as TensorBoard reads them."""

from __future__ import annotations

import builtins
import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from tests.training.run_in_child import CONFIG, trainer
from tleg_core.description import Measurement
from tleg_core.errors import ConfigError
from tleg_core.training.event_file import FOLDER_NAME
from tleg_core.training.journal import JOURNAL_NAME, Journal
from tleg_core.training.observer import EpochReport, StepReport, recent_loss
from tleg_core.training.run_record import journal_path, read_run

STEPS_PER_EPOCH = 4


def events_in(path: Path) -> Iterator[Event]:
    """Yield the events of one file, each length and each content checked against its checksum."""
    data = path.read_bytes()
    while data:
        (length,), (length_crc,) = struct.unpack("<Q", data[:8]), struct.unpack("<I", data[8:12])
        body, (body_crc,) = data[12 : 12 + length], struct.unpack("<I", data[12 + length : 16 + length])
        assert (length_crc, body_crc) == (masked_crc32c(data[:8]), masked_crc32c(body))
        yield Event.FromString(body)
        data = data[16 + length :]


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the points of each tag as TensorBoard shows them: a start at step s purges what earlier files say of s and later.

    Source: tensorboard/backend/event_processing/event_accumulator.py, `_CheckForRestartAndMaybePurge`.
    """
    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in events_in(path):
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                found = {tag: [point for point in points if point[0] < event.step] for tag, points in found.items()}
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def step_report(step: int, losses: Mapping[int, float]) -> StepReport:
    """Return the report after `step` updates whose losses were these."""
    first = (step - 1) // STEPS_PER_EPOCH * STEPS_PER_EPOCH + 1
    own = [losses[index] for index in range(first, step + 1)]
    return StepReport(
        epoch=step // STEPS_PER_EPOCH,
        epoch_steps=len(own),
        step=step,
        steps=12,
        train_loss=sum(own) / len(own),
        lr=0.001 * step,
        images_per_s=None if step == 1 else 100.0 + step,
    )


def epoch_report(epoch: int, top1: float) -> EpochReport:
    """Return an epoch's report, with the accuracy at two depths."""
    return EpochReport(
        epoch=epoch,
        epochs=3,
        step=epoch * STEPS_PER_EPOCH,
        train_loss=1.0 / epoch,
        train_top1=top1 - 0.1,
        lr=0.001,
        images_per_s=99.96,
        metrics={"top1": top1, "images": 30, "top1_depth_3": top1 / 2},
    )


@pytest.fixture
def resumed(tmp_path: Path) -> Path:
    """A run of 12 updates that was killed after the 7th, in the middle of a line, and resumed from the 5th."""
    path = tmp_path / "example.run" / JOURNAL_NAME
    before = {step: 10.0 + step for step in range(1, 8)}
    killed = Journal(path, plots=False)
    killed.write("start", command="tleg train")
    for step in range(1, 8):
        killed._step_line_s = None  # a line for each
        killed.stepped(step_report(step, before))
        if step == STEPS_PER_EPOCH:
            killed.epoch_done(epoch_report(1, 0.5))
    with path.open("a") as file:
        file.write('{"event": "step", "tim')
    after = before | {step: 20.0 + step for step in range(6, 13)}
    again = Journal(path, plots=False)
    again.write("start", command="tleg train")
    for step in range(6, 13):
        again._step_line_s = None
        again.stepped(step_report(step, after))
        if step % STEPS_PER_EPOCH == 0:
            again.epoch_done(epoch_report(step // STEPS_PER_EPOCH, 0.25 * step / STEPS_PER_EPOCH))
    for depth in (2, 1):
        again.measured(Measurement(depth=depth, data_set="bars/test", top1=0.1 * depth, images=30))
    return path


def test_a_resumed_run_has_each_step_once_and_the_last_word_counts(resumed: Path) -> None:
    """Steps 6 and 7 were taken twice; the journal is whole although a line of it is not."""
    run = read_run(resumed.parent)
    assert run.name == "example"
    assert [report.step for report in run.steps] == list(range(1, 13))
    assert [(epoch.epoch, epoch.metrics["top1"]) for epoch in run.epochs] == [(1, 0.5), (2, 0.5), (3, 0.75)]
    assert run.epochs[1] == replace(epoch_report(2, 0.5), images_per_s=100.0)
    assert run.steps_per_epoch == STEPS_PER_EPOCH
    assert run.depth_top1 == {"bars/test": {1: 0.1, 2: 0.2}}
    assert run.steps[5] == step_report(6, {5: 15.0, 6: 26.0})


def test_losses_are_those_of_the_steps_since_the_report_before(resumed: Path) -> None:
    """A report has the mean since its epoch's beginning; the reader has the losses themselves back."""
    losses = dict(read_run(resumed).losses())
    assert losses == pytest.approx({step: (10.0 if step < 6 else 20.0) + step for step in range(1, 13)})


def test_the_loss_between_far_reports_is_their_mean() -> None:
    """Two steps of one epoch; over an epoch's end it is the mean of the new epoch so far."""
    losses = {step: float(step * step) for step in range(1, 9)}
    assert recent_loss(step_report(1, losses), step_report(3, losses)) == pytest.approx((4 + 9) / 2)
    assert recent_loss(step_report(3, losses), step_report(6, losses)) == pytest.approx((25 + 36) / 2)
    assert recent_loss(None, step_report(6, losses)) == pytest.approx((25 + 36) / 2)


def test_tensorboard_sees_one_curve_of_a_resumed_run(resumed: Path) -> None:
    """Loss, rate, speed by update and the accuracies by epoch: each step once, in order, the resumed run's values."""
    found = curves(resumed.parent / FOLDER_NAME)
    assert [step for step, _ in found["train/loss"]] == list(range(1, 13))
    loss = dict(found["train/loss"])
    assert (loss[5], loss[8], loss[12]) == pytest.approx((15.0, 28.0, 32.0))
    assert loss[6] == pytest.approx((15.0 + 26.0) / 2)  # a new process knows of no report before
    assert found["train/lr"][6] == (7, pytest.approx(0.007))
    assert [step for step, _ in found["train/images_per_s"]] == list(range(2, 13))
    assert found["held_out/top1"] == [(4, 0.5), (8, 0.5), (12, 0.75)]
    assert found["held_out/top1_depth_3"] == [(4, 0.25), (8, 0.25), (12, 0.375)]
    assert [step for step, _ in found["epoch/train_top1"]] == [4, 8, 12]
    assert len(list((resumed.parent / FOLDER_NAME).glob("events.out.tfevents.*"))) == 2


def test_accuracy_by_depth_is_a_curve_of_its_own(resumed: Path) -> None:
    """Its steps are depths, which the steps of a resumed run must not purge."""
    found = curves(resumed.parent / FOLDER_NAME / "by-depth-bars_test")
    assert found == {"held_out/top1_by_depth": [(2, pytest.approx(0.2)), (1, pytest.approx(0.1))]}


def test_a_run_in_the_loop_is_journalled(tmp_path: Path) -> None:
    """The loop's own reports, read back: the epoch's loss is the mean of its steps' losses, and a resumed run goes on."""
    config = replace(CONFIG, epochs=3, checkpoint_every_steps=7)
    run = trainer(tmp_path, config)
    assert run.run() is run.result
    record = read_run(tmp_path)
    assert record.steps_per_epoch == 41
    assert [epoch.epoch for epoch in record.epochs] == [1, 2, 3]
    found = curves(tmp_path / FOLDER_NAME)
    assert [step for step, _ in found["epoch/train_loss"]] == [41, 82, 123]
    assert found["epoch/train_loss"][2][1] == pytest.approx(record.epochs[2].train_loss, rel=1e-6)  # float32 there
    shown = [step for step, _ in found["train/loss"]]
    assert shown[0] == 1
    assert {41, 82, 123} <= set(shown)
    weights = [b - a for a, b in zip([0, *shown], shown, strict=False) if b <= 41]
    values = [value for step, value in found["train/loss"] if step <= 41]
    mean = sum(weight * value for weight, value in zip(weights, values, strict=True)) / 41
    assert mean == pytest.approx(record.epochs[0].train_loss, rel=1e-5)


def test_curves_are_drawn_at_the_end_of_a_run(tmp_path: Path) -> None:
    """Beside the journal, as PNG and SVG; also where the run was interrupted."""
    path = tmp_path / "one.run" / JOURNAL_NAME
    with suppress(KeyboardInterrupt), Journal(path) as journal:
        journal.epoch_done(epoch_report(1, 0.5))
        raise KeyboardInterrupt
    assert (path.parent / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "top-1, %" in (path.parent / "curves.svg").read_text()


def test_a_run_that_ended_before_its_first_epoch_draws_nothing(tmp_path: Path) -> None:
    """There is no curve."""
    with Journal(tmp_path / JOURNAL_NAME) as journal:
        journal.note("hello")
    assert [file.name for file in tmp_path.iterdir()] == [JOURNAL_NAME]


@pytest.mark.parametrize(
    ("module", "what"), [("tensorboardX", "TensorBoard files"), ("matplotlib", "the curves")], ids=["events", "curves"]
)
def test_a_missing_library_is_noted_once_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, what: str
) -> None:
    """Both are conveniences."""
    original = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> ModuleType:
        if name.partition(".")[0] == module or (module == "matplotlib" and name == "tleg_core.plots.run_plot"):
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with Journal(tmp_path / JOURNAL_NAME) as journal:
        for epoch in (1, 2):
            journal.epoch_done(epoch_report(epoch, 0.5))
    notes = [json.loads(line) for line in (tmp_path / JOURNAL_NAME).read_text().splitlines()]
    assert [note["message"] for note in notes if note["event"] == "note"] == [
        f"{what} are not written: {module} is not installed"
    ]
    assert len(read_run(tmp_path / JOURNAL_NAME).epochs) == 2


def test_a_journal_is_found_by_the_file_the_folder_or_the_result(resumed: Path) -> None:
    """What a user has at hand; anything else is one clear error."""
    for place in (resumed, resumed.parent, resumed.parent.with_suffix(".safetensors")):
        assert journal_path(place) == resumed
    with pytest.raises(ConfigError, match="run: there is no journal"):
        journal_path(resumed.parent / "nothing")
    other = resumed.with_name("other.jsonl")
    other.write_text("hello\n[1]\n{}\n")
    with pytest.raises(ConfigError, match=r"other\.jsonl is no journal of a run"):
        read_run(other)


def test_lines_of_other_versions_are_passed_over(tmp_path: Path) -> None:
    """A journal of tleg 0.1, and lines that are not what they say."""
    path = tmp_path / JOURNAL_NAME
    old = {"epoch": 1, "step": 4, "loss": 0.5, "train_top1": 0.6, "test_top1": 0.7, "test_images": 30, "next_lr": 1e-3}
    lines = [
        {"event": "epoch", "images_per_s": 20.0, **old},
        {"event": "epoch", "images_per_s": 20.0, **old, "epoch": 0, "step": 8},
        {"event": "epoch", "images_per_s": 20.0, **old, "epoch": 2, "step": 8, "loss": float("nan")},
        {"event": "epoch", "images_per_s": 20.0, **old, "epoch": 2, "step": 8, "metrics": 3},
        {"event": "step", "step": "seven"},
        {"event": "measurement", "depth": 3, "top1": 0.25},
        {"event": "measurement", "depth": True, "top1": 0.25},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = read_run(path)
    assert [(epoch.epoch, epoch.metrics) for epoch in run.epochs] == [(1, {"top1": 0.7})]
    assert run.depth_top1 == {"test images": {3: 0.25}}
