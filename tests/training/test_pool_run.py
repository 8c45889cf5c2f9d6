"""A pool from its anchors to its paths: the phases, what comes out of each, and a run that is killed in any of them."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from tests.training.pools import CLASSES, CPU, ancestry_teacher, pool_config
from tleg_core.cost import stack_cost
from tleg_core.errors import CheckpointError, ConfigError
from tleg_core.family import Family, Variation
from tleg_core.images import ImageSet
from tleg_core.learngene import Learngene
from tleg_core.pool_config import PoolConfig
from tleg_core.recipe import Member
from tleg_core.training.batches import Batch, Batches
from tleg_core.training.checkpoint import Checkpoint
from tleg_core.training.errors import TrainingInterruptedError
from tleg_core.training.keeper import FolderKeeper
from tleg_core.training.loop import Wish
from tleg_core.training.network import DeviceLearngene, Network
from tleg_core.training.observer import EpochReport, StepReport
from tleg_core.training.path_accuracy import measure_paths, pool_model_of
from tleg_core.training.path_sampling import PathSampler, cost_groups, measured_paths
from tleg_core.training.pool_model import PoolModel
from tleg_core.training.pool_run import train_pool
from tleg_core.training.pool_trainer import PoolTrainer
from tleg_core.training.preprocessing import prepare
from tleg_core.training.processes import Processes
from tleg_core.training.source_images import SourceImages
from tleg_core.training.stitch_fit import fit_stitches
from tleg_core.training.teacher import Teacher
from tleg_core.training_config import TrainingConfig


class Noted:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.steps: list[StepReport] = []
        self.epochs: list[EpochReport] = []
        self.notes: list[str] = []

    def stepped(self, report: StepReport) -> None:
        """Remember it."""
        self.steps.append(report)

    def epoch_done(self, report: EpochReport) -> None:
        """Remember it."""
        self.epochs.append(report)

    def note(self, message: str) -> None:
        """Remember it."""
        self.notes.append(message)


class FixedTeacher:
    """A teacher whose logits follow from the rows alone."""

    class_names = CLASSES

    def check(self, batches: Batches, config: Any) -> None:
        """Know every image."""

    def logits(self, batch: Batch) -> Tensor:
        """Return logits (B, 3) that are certain of the row's remainder."""
        return 4.0 * functional.one_hot(batch.rows % 3, 3).float()

    def describe(self) -> str:
        """Return a name."""
        return "remainders"

    def identity(self) -> dict[str, Any]:
        """Return a name."""
        return {"teacher": "remainders"}


SN_NET = {
    "pool": {"method": "sn-net"},
    "anchor_training": {"rule": "alone", "alpha": 0.0},
    "joint": {"alpha": 0.5, "kind": "hard"},
}


def made(config: PoolConfig, data: ImageSet, folder: Path, teacher: Teacher | None, **options: Any) -> Learngene:
    """Return the learngene of a whole run."""
    return train_pool(
        "a-pool",
        config,
        teacher,
        data,
        test_data=options.pop("test_data", None),
        folder=folder,
        command="",
        licence="",
        journal=options.pop("journal", Noted()),
        device=CPU,
        **options,
    )


def trainer_of(
    config: PoolConfig, data: ImageSet, folder: Path, teacher: Teacher | None, *, checkpoint_every: int = 2, **options: Any
) -> PoolTrainer:
    """Return a run that keeps its states in `folder`."""
    return PoolTrainer(
        config,
        SourceImages(data, config, CPU),
        teacher,
        num_classes=3,
        given=options.pop("given", {}),
        keeper=FolderKeeper(folder, checkpoint_every),
        observer=Noted(),
        device=CPU,
        **options,
    )


def same(first: Learngene, second: Learngene) -> bool:
    """Whether two learngenes are equal to the bit."""
    return bytes(first.content) == bytes(second.content)


