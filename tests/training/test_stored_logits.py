"""Teachers: the ancestry model on the fly, and its logits stored beforehand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from click.testing import Result
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from service.cli import ancestry, train
from tleg_core.description import Preprocessing
from tleg_core.dtype import DType
from tleg_core.errors import CheckpointError, ConfigError, TlegError
from tleg_core.images import ImageSet, save_parquet
from tleg_core.learngene import Learngene
from tleg_core.learngene_config import LearngeneConfig
from tleg_core.training.ancestry import AncestryCard, AncestryModel, Fit
from tleg_core.training.architecture import Architecture
from tleg_core.training.auxiliary import AuxiliaryModel
from tleg_core.training.batches import Batches
from tleg_core.training.journal import Journal
from tleg_core.training.keeper import FolderKeeper
from tleg_core.training.learngene_run import learngene_trainer
from tleg_core.training.stored_logits import StoredLogits, store_logits
from tleg_core.training.teacher import AncestryTeacher, Teacher, check_classes
from tleg_core.training_config import Augmentation, Precision, TrainingConfig

app = typer.Typer()
app.command("train")(train.train)
app.add_typer(ancestry.app, name="ancestry")

CPU = torch.device("cpu")
AUGMENTATION = Augmentation(flip=0.5, shift=2, views=2)
TRAINING = TrainingConfig(epochs=3, batch_size=20, precision=Precision.FLOAT32, seed=5, augmentation=AUGMENTATION, lr=1e-3)


def invoke(*words: object) -> Result:
    """Run a command in this process; a traceback other than ours fails the test."""
    arguments = [str(word) for word in words]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tleg", *arguments])
        result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit | TlegError):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def model(bars: ImageSet) -> AncestryModel:
    """A random ancestry model of 64 wide."""
    torch.manual_seed(0)
    shape = Architecture.named("test_vit", img_size=32)
    return AncestryModel(
        AncestryCard.of(shape, class_names=bars.class_names, data_set="bars", origin="o", licence="l", fit=Fit.HEAD)
    )


@pytest.fixture
def teacher(model: AncestryModel) -> AncestryTeacher:
    """The model on the fly."""
    return AncestryTeacher(model, CPU)


def batches_of(data: ImageSet, config: TrainingConfig = TRAINING) -> Batches:
    """The batches of a training."""
    return Batches.of_image_set(data, config, CPU)


def stored(
    teacher: AncestryTeacher,
    data: ImageSet,
    root: Path,
    *,
    config: TrainingConfig = TRAINING,
    dtype: DType = DType.FLOAT32,
    progressed: Callable[[int], None] = lambda _count: None,
) -> StoredLogits:
    """The logits of a data set in a file of `root`."""
    return store_logits(
        teacher,
        batches_of(data, config),
        config,
        root / "logits.safetensors",
        num_images=len(data),
        folder=root / "logits.run",
        dtype=dtype,
        progressed=progressed,
    )


def trained(teacher: Teacher, data: ImageSet, root: Path) -> tuple[dict[str, Tensor], float]:
    """Weights and last mean loss of a tiny learngene's training, without labels."""
    config = LearngeneConfig.from_json(
        {"training": {"epochs": 3}, "network": {"size": "test", "img_size": 16, "patch_size": 8}, "depths": {"train": 2}}
    )
    losses: list[float] = []

    class Watched(Journal):
        def epoch_done(self, report):  # type: ignore[no-untyped-def]
            losses.append(report.train_loss)

    trainer = learngene_trainer(
        replace(config, training=TRAINING),
        batches_of(data),
        teacher,
        num_classes=3,
        preprocessing=Preprocessing(),
        keeper=FolderKeeper(root, 1000),
        observer=Watched(root / "journal.jsonl"),
        device=CPU,
    )
    result: AuxiliaryModel = trainer.run()
    return {name: tensor.clone() for name, tensor in result.learngene_tensors().items()}, losses[-1]


