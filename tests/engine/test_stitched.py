"""Members of a pool in the engine: fine-tuned like any other model, from their path's weights to a file that loads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from service.domain.model import FineTuning, Model, Usage
from service.worker.protocol import EpochDone, Finished, Started
from tests.core.conftest import build_pool
from tests.engine.conftest import CLASSES, Scene
from tests.engine.driver import Engine
from tleg_core.description import Preprocessing
from tleg_core.family import Family, Variation
from tleg_core.learngene import Learngene
from tleg_core.path import Path as PoolPath
from tleg_core.recipe import Member
from tleg_core.training.network import DeviceLearngene
from tleg_core.training.stitched_vit import StitchedVit

pytestmark = pytest.mark.slow  # an engine of its own

BACK = "0.0-0_1.1-1_0.2-2"
"""There and back: three blocks, two stitches."""


@dataclass
class PoolScene:
    """The bands of the other tests, and the members of a pool to start from."""

    scene: Scene
    family: Family
    engine: Engine

    def along(self, path: str) -> Scene:
        """Return the scene with the member of a path as its model."""
        model = Model.of(self.family, self.family.recipe(Member.along(PoolPath.parse(path)), Variation()))
        return replace(self.scene, model=model)

    def tuned(self, scene: Scene, **settings: object) -> tuple[Finished, dict[str, torch.Tensor]]:
        """Return how a fine-tune ended, and the weights in its file."""
        reports = self.engine.do(scene.run(**settings))
        assert isinstance(reports[0], Started), reports[0]
        assert isinstance(reports[-1], Finished), reports[-1]
        path = scene.store.local_path(reports[-1].weights.key)
        assert path is not None
        return reports[-1], load_file(path)


@pytest.fixture(scope="module")
def pool(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PoolScene]:
    """An engine that holds a pool whose members can learn: norms are ones, stitches near the identity's size."""
    folder = tmp_path_factory.mktemp("pool")
    given = build_pool()
    generator = torch.Generator().manual_seed(0)
    tensors = {name: tensor.copy() for name, tensor in given.tensors.items()}
    for name, tensor in tensors.items():
        if "norm" in name:
            tensor[:] = float(name.endswith("weight"))
        elif name.startswith("stitches.") and name.endswith("weight"):
            tensor[:] = torch.randn(tensor.shape, generator=generator).numpy() / tensor.shape[1] ** 0.5
    learngene = Learngene.create(given.description, tensors)
    learngene.write(folder / "pool.safetensors")
    with Engine(folder / "engine", [folder / "pool.safetensors"], scene.store.url) as engine:
        yield PoolScene(scene, Family(learngene), engine)


def test_a_stitched_member_learns_and_its_file_loads(pool: PoolScene) -> None:
    """Held-out accuracy rises to nearly all; timm builds it from the record, and it scores what was reported."""
    scene = pool.along(BACK)
    finished, weights = pool.tuned(scene, epochs=8, lr=3e-3)
    assert finished.metrics["top1"] > 0.9
    network = timm.create_model(scene.model.architecture, num_classes=len(CLASSES), **scene.model.model_args)
    assert isinstance(network, StitchedVit)
    network.load_state_dict(weights, strict=True)
    assert list(weights) == sorted(weights, key=list(network.state_dict()).index)
    expanded = DeviceLearngene(pool.family, torch.device("cpu")).expand(scene.model.recipe)
    moved = [name for name in expanded if not name.startswith("head.") and not torch.equal(expanded[name], weights[name])]
    assert {"stitches.0.weight", "stitches.1.weight", "stitches.1.bias", "blocks.0.attn.qkv.weight", "pos_embed"} <= set(moved)