def test_a_pool_is_made_in_phases(bars: ImageSet, tmp_path: Path) -> None:
    """Anchors, stitches, all together; every path of the result is a member whose network classifies."""
    noted = Noted()
    learngene = made(pool_config(), bars, tmp_path, ancestry_teacher(), test_data=bars, journal=noted)
    assert noted.notes == [
        "phase 1 of 4: anchor small",
        "phase 2 of 4: anchor large",
        "phase 3 of 4: stitches by least-squares",
        "phase 4 of 4: all together",
    ]
    assert [(report.epoch, report.epochs, report.step) for report in noted.epochs] == [
        (epoch, 6, 3 * epoch) for epoch in range(1, 7)
    ]
    assert {report.steps for report in noted.steps} == {18}
    assert set(noted.epochs[0].metrics) == {"top1", "images", "top1_path_0.0-2"}
    paths = ("0.0-2", "0.0-1_1.1-2", "1.0-2")
    assert set(noted.epochs[-1].metrics) == {"top1", "images", *(f"top1_path_{path}" for path in paths)}
    assert learngene.description.method == "pool"
    assert "distilled" in learngene.description.provenance.notes
    measured = tuple(measure_paths(learngene, bars, device=CPU))
    assert len(measured) == 2 + 7
    known = learngene.with_description(accuracy=measured)
    family = Family(Learngene.from_bytes("again", known.content))
    assert all(candidate.accuracy for candidate in family.candidates(Variation()))
    images = torch.rand(4, 3, 16, 16)
    for member in family.members:
        stack = family.stack(member)
        weights = DeviceLearngene(family, CPU).expand(family.recipe(member, Variation()))
        network = Network(architecture=stack.architecture, model_args=stack.model_args, num_classes=3)
        alone = network.load(weights, drop_path=0.0, device=CPU).eval()
        assert member.path is not None
        torch.testing.assert_close(alone(images), pool_model_of(learngene)(images, member.path))


def test_pretrained_networks_are_a_pool_without_stitches(bars: ImageSet, tmp_path: Path) -> None:
    """Each learns from labels alone, better than chance; nothing is joined."""
    config = pool_config(
        pool={"method": "pretrained"},
        anchor_training={"rule": "alone", "alpha": 0.0},
        joint={"epochs": 0},
        training={"epochs": 8},
    )
    learngene = made(config, bars, tmp_path, None)
    assert [str(member.path) for member in learngene.description.pool.members] == ["0.0-2", "1.0-2"]
    assert all(entry.top1 > 0.6 for entry in measure_paths(learngene, bars, device=CPU))


@pytest.mark.parametrize(
    ("sections", "wanted"),
    [(SN_NET, Wish.SAVE), ({"stitching": {"init": "learned"}, "joint": {"epochs": 1}}, Wish.DROP)],
    ids=["stopped", "killed"],
)
def test_a_run_that_ends_anywhere_goes_on_to_the_same_bytes(
    bars: ImageSet, tmp_path: Path, sections: dict[str, Any], wanted: Wish
) -> None:
    """Ended after every third update, in each phase: mixup, stochastic depth, EMA and the draws of paths go on.

    Stopped, it saves its state; killed, it goes on from the last one, which is of every second update.
    """
    config = pool_config(**sections).with_overrides(
        ["training.drop_path=0.3", "training.ema_decay=0.9", "augmentation.mixup_alpha=0.4", "training.micro_batches=2"]
    )
    teacher = ancestry_teacher()
    whole = made(config, bars, tmp_path / "whole", teacher)
    updates, stops = 0, 0
    learngene = None

    def wish() -> Wish:
        nonlocal updates
        updates += 1
        return wanted if updates % 3 == 0 else Wish.GO_ON

    while learngene is None:
        trainer = trainer_of(config, bars, tmp_path / "parts", teacher, wish=wish)
        if stops:
            trainer.load()
        try:
            tensors = trainer.run()
        except TrainingInterruptedError:
            stops += 1
            continue
        learngene = Learngene.create(whole.description, {name: tensor.numpy() for name, tensor in tensors.items()})
    assert stops > 2
    assert same(learngene, whole)


def test_a_finished_phase_is_not_repeated(bars: ImageSet, tmp_path: Path) -> None:
    """Its results stand in the checkpoint; a finished run gives them at once."""
    first = made(pool_config(), bars, tmp_path, ancestry_teacher())
    noted = Noted()
    assert same(made(pool_config(), bars, tmp_path, ancestry_teacher(), resume=True, journal=noted), first)
    assert (noted.notes, noted.steps) == ([], [])
    with pytest.raises(CheckpointError, match=r"another run: joint was"):
        made(pool_config(joint={"epochs": 3}), bars, tmp_path, ancestry_teacher(), resume=True)
    other = ImageSet(name="bars", images=bars.images[::-1].copy(), labels=bars.labels, class_names=bars.class_names)
    with pytest.raises(CheckpointError, match=r"another run: data was"):
        made(pool_config(), other, tmp_path, ancestry_teacher(), resume=True)


