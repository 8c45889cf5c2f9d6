"""The configuration of a pool's training: read strictly, errors by their place, and the papers' anchors and paths out of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tleg_core.anchor_config import AnchorRule, Positions
from tleg_core.description import Method
from tleg_core.errors import ConfigError
from tleg_core.learngene_config import DistillationKind, KdNormalisation
from tleg_core.pool_config import PoolConfig, Sampling, StitchInit
from tleg_core.pool_description import pool_summary
from tleg_core.training_config import Precision

SN_NET = """
[pool]
method = "sn-net"
[network]
class_token = true
[[anchors]]
name = "ti"
size = "tiny"
[[anchors]]
name = "s"
size = "small"
[[anchors]]
name = "b"
size = "base"
[training]
epochs = 300
lr = 5e-4
[augmentation]
mixup_alpha = 0.8
[joint]
epochs = 50
lr = 1e-4
min_lr = 1e-6
warmup_lr = 1e-7
kind = "hard"
"""

POOL = """
[[anchors]]
name = "ti"
depth = 6
positions = "front-end"
[[anchors]]
name = "b"
size = "base"
depth = 6
lr = 5e-5
[training]
epochs = 100
[anchor_training]
rule = "distilled"
[stitching]
init = "learned"
[joint]
epochs = 50
mix = false
"""


def test_sn_net_has_the_papers_pool() -> None:
    """71 members of three DeiT anchors, 22 stitches, 118.40 million parameters in the file."""
    config = PoolConfig.from_toml(SN_NET)
    design = config.design(num_classes=1000)
    assert (len(design.members), len(design.stitches)) == (71, 22)
    assert [anchor.config.embed_dim for anchor in design.anchors] == [192, 384, 768]
    assert design.config.num_tokens == 197
    stored = sum(_size(shape) for shape in design.tensor_shapes().values())
    assert round(stored / 1e6, 2) == 118.40


def test_learngene_pool_has_the_papers_pool() -> None:
    """18 members of two anchors of 6 blocks, 27 of 9; without a class token here."""
    config = PoolConfig.from_toml(POOL)
    assert len(config.design(num_classes=1000).members) == 18
    longer = config.with_overrides(["anchors.ti.depth=9", "anchors.b.depth=9"])
    assert (len(longer.design(num_classes=1000).members), len(longer.design(num_classes=1000).stitches)) == (27, 8)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


def test_what_is_not_said_is_the_papers() -> None:
    """Shares, normalisation, 100 images, and what the joint training takes over from the anchors'."""
    sn_net, pool = PoolConfig.from_toml(SN_NET), PoolConfig.from_toml(POOL)
    assert (sn_net.anchor_training.rule, sn_net.anchor_training.alpha) == (AnchorRule.ALONE, 0.0)
    assert (pool.anchor_training.alpha, pool.anchor_training.normalisation) == (0.9, KdNormalisation.NUMEL)
    assert (sn_net.stitching.init, sn_net.stitching.images, sn_net.stitching.kernel) == (StitchInit.LEAST_SQUARES, 100, 2)
    assert (pool.joint.sampling, pool.joint.alpha, pool.joint.kind) == (Sampling.UNIFORM, 0.5, DistillationKind.SOFT)
    joint = sn_net.joint_config
    assert (joint.epochs, joint.lr, joint.min_lr, joint.warmup_lr, joint.weight_decay) == (50, 1e-4, 1e-6, 1e-7, 0.05)
    assert joint.augmentation.mixup_alpha == 0.8
    assert PoolConfig.from_toml(SN_NET.replace('kind = "hard"', "mix = false")).joint_config.augmentation.mixup_alpha == 0.0
    assert [pool.anchor_config(anchor).lr for anchor in pool.anchors] == [5e-4, 5e-5]
    assert pool.pool.method is Method.POOL