def test_a_fine_tuned_stitched_model_is_recorded_and_tuned_again(pool: PoolScene) -> None:
    """Its record says the same stages with the data set's classes; a second job begins from its file."""
    scene = pool.along(BACK)
    run = scene.run(epochs=6, lr=3e-3)
    finished = pool.engine.do(run)[-1]
    tuning = FineTuning.of(
        scene.dataset,
        parent=scene.model.id,
        usage=Usage(preprocessing=Preprocessing(), class_names=CLASSES, licence="Apache-2.0"),
        job=run.job,
        settings=run.settings,
        epoch=6,
        step=54,
        metrics=finished.metrics,
        images=18,
        weights_sha256=finished.weights.sha256,
        weights_key=finished.weights.key,
        size_bytes=finished.weights.size_bytes,
    )
    model = Model.from_json(Model.fine_tuned(scene.model, tuning).to_json())
    assert model.recipe.member == scene.model.recipe.member
    assert model.stack == scene.model.stack.with_changes(num_classes=3)
    assert model.cost.params == sum(tensor.numel() for tensor in load_file(_path(scene, finished)).values())
    again = replace(scene, model=model)
    settings = again.settings(epochs=1, lr=1e-9).to_json() | {"head": "keep"}
    kept = pool.engine.do(again.run().model_copy(update={"settings": settings}))[-1]
    assert abs(kept.metrics["loss"] - finished.metrics["loss"]) < 1e-3


def _path(scene: Scene, finished: Finished) -> Path:
    path = scene.store.local_path(finished.weights.key)
    assert path is not None
    return Path(path)


@pytest.mark.parametrize(
    ("blocks", "moving"),
    [
        (-1, {"head"}),
        (1, {"blocks.1", "blocks.2", "stitches.0", "stitches.1", "norm", "head"}),
        (2, {"blocks.2", "stitches.1", "norm", "head"}),
        (3, {"norm", "head"}),
    ],
)
def test_frozen_blocks_keep_the_stitches_before_them(pool: PoolScene, blocks: int, moving: set[str]) -> None:
    """A stitch is trained where the block that it leads to is."""
    scene = pool.along(BACK)
    _, weights = pool.tuned(scene, epochs=1, lr=1e-3, freeze=blocks)
    before = DeviceLearngene(pool.family, torch.device("cpu")).expand(scene.model.recipe)
    moved = {name for name in weights if name.startswith("head.") or not torch.equal(before[name], weights[name])}
    modules = {
        ".".join(name.split(".")[:2]) if name.startswith(("blocks.", "stitches.")) else name.split(".")[0] for name in moved
    }
    assert modules == moving


def test_layer_decay_slows_the_first_width_most(pool: PoolScene) -> None:
    """From block to block the weights move less, and a stitch as the block that it leads to."""
    scene = pool.along(BACK)
    _, weights = pool.tuned(scene, epochs=1, lr=1e-4, layer_decay=0.1, weight_decay=0.0)
    before = DeviceLearngene(pool.family, torch.device("cpu")).expand(scene.model.recipe)

    def moved(name: str) -> float:
        return float((weights[name] - before[name]).abs().mean())

    assert moved("blocks.0.mlp.fc1.bias") < 0.2 * moved("blocks.1.mlp.fc1.bias") < 0.04 * moved("blocks.2.mlp.fc1.bias")
    assert moved("stitches.0.bias") == pytest.approx(moved("blocks.1.mlp.fc1.bias"), rel=0.5)
    assert moved("stitches.1.bias") == pytest.approx(moved("blocks.2.mlp.fc1.bias"), rel=0.5)


def test_scratch_is_the_same_network_drawn(pool: PoolScene) -> None:
    """`start: scratch` trains the stages from timm's own draws, as a baseline."""
    reports = pool.engine.do(pool.along(BACK).run(epochs=1, start="scratch"))
    assert isinstance(reports[-1], Finished)
    assert [report.epoch for report in reports if isinstance(report, EpochDone)] == [1]


def test_a_whole_anchor_is_tuned_as_timms_own_network(pool: PoolScene) -> None:
    """Its file is a plain ViT's."""
    scene = pool.along("1.0-3")
    _, weights = pool.tuned(scene, epochs=1)
    network = timm.create_model(scene.model.architecture, num_classes=len(CLASSES), **scene.model.model_args)
    network.load_state_dict(weights, strict=True)
    assert not isinstance(network, StitchedVit)