def test_checkpoints_of_other_runs_are_refused(bars: ImageSet, tmp_path: Path) -> None:
    """Those of a run without phases, and where there is none."""
    with pytest.raises(CheckpointError, match="cannot be read"):
        made(pool_config(), bars, tmp_path, ancestry_teacher(), resume=True)
    FolderKeeper(tmp_path, 1).keep(Checkpoint(tensors={"x": torch.zeros(1)}, facts={"step": 3}), 3)
    with pytest.raises(CheckpointError, match="run in phases"):
        made(pool_config(), bars, tmp_path, ancestry_teacher(), resume=True)


def test_the_joint_training_is_a_plain_training_of_the_drawn_paths(bars: ImageSet, tmp_path: Path) -> None:
    """Step by step: AdamW without weight decay on the gradients of the one path's loss, parts of it untouched."""
    plain = ["training.weight_decay=0", "training.warmup_lr=1e-3", "training.min_lr=1e-3", "joint.lr=1e-3"]
    config = pool_config(**SN_NET).with_overrides([*plain, "joint.epochs=1"])
    start = made(config.with_overrides(["joint.epochs=0"]), bars, tmp_path / "start", None)
    teacher = FixedTeacher()
    trained = made(config, bars, tmp_path / "joint", teacher)
    model = pool_model_of(start).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    sampler = PathSampler.of(model.pool, config.joint, config.training.seed)
    batches = Batches.of_image_set(bars, config.joint_config, CPU)
    for step in range(batches.steps_per_epoch):
        batch = batches.of(step)
        optimizer.zero_grad()
        logits = model(prepare(batch.images, 16, config.preprocessing), sampler.path(step))
        hard = teacher.logits(batch).argmax(dim=1)
        loss = 0.5 * functional.cross_entropy(logits, batch.targets) + 0.5 * functional.cross_entropy(logits, hard)
        loss.backward()
        optimizer.step()
    for name, tensor in model.pool_tensors().items():
        np.testing.assert_allclose(trained.tensors[name], tensor.numpy(), atol=1e-5, err_msg=name)


def test_a_low_rank_update_leaves_the_stitches_start(bars: ImageSet, tmp_path: Path) -> None:
    """What the joint training adds to each trained stitch's weight is of that rank (SN-Netv2)."""
    sections: dict[str, Any] = SN_NET | {"stitching": {"rank": 2}}
    start = made(pool_config(**sections).with_overrides(["joint.epochs=0"]), bars, tmp_path / "a", None)
    joint = pool_config(**sections).with_overrides(["joint.epochs=2", "joint.lr=0.01"])
    trained = made(joint, bars, tmp_path / "b", ancestry_teacher())
    ranks = []
    for index in range(len(start.description.pool.stitches)):
        name = f"stitches.{index}.weight"
        moved = torch.from_numpy(trained.tensors[name] - start.tensors[name])
        ranks.append(int(torch.linalg.matrix_rank(moved, atol=1e-5)))
    assert max(ranks) == 2


def test_least_squares_are_taken_on_drawn_images(bars: ImageSet, tmp_path: Path) -> None:
    """The run's stitches are those of `fit_stitches` on the images that it draws; both ways there are more of them."""
    config = pool_config(**SN_NET).with_overrides(["joint.epochs=0", "stitching.both_ways=true", "stitching.images=500"])
    learngene = made(config, bars, tmp_path, None)
    assert len(learngene.description.pool.stitches) == 4
    model = PoolModel(learngene.description.pool)
    drawn = {name: torch.from_numpy(tensor.copy()) for name, tensor in learngene.tensors.items()}
    model.load_pool_tensors({name: torch.zeros_like(t) if name.startswith("stitches") else t for name, t in drawn.items()})
    images = SourceImages(bars, config, CPU).sample(500, 1)  # all there are, whatever the seed
    assert images.shape == (48, 3, 16, 16)
    fit_stitches(model, prepare(images, 16, config.preprocessing))
    for name, tensor in model.pool_tensors().items():
        torch.testing.assert_close(tensor, drawn[name], rtol=1e-4, atol=1e-5)