@pytest.mark.parametrize("text", [SN_NET, POOL])
def test_it_survives_json(text: str) -> None:
    """Written and read, it is the same."""
    config = PoolConfig.from_toml(text)
    assert PoolConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("depth", "positions", "blocks"),
    [
        (12, Positions.FRONT_END, (3, 7, 11)),
        (12, Positions.MID_END, (7, 11)),
        (12, Positions.END, (11,)),
        (6, Positions.FRONT_END, (1, 3, 5)),
        (9, Positions.FRONT_END, (2, 5, 8)),
        (9, Positions.MID_END, (5, 8)),
        (5, Positions.FRONT_END, (1, 2, 4)),
        (4, Positions.FRONT_END, (0, 2, 3)),
        (3, Positions.FRONT_END, (0, 1, 2)),
        (1, Positions.END, (0,)),
    ],
)
def test_positions_are_thirds_of_the_depth(depth: int, positions: Positions, blocks: tuple[int, ...]) -> None:
    """METHODS 2.2: L/3 - 1, 2L/3 - 1 and L - 1; rounded where three does not divide the depth."""
    assert positions.blocks(depth) == blocks


def test_overrides_reach_every_section() -> None:
    """Anchors by their names; the last one of a field wins."""
    config = PoolConfig.from_toml(POOL).with_overrides(
        [
            "training.epochs=3",
            "training.precision=float32",
            "anchors.ti.depth=4",
            "anchors.b.depth=4",
            "anchors.b.embed_dim=48",
            "anchors.b.num_heads=4",
            "anchors.ti.embed_dim=32",
            "anchors.ti.num_heads=2",
            "stitching.init=least-squares",
            "stitching.rank=4",
            "joint.sampling=by-cost",
            "joint.group_macs=1000",
            "joint.epochs=0",
            "network.img_size=32",
            "network.patch_size=8",
            "augmentation.flip=0",
            "pool.method=sn-net",
        ]
    )
    assert (config.training.epochs, config.training.precision) == (3, Precision.FLOAT32)
    assert [anchor.vit(config.network, 3).embed_dim for anchor in config.anchors] == [32, 48]
    assert config.pool.method is Method.SN_NET
    whole = config.with_changes({"anchors": [config.to_json()["anchors"][0] | {"name": "one"}, config.to_json()["anchors"][1]]})  # type: ignore[dict-item]
    assert [anchor.name for anchor in whole.anchors] == ["one", "b"]


@pytest.mark.parametrize(("given", "needed"), [((), True), (("ti",), True), (("ti", "b"), False)])
def test_an_ancestry_model_is_needed_where_something_learns_from_it(given: tuple[str, ...], needed: bool) -> None:
    """By anchors that are not there yet, or by the joint training."""
    config = PoolConfig.from_toml(POOL).with_overrides(["joint.epochs=0"])
    assert config.learns_from_ancestry(given) is needed
    assert PoolConfig.from_toml(POOL).learns_from_ancestry(given)
    assert not PoolConfig.from_toml(SN_NET).with_overrides(["joint.alpha=0"]).learns_from_ancestry()