def test_training_on_stored_logits_is_training_on_the_fly(teacher: AncestryTeacher, bars: ImageSet, tmp_path: Path) -> None:
    """To the bit where they are kept in float32; in float16 the loss is the same to its rounding."""
    fly, fly_loss = trained(teacher, bars, tmp_path / "fly")
    same, _ = trained(stored(teacher, bars, tmp_path), bars, tmp_path / "same")
    assert fly.keys() == same.keys()
    assert all(torch.equal(fly[name], same[name]) for name in fly)
    (tmp_path / "half").mkdir()
    half = stored(teacher, bars, tmp_path / "half", dtype=DType.FLOAT16)
    near, near_loss = trained(half, bars, tmp_path / "near")
    assert near_loss == pytest.approx(fly_loss, rel=1e-3)  # float16 keeps 11 bits
    assert not all(torch.equal(fly[name], near[name]) for name in fly)


def test_the_file_holds_the_logits_of_each_view_of_each_image(teacher: AncestryTeacher, bars: ImageSet, tmp_path: Path) -> None:
    """Any rows of a batch, in any order, of the view that the batch is of; views differ."""
    logits = stored(teacher, bars, tmp_path, dtype=DType.FLOAT16)
    batches = batches_of(bars)
    views = set()
    for step in range(3 * batches.steps_per_epoch):
        batch = batches.of(step)
        views.add(batch.view)
        torch.testing.assert_close(logits.logits(batch), teacher.logits(batch), rtol=1e-3, atol=1e-4)  # of float16
    assert views == {0, 1}
    assert (tmp_path / "logits.safetensors").stat().st_size == pytest.approx(2 * 48 * 3 * 2, abs=4000)  # and a header
    whole = torch.arange(48)
    assert not torch.equal(batches.shown(whole, 0), batches.shown(whole, 1))
    assert not (tmp_path / "logits.run").exists()