def test_the_learned_start_is_in_every_stitch(bars: ImageSet, tmp_path: Path) -> None:
    """One matrix from the ancestry model's width, transposed; no bias; at a depth that is not the papers' (P3)."""
    config = pool_config(stitching={"init": "learned"}, joint={"epochs": 0})
    learngene = made(config, bars, tmp_path, ancestry_teacher())
    weights = [learngene.tensors[f"stitches.{index}.weight"] for index in range(2)]
    assert weights[0].shape == (32, 16)
    assert np.array_equal(weights[0], weights[1])
    assert weights[0].any()
    assert not learngene.tensors["stitches.0.bias"].any()


def test_given_anchors_are_not_trained(bars: ImageSet, tmp_path: Path) -> None:
    """Expanded from another pool in half precision, checked by name and shape, and kept as they are."""
    config = pool_config(**SN_NET).with_overrides(["joint.epochs=0"])
    family = Family(made(config, bars, tmp_path / "first", None))
    paths = {}
    for at, name in enumerate(("small", "large")):
        weights = DeviceLearngene(family, CPU).expand(family.recipe(family.members[at], Variation()))
        paths[name] = tmp_path / f"{name}.safetensors"
        save_file({key: tensor.half() for key, tensor in weights.items()}, paths[name])
    noted = Noted()
    learngene = made(config, bars, tmp_path / "second", None, anchors={"large": paths["large"]}, journal=noted)
    assert noted.notes == ["phase 1 of 2: anchor small", "phase 2 of 2: stitches by least-squares"]
    stored = learngene.tensors["anchors.1.head.weight"]
    assert np.array_equal(stored, family.learngene.tensors["anchors.1.head.weight"].astype(np.float16).astype(np.float32))
    assert "large as given" in learngene.description.provenance.notes
    with pytest.raises(CheckpointError, match=r"does not fit anchor small \(width 16, depth 3\)"):
        made(config, bars, tmp_path / "third", None, anchors={"small": paths["large"]})
    with pytest.raises(ConfigError, match=r"anchor: 'huge' is none of the recipe's anchors, small, large"):
        made(config, bars, tmp_path / "third", None, anchors={"huge": paths["large"]})
    learned = pool_config(stitching={"init": "learned"})
    with pytest.raises(ConfigError, match=r"stitching\.init: learned needs the matrices of anchor small"):
        made(learned, bars, tmp_path / "third", ancestry_teacher(), anchors={"small": paths["small"]})


@pytest.mark.parametrize(
    ("sections", "depth", "processes", "message"),
    [
        ({"joint": {"epochs": 1, "batch_size": 64}}, 6, 1, "batch_size: 64 is more than the 48 images"),
        ({"joint": {"epochs": 1, "batch_size": 9}}, 6, 2, "training.batch_size: must be a multiple of the processes"),
        ({}, 2, 1, "positions: front-end needs at least 3 blocks, not 2"),
    ],
)
def test_what_a_later_phase_cannot_do_is_said_before_the_first(
    bars: ImageSet, sections: dict[str, Any], depth: int, processes: int, message: str
) -> None:
    """Anchors may have taken days to train; nothing was trained here."""
    several = Processes()
    several.count = processes
    with pytest.raises(ConfigError, match=message):
        trainer_of(pool_config(**sections), bars, Path("nowhere"), ancestry_teacher(depth=depth), processes=several)


def test_stored_logits_that_the_joint_training_cannot_use_are_refused_before_the_anchors(
    bars: ImageSet, tmp_path: Path
) -> None:
    """SN-Net's anchors learn from labels here, so nothing else would ask before."""
    config = pool_config(**SN_NET)

    class Stored(FixedTeacher):
        """A teacher that has other pictures' logits."""

        def check(self, batches: Batches, config: TrainingConfig) -> None:
            """Refuse every batch."""
            raise ConfigError("augmentation.views", f"{config.augmentation.views} of {batches.digest}: none is stored")

    noted = Noted()
    with pytest.raises(ConfigError, match=r"augmentation\.views"):
        made(config, bars, tmp_path, Stored(), journal=noted)
    assert noted.notes == []


