"""The recipes that come with the package: each says what it is, and the published ones hold the paper's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tleg_core.cost import cost, stack_cost
from tleg_core.description import Description, Measurement
from tleg_core.errors import ConfigError
from tleg_core.learngene import Learngene
from tleg_core.learngene_config import DistillationKind, KdNormalisation
from tleg_core.pool_config import PoolConfig, StitchInit
from tleg_core.training_recipe import (
    RecipeHeader,
    config_from_json,
    learngene_recipe,
    read_recipe,
    recipe_names,
    recipe_text,
)

NAMES = recipe_names()
PUBLISHED = [name for name in NAMES if "imagenet" in name and name.startswith(("tleg", "sws"))]
POOLS = [name for name in NAMES if isinstance(read_recipe(name), PoolConfig)]
SHIPPED = "tleg-ti-fashion-mnist"


def test_the_recipes_that_were_promised_are_there() -> None:
    """The paper's two for three widths, stage-wise sharing, and those for small images."""
    widths = ("ti", "s", "b")
    promised = {f"tleg-{width}-imagenet{variant}" for width in widths for variant in ("", "-yuanmou")}
    assert promised | {"sws-s-imagenet", SHIPPED, "elastic-ti-cifar10", "elastic-s-cifar10"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_recipe_says_what_it_is_within_eighty_columns(name: str) -> None:
    """Title, paper, a command that trains it by its name, result, time; no line is wider than a terminal."""
    text = recipe_text(name)
    header = RecipeHeader.from_text(text)
    assert "arXiv" in header.paper
    assert f"tleg train {name} " in header.command
    assert header.expected
    assert header.time
    assert [line for line in text.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("name", NAMES)
def test_each_recipe_is_a_configuration_that_survives_json(name: str) -> None:
    """What a job is given is what the file says."""
    config = read_recipe(name)
    assert config_from_json(config.to_json()) == config


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_recipes_hold_the_authors_numbers(name: str) -> None:
    """METHODS 1.4: optimiser, schedule, loss and augmentation are the same in all of them."""
    config = learngene_recipe(name)
    training, augmentation, loss = config.training, config.training.augmentation, config.distillation
    assert (training.lr, training.min_lr, training.warmup_lr, training.warmup_epochs) == (5e-4, 1e-5, 1e-6, 5)
    assert (training.weight_decay, training.clip_grad, training.ema_decay, training.seed) == (0.05, None, None, 123)
    assert (loss.alpha, loss.temperature, loss.normalisation, loss.kind) == (1.0, 1.0, "numel", "soft")
    assert training.precision == "float16"
    assert (augmentation.rand_augment, augmentation.color_jitter, augmentation.crop) == (
        *("rand-m9-mstd0.5-inc1", 0.4),
        "random-resized",
    )
    assert (augmentation.mixup_alpha, augmentation.cutmix_alpha, augmentation.label_smoothing) == (0.8, 1.0, 0.1)
    assert (augmentation.random_erasing, augmentation.repeats) == (0.25, 3)
    assert (config.network.img_size, config.network.patch_size) == (224, 16)


# METHODS 1.4, and 5 for SWS: epochs, batch, drop path, depth, method; 1.6: MACs of the auxiliary model, in 1e9.
DIFFERENCES: dict[str, tuple[int, int, float, int, str, float]] = {
    "tleg-ti-imagenet": (150, 512, 0.0, 12, "tleg", 1.247),
    "tleg-s-imagenet": (150, 512, 0.0, 12, "tleg", 4.574),
    "tleg-b-imagenet": (100, 512, 0.0, 12, "tleg", 17.472),
    "tleg-ti-imagenet-yuanmou": (150, 128, 0.1, 12, "tleg", 1.247),
    "tleg-s-imagenet-yuanmou": (150, 128, 0.1, 12, "tleg", 4.574),
    "tleg-b-imagenet-yuanmou": (150, 128, 0.1, 12, "tleg", 17.472),
    "sws-s-imagenet": (150, 512, 0.0, 16, "stagewise", 6.079),
    "sws-b-imagenet": (100, 512, 0.0, 16, "stagewise", 23.257),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_recipes_differ_where_the_authors_do(name: str) -> None:
    """And the FLOPs in the header are 6 x MACs x images of that network and that length."""
    config = learngene_recipe(name)
    epochs, batch, drop_path, depth, method, giga_macs = DIFFERENCES[name]
    training = config.training
    assert (training.epochs, training.batch_size, training.drop_path) == (epochs, batch, drop_path)
    assert (config.depths.rule, config.depths.train, config.schedule.method) == ("fixed", depth, method)
    macs = cost(config.network.vit(num_classes=1000), depth).macs
    assert macs / 1e9 == pytest.approx(giga_macs, abs=5e-4)
    flops = f"{6 * macs * epochs * 1_281_167:.1e}".replace("e+", "e")
    assert f"{flops} FLOPs" in RecipeHeader.from_text(recipe_text(name)).time


def test_stage_wise_sharing_reproduces_its_auxiliary_model() -> None:
    """At 16 layers the stages are 3-3-4-3-3, at 12 the authors' 3-3-2-2-2."""
    schedule = learngene_recipe("sws-s-imagenet").schedule.build()
    for depth, lengths in ((16, (3, 3, 4, 3, 3)), (12, (3, 3, 2, 2, 2))):
        rows = schedule.coefficients(depth)
        assert tuple(sum(row[stage] == 1.0 for row in rows) for stage in range(5)) == lengths


def test_the_shipped_learngenes_recipe_is_its_command(shipped: Description) -> None:
    """Network, depth, and what the provenance says of the run; its header has the accuracy that stands in the file."""
    config = learngene_recipe(SHIPPED)
    assert config.network.vit(num_classes=10) == shipped.config
    assert (config.depths.train, config.depths.rule, config.schedule.build()) == (
        shipped.basis.trained_depth,
        "fixed",
        shipped.basis.schedule,
    )
    expected: dict[str, Any] = {"epochs": 7, "batch_size": 128, "warmup_epochs": 1, "lr": 5e-4, "weight_decay": 0.05, "seed": 0}
    assert {name: getattr(config.training, name) for name in expected} == expected
    assert config.training.precision == "bfloat16"
    assert (config.distillation.alpha, config.distillation.normalisation) == (1.0, "numel")
    assert "--depth 12 --epochs 7" in shipped.provenance.command
    header = RecipeHeader.from_text(recipe_text(SHIPPED)).expected
    for entry in shipped.accuracy:
        assert isinstance(entry, Measurement)
        if entry.depth in (4, 6, 12):
            assert f"{100 * entry.top1:.2f} %" in header


@pytest.fixture(scope="module")
def shipped() -> Description:
    """What the shipped learngene says of itself."""
    path = Path(__file__).parents[2] / "tleg_core" / "shipped" / f"{SHIPPED}.safetensors"
    return Learngene.open(path).description


@pytest.mark.parametrize("name", ["elastic-ti-cifar10", "elastic-s-cifar10"])
def test_the_elastic_recipes_train_several_depths(name: str) -> None:
    """From 4 to 12, which are those that need no fine-tune."""
    depths = learngene_recipe(name).depths
    assert depths.rule != "fixed"
    assert (depths.train_min, depths.train) == (4, 12)


@pytest.mark.parametrize("name", POOLS)
def test_every_pool_has_its_paths(name: str) -> None:
    """18 of two anchors of 6 blocks, 71 of three of 12, and at 6 blocks twice 16 beside the anchors; whole networks alone."""
    config = read_recipe(name)
    assert isinstance(config, PoolConfig)
    members = {"pool": 18, "sn-net-imagenet": 71, "sn-net-cifar10": 35, "pretrained-cifar10": 3}
    assert len(config.design(num_classes=10).members) == members[name if name in members else "pool"]


def test_the_published_pools_hold_the_authors_numbers() -> None:
    """METHODS 2.2, 2.4 and 4.1; the FLOPs in the headers are 6 x MACs x images, of anchors and of the mean path."""
    pool, sn_net = read_recipe("pool-imagenet"), read_recipe("sn-net-imagenet")
    assert isinstance(pool, PoolConfig)
    assert isinstance(sn_net, PoolConfig)
    assert pool.anchor_training.alpha == 0.9
    assert [anchor.positions for anchor in pool.anchors] == ["front-end", "end"]
    assert (pool.training.epochs, pool.training.batch_size, pool.training.lr, pool.training.drop_path) == (100, 256, 5e-4, 0.1)
    joint = pool.joint_config
    assert (joint.epochs, joint.batch_size, joint.lr, joint.augmentation.mixes) == (50, 256, 5e-4, False)
    assert (pool.joint.alpha, pool.joint.kind, pool.joint.normalisation) == (0.5, "soft", KdNormalisation.NUMEL)
    assert pool.stitching.init is StitchInit.LEARNED
    joint = sn_net.joint_config
    assert (joint.epochs, joint.batch_size, joint.lr, joint.min_lr, joint.warmup_lr) == (50, 1024, 1e-4, 1e-6, 1e-7)
    assert (sn_net.joint.alpha, sn_net.joint.kind, sn_net.stitching.images) == (0.5, DistillationKind.HARD, 100)
    assert sn_net.joint_config.augmentation.mixes
    for name, config in (("pool-imagenet", pool), ("sn-net-imagenet", sn_net)):
        design = config.design(num_classes=1000)
        macs = [stack_cost(design.stack(member)).macs for member in design.members]
        told = RecipeHeader.from_text(recipe_text(name)).time
        assert _flops(sum(macs) / len(macs) * config.joint.epochs) in told
        if name == "pool-imagenet":
            assert _flops(sum(macs[: len(config.anchors)]) * config.training.epochs) in told


def _flops(macs_and_epochs: float) -> str:
    return f"{6 * macs_and_epochs * 1_281_167:.1e}".replace("e+", "e")


def test_a_header_is_read_in_its_parts() -> None:
    """Further lines are indented, and a colon elsewhere is no part."""
    lines = (
        "A title: short",
        "Paper: one",
        "  two: three",
        "Command:",
        "  tleg train \\",
        "    --out x",
        "Expected: 5",
        "Time: 6",
    )
    text = "".join(f"# {line}\n" for line in lines) + "\n# Time: 7\n"
    header = RecipeHeader.from_text(text)
    assert (header.title, header.paper, header.command) == ("A title: short", "one\ntwo: three", "tleg train \\\n  --out x")
    assert (header.expected, header.time) == ("5", "6")


@pytest.mark.parametrize("missing", ["# A title\n", "# Paper: a\n", "# Command: b\n", "# Expected: c\n", "# Time: d\n"])
def test_a_header_without_a_part_is_refused(missing: str) -> None:
    """Naming what is missing."""
    text = "# A title\n# Paper: a\n# Command: b\n# Expected: c\n# Time: d\n".replace(missing, "")
    with pytest.raises(ConfigError, match="its header lacks"):
        RecipeHeader.from_text(text)


def test_a_recipe_may_be_a_file(tmp_path: Path) -> None:
    """By its path; a name of nothing lists those that there are."""
    path = tmp_path / "mine.toml"
    path.write_text("# Mine\n[training]\nepochs = 3\n")
    assert read_recipe(str(path)).training.epochs == 3
    with pytest.raises(ConfigError, match=r"recipe: 'nothing' is neither a readable file nor one of auto-lg"):
        read_recipe("nothing")
    path.write_text("[training]\nepoch = 3\n")
    with pytest.raises(ConfigError, match=r"training\.epoch: is no field"):
        read_recipe(str(path))


def test_a_recipes_sections_say_its_kind(tmp_path: Path) -> None:
    """Anchors are a pool's; what needs an auxiliary model refuses another kind by name."""
    path = tmp_path / "mine.toml"
    path.write_text('[pool]\nmethod = "pretrained"\n[[anchors]]\nname = "ti"\n[training]\nepochs = 1\n')
    assert isinstance(read_recipe(str(path)), PoolConfig)
    with pytest.raises(ConfigError, match=r"recipe: .* does not train one auxiliary model"):
        learngene_recipe(str(path))