@pytest.mark.parametrize(
    ("override", "field", "reason"),
    [
        ("pool.method=tleg", "pool.method", "one of pool, sn-net, pretrained"),
        ("pool.method=pretrained", "joint.epochs", "nothing joins"),
        ("network.img_size=30", "network.img_size", "not a multiple"),
        ("anchors.ti.num_heads=5", "anchors.ti.num_heads", "does not divide"),
        ("anchors.ti.size=giant", "anchors.ti.size", "one of"),
        ("anchors.ti.depth=0", "anchors.ti.depth", "from 1 to"),
        ("anchors.ti.depth=2", "anchors.ti.positions", "at least 3"),
        ("anchors.ti.depths=2", "anchors.ti.depths", "is no field"),
        ("anchors.xl.depth=2", "anchors.xl.depth", "there are ti, b"),
        ("anchors.ti=2", "anchors.ti", "ti.depth"),
        ("anchors.b.name=ti", "anchors", "same name"),
        ("anchors.b.name=B", "anchors.name", "lower-case"),
        ("anchors.ti.size=large", "anchors", "fewest parameters first"),
        ("anchors.b.lr=-1", "anchors.b.lr", "above 0"),
        ("anchor_training.alpha=0", "anchor_training.alpha", "above 0"),
        ("anchor_training.alpha=2", "anchor_training.alpha", "from 0 to 1"),
        ("anchor_training.kind=hard", "anchor_training.kind", "soft"),
        ("anchor_training.rule=alone", "stitching.init", "distilled anchors"),
        ("anchor_training.terms=logits", "stitching.init", "blocks' outputs"),
        ("anchor_training.terms=some", "anchor_training.terms", "one of"),
        ("stitching.kernel=0", "stitching.kernel", "from 1"),
        ("stitching.images=0", "stitching.images", "from 1"),
        ("stitching.rank=0", "stitching.rank", "from 1"),
        ("stitching.rank=193", "stitching.rank", "at most 192"),
        ("joint.epochs=-1", "joint.epochs", "from 0"),
        ("joint.group_macs=5", "joint.group_macs", "by cost"),
        ("joint.batch_size=0", "joint.batch_size", "at least 1"),
        ("joint.warmup_epochs=50", "joint.warmup_epochs", "from 0 to 49"),
        ("joint.kind=medium", "joint.kind", "one of"),
        ("training.layer_decay=0.9", "training.layer_decay", "must be 1"),
        ("training.compile=true", "training.compile", "pool"),
        ("preprocessing.mean=[0.5]", "preprocessing.mean", "3 numbers"),
        ("depths.train=3", "depths", "is no section"),
    ],
)
def test_what_cannot_be_is_refused_by_its_place(override: str, field: str, reason: str) -> None:
    """The error names section, anchor, field and limit."""
    with pytest.raises(ConfigError) as caught:
        PoolConfig.from_toml(POOL).with_overrides([override])
    assert caught.value.field == field
    assert reason in caught.value.reason


def test_only_a_joint_training_updates_stitches_at_a_rank() -> None:
    """What a pool says of its making is what was done."""
    config = PoolConfig.from_toml(POOL).with_overrides(["stitching.rank=64"])
    assert "stride 1, updated at rank 64; trained together for 50 epochs" in pool_summary(config)
    assert "stride 1; not trained together" in pool_summary(config.with_overrides(["joint.epochs=0"]))


def test_both_ways_have_no_windows() -> None:
    """And more paths than the windows."""
    config = PoolConfig.from_toml(SN_NET).with_overrides(["stitching.both_ways=true"])
    assert len(config.design(num_classes=10).members) == 3 + 2 * 132
    with pytest.raises(ConfigError, match=r"stitching\.both_ways: has no windows"):
        config.with_overrides(["stitching.kernel=3"])


def test_a_pool_has_a_limited_number_of_anchors_and_paths() -> None:
    """Each is an error before anything large is made."""
    config = PoolConfig.from_toml(POOL)
    value = config.to_json()
    value["anchors"] = [value["anchors"][0] | {"name": f"a{number}"} for number in range(65)]
    with pytest.raises(ConfigError, match="anchors: must be at least 2 and at most 64, not 65"):
        PoolConfig.from_json(value)
    with pytest.raises(ConfigError, match="stitching: makes up to 999,000 paths"):
        config.with_overrides(["anchors.ti.depth=1000", "anchors.b.depth=1000", "stitching.both_ways=true"])


def test_pretrained_networks_are_not_stitched() -> None:
    """Not even one alone is refused."""
    text = '[pool]\nmethod = "pretrained"\n[[anchors]]\nname = "ti"\n[training]\nepochs = 1\n'
    design = PoolConfig.from_toml(text).design(num_classes=5)
    assert (len(design.members), design.stitches, design.paths) == (1, (), ())
    with pytest.raises(ConfigError, match="at least 2"):
        PoolConfig.from_toml(text).with_overrides(["pool.method=sn-net"])


@given(
    st.dictionaries(
        st.sampled_from(["training", "network", "anchors", "stitching", "joint", "anchor_training", "pool", "augmentation"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["epochs", "name", "size", "img_size", "method", "depth", "alpha", "lr"]), inner
                )
            ),
            max_leaves=6,
        ),
    )
)
def test_any_json_is_read_or_refused_by_a_config_error(value: dict[str, Any]) -> None:
    """Nothing else escapes, whatever a client sends."""
    try:
        config = PoolConfig.from_json(value)
    except ConfigError:
        return
    assert PoolConfig.from_json(config.to_json()) == config