def test_given_anchors_whose_layers_share_memory_are_kept_in_states(bars: ImageSet, tmp_path: Path) -> None:
    """A stage-wise learngene's layers are one component, and no file of a state holds tensors that share memory."""
    config = pool_config(**SN_NET)
    state = PoolModel(config.design(3), seed=0).pool_tensors()
    large = {name.removeprefix("anchors.1."): tensor for name, tensor in state.items() if name.startswith("anchors.1.")}
    given = {name: large[name.replace("blocks.1.", "blocks.0.")] for name in large}
    trainer = trainer_of(config, bars, tmp_path, FixedTeacher(), given={"large": given}, checkpoint_every=1)
    assert trainer.run().keys() == config.design(3).tensor_shapes().keys()


@pytest.mark.parametrize(
    ("sections", "teacher", "reason"),
    [
        ({}, None, "ancestry: is needed"),
        (SN_NET | {"joint": {"alpha": 0.0}}, FixedTeacher(), "ancestry: is needed exactly where"),
        ({}, FixedTeacher(), "must be a model's file"),
        ({"network": {"patch_size": 4}}, "vit", "has 4 patches, the anchors 16"),
    ],
)
def test_a_teacher_that_does_not_serve_is_refused(
    bars: ImageSet, tmp_path: Path, sections: dict[str, Any], teacher: Any, reason: str
) -> None:
    """Before anything is trained."""
    asked = ancestry_teacher() if teacher == "vit" else teacher
    with pytest.raises(ConfigError) as caught:
        made(pool_config(**sections), bars, tmp_path, asked)
    assert reason in str(caught.value)
    assert not tmp_path.joinpath("checkpoint.safetensors").exists()


def test_anchors_alone_may_learn_from_any_teachers_logits(bars: ImageSet, tmp_path: Path) -> None:
    """Logits are all that is asked for."""
    config = pool_config(**SN_NET).with_overrides(["anchor_training.alpha=0.5", "joint.epochs=1"])
    learngene = made(config, bars, tmp_path, FixedTeacher())
    assert learngene.description.provenance.ancestry == "remainders"


def test_every_path_is_drawn_alike() -> None:
    """Each of nine about a ninth of the time, whole anchors too; the same again from seed and step."""
    design = pool_config().design(num_classes=3)
    sampler = PathSampler.of(design, pool_config().joint, 0)
    drawn = Counter(sampler.path(step) for step in range(1800))
    assert set(drawn) == {member.path for member in design.members}
    assert all(130 < count < 270 for count in drawn.values())  # 200 +- 5 standard deviations
    assert [sampler.path(step) for step in range(20)] == [
        PathSampler.of(design, pool_config().joint, 0).path(step) for step in range(20)
    ]


@pytest.mark.parametrize("rule", ["by-cost", "by-cost-rising"])
def test_paths_are_drawn_by_ranges_of_cost(rule: str) -> None:
    """Each range as often as its weight says, and each path of a range alike; together they are all paths."""
    config = pool_config(joint={"sampling": rule})
    design = config.design(num_classes=3)
    sampler = PathSampler.of(design, config.joint, 0)
    assert sorted(path for group in sampler.groups for path in group) == sorted(
        member.path for member in design.members if member.path is not None
    )
    costs = [[stack_cost(design.stack(Member.along(path))).macs for path in group] for group in sampler.groups]
    assert all(max(cheaper) < min(dearer) for cheaper, dearer in pairwise(costs))
    drawn = Counter(next(at for at, group in enumerate(sampler.groups) if sampler.path(step) in group) for step in range(1200))
    weights = np.ones(len(costs)) if rule == "by-cost" else np.arange(1.0, len(costs) + 1)
    expected = 1200 * weights / weights.sum()
    assert all(abs(drawn[at] - count) < 5 * np.sqrt(count) for at, count in enumerate(expected))


def test_a_range_of_costs_is_as_wide_as_asked() -> None:
    """From the cheapest path on; a range without a path is none."""
    paths = [member.path for member in pool_config().design(num_classes=3).members if member.path is not None][:5]
    groups = cost_groups(paths, [10, 12, 11, 30, 19], 5)
    assert groups == [[paths[0], paths[2], paths[1]], [paths[4]], [paths[3]]]


def test_the_paths_that_are_measured_span_the_costs() -> None:
    """The last anchor first, whose accuracy is the run's."""
    design = pool_config().design(num_classes=3)
    assert [str(path) for path in measured_paths(design)] == ["1.0-2", "0.0-2", "0.0-1_1.1-2"]