def test_an_interrupted_computation_goes_on_view_by_view(teacher: AncestryTeacher, bars: ImageSet, tmp_path: Path) -> None:
    """What was finished is not computed again, and the file is the same to the byte."""
    counts: list[int] = []

    def interrupt(count: int) -> None:
        counts.append(count)
        if sum(counts) > 60:  # in the middle of the second view
            raise KeyboardInterrupt

    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = stored(teacher, bars, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        stored(teacher, bars, tmp_path / "parts", progressed=interrupt)
    assert not (tmp_path / "parts" / "logits.safetensors").exists()
    assert [path.name for path in (tmp_path / "parts" / "logits.run").iterdir()] == ["view-0.safetensors"]
    counts.clear()
    again = stored(teacher, bars, tmp_path / "parts", progressed=counts.append)
    assert counts == [48, 20, 20, 8]  # the first view at once, the second in batches
    assert (tmp_path / "parts" / "logits.safetensors").read_bytes() == (tmp_path / "whole" / "logits.safetensors").read_bytes()
    assert again.identity() == whole.identity()


def test_views_of_another_run_are_not_mixed_in(teacher: AncestryTeacher, bars: ImageSet, tmp_path: Path) -> None:
    """What an interrupted computation left is refused where it would not be computed again so."""

    def interrupt(_count: int) -> None:
        if (tmp_path / "logits.run" / "view-0.safetensors").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stored(teacher, bars, tmp_path, progressed=interrupt)
    with pytest.raises(
        ConfigError, match=r"view-0.safetensors is of another run \(augmentation.shift was 2, is 1\): remove it"
    ):
        stored(teacher, bars, tmp_path, config=replace(TRAINING, augmentation=replace(AUGMENTATION, shift=1)))
    with pytest.raises(ConfigError, match="dtype was float32, is float16"):
        stored(teacher, bars, tmp_path, dtype=DType.FLOAT16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augmentation": replace(AUGMENTATION, flip=0.0)}, "other pictures: augmentation.flip was 0.5, is 0.0"),
        ({"augmentation": replace(AUGMENTATION, shift=1, flip=1.0)}, "flip was 0.5, is 1.0; augmentation.shift was 2, is 1"),
        ({"augmentation": replace(AUGMENTATION, views=None)}, "augmentation.views: must be from 1 to 2 .* not none"),
        ({"augmentation": replace(AUGMENTATION, views=3)}, "augmentation.views: must be from 1 to 2 .* not 3"),
    ],
)
def test_other_draws_are_refused_by_name(
    teacher: AncestryTeacher, bars: ImageSet, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    """Before anything is trained."""
    logits = stored(teacher, bars, tmp_path)
    config = replace(TRAINING, **changes)
    with pytest.raises(ConfigError, match=message):
        logits.check(batches_of(bars, config), config)


def test_other_images_are_refused(teacher: AncestryTeacher, bars: ImageSet, tmp_path: Path) -> None:
    """By their digest, before any is looked at: there may be fewer."""
    logits = stored(teacher, bars, tmp_path)
    with pytest.raises(ConfigError, match=r"holds logits of other data: \w+, not \w+"):
        logits.check(batches_of(bars.head(40)), TRAINING)


def test_pictures_that_are_drawn_otherwise_are_refused(teacher: AncestryTeacher, bars: ImageSet, tmp_path: Path) -> None:
    """Where every setting is equal and yet the pixels are not, as another version of a library may make them."""
    logits = stored(teacher, bars, tmp_path)

    class Otherwise(Batches):
        def shown(self, rows: Tensor, view: int) -> Tensor:
            return super().shown(rows, view).flip(2) if view == 1 else super().shown(rows, view)

    with pytest.raises(ConfigError, match="other pictures: the same settings draw other pictures here"):
        logits.check(Otherwise.of_image_set(bars, TRAINING, CPU), TRAINING)


def test_what_changes_no_picture_may_change(teacher: AncestryTeacher, bars: ImageSet, tmp_path: Path) -> None:
    """Epochs, batch, seed, label smoothing, and fewer of the views: one file serves many runs."""
    logits = stored(teacher, bars, tmp_path)
    augmentation = replace(AUGMENTATION, views=1, label_smoothing=0.1)
    config = replace(TRAINING, epochs=9, batch_size=7, lr=1.0, seed=6, augmentation=augmentation)
    logits.check(batches_of(bars, config), config)


def test_logits_are_not_stored_of_pictures_that_never_come_again(
    teacher: AncestryTeacher, bars: ImageSet, tmp_path: Path
) -> None:
    """Without views each epoch draws anew; bfloat16 would keep eight bits."""
    config = replace(TRAINING, augmentation=Augmentation())
    with pytest.raises(ConfigError, match=r"augmentation\.views: must be a number"):
        stored(teacher, bars, tmp_path, config=config)
    with pytest.raises(ConfigError, match="dtype: must be one of float16, float32, not bfloat16"):
        stored(teacher, bars, tmp_path, dtype=DType.BFLOAT16)


def test_logits_beyond_float16_are_refused(bars: ImageSet, model: AncestryModel, tmp_path: Path) -> None:
    """An infinity is no logit."""
    torch.manual_seed(0)
    loud = AncestryModel(model.card)
    with torch.no_grad():
        loud.head().weight.mul_(1e7)
    with pytest.raises(CheckpointError, match="view 0 are not all finite in float16"):
        stored(AncestryTeacher(loud, CPU), bars, tmp_path, dtype=DType.FLOAT16)


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    """No safetensors, or no card."""
    path = tmp_path / "logits.safetensors"
    with pytest.raises(CheckpointError, match="cannot be read"):
        StoredLogits.open(path)
    save_file({"logits": torch.zeros(1, 1, 1)}, path)
    with pytest.raises(CheckpointError, match="holds no logits"):
        StoredLogits.open(path)


def test_a_teacher_names_the_class_that_stands_elsewhere(teacher: AncestryTeacher) -> None:
    """The order of the classes is part of what logits mean."""
    check_classes(teacher, ("top", "middle", "bottom"), "bars")
    with pytest.raises(ConfigError, match="in another order: class 0 is 'top' there, 'bottom' here"):
        check_classes(teacher, ("bottom", "middle", "top"), "bars")
    with pytest.raises(ConfigError, match=r"has other classes \(3\) than digits \(2\)"):
        check_classes(teacher, ("0", "1"), "digits")


def test_the_teachers_arithmetic_is_its_own(model: AncestryModel, bars: ImageSet) -> None:
    """Whatever the training's is: float32 within a bfloat16 training, and the other way round."""
    batch = batches_of(bars).of(0)
    exact = AncestryTeacher(model, CPU).logits(batch)
    half = AncestryTeacher(model, CPU, Precision.BFLOAT16).logits(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(AncestryTeacher(model, CPU).logits(batch), exact)
    assert half.dtype == exact.dtype == torch.float32
    assert not torch.equal(half, exact)
    torch.testing.assert_close(half, exact, rtol=0.1, atol=0.05)  # eight bits, through a few layers
    assert not exact.requires_grad


@pytest.fixture(scope="module")
def files(bars: ImageSet, model: AncestryModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an ancestry model's file and images, in the model's order of classes and in another."""
    root = tmp_path_factory.mktemp("logits")
    model.write(root / "ancestry.safetensors", {})
    save_parquet(bars, root / "train.parquet")
    save_parquet(replace(bars, class_names=("bottom", "middle", "top")), root / "other.parquet")
    return root


def test_the_commands_store_logits_and_train_on_them(files: Path, tmp_path: Path) -> None:
    """`tleg ancestry logits`, then `tleg train --ancestry` with its file: the learngene that the model itself gives."""
    data = ("--data", files / "train.parquet", "--device", "cpu", "--set", "augmentation.views=2")
    data += ("--shift", 1, "--batch-size", 16)
    out = tmp_path / "logits.safetensors"
    asked = invoke(
        "ancestry", "logits", "--ancestry", files / "ancestry.safetensors", "--out", out, "--dtype", "float32", *data
    )
    assert asked.exit_code == 0, asked.output
    assert "2 views of 48 images" in asked.output
    train = ("train", "--epochs", 2, "--size", "test", "--img-size", 16, "--patch-size", 8, "--depth", 2, *data)
    train += ("--precision", "float32")
    for name, teacher in (("fly", files / "ancestry.safetensors"), ("stored", out)):
        result = invoke(*train, "--name", "bars", "--ancestry", teacher, "--out", tmp_path / f"{name}.safetensors")
        assert result.exit_code == 0, result.output
    fly, kept = (Learngene.open(tmp_path / f"{name}.safetensors") for name in ("fly", "stored"))
    assert fly.digest == kept.digest
    assert kept.description.provenance.ancestry.endswith("; logits stored as float32, 2 views of an image")
    result = invoke(*train, "--shift", 2, "--ancestry", out, "--out", tmp_path / "wrong.safetensors")
    assert "augmentation.shift was 1, is 2" in str(result.exception)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--data", "other.parquet"), "ancestry: has the classes of other in another order: class 0 is 'top' there"),
        (("--ancestry", "train.parquet"), "train.parquet cannot be read as safetensors"),
        (("--set", "augmentation.mixup_alpha=0.8"), "augmentation.views: cannot be had with mixup"),
        (("--set", "augmentation.views=none"), "augmentation.views: must be a number"),
        (("--out", "logits.pt"), "out: must end in .safetensors"),
        (("--recipe", "nonesuch"), "recipe: 'nonesuch' is neither"),
    ],
)
def test_wrong_options_of_the_command_are_one_clear_error(
    files: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    """Each names the option and what it may be."""
    given = [files / word if (files / word).is_file() else word for word in words]
    words = ("--ancestry", files / "ancestry.safetensors", "--data", files / "train.parquet")
    result = invoke(
        "ancestry", "logits", *words, "--out", tmp_path / "a.safetensors", "--device", "cpu", "--batch-size", 16, *given
    )
    assert isinstance(result.exception, TlegError), result.output
    assert message in str(result.exception)
