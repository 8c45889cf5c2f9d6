"""Members of every design where torch computes: expanded on the device, and measured by `tleg evaluate`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.core.conftest import TEST_POOL, build_pool, build_scratch
from tests.training.test_evaluate_command import run
from tleg_core.descendant import Descendant
from tleg_core.description import Measurement, Method
from tleg_core.dtype import DType
from tleg_core.family import Family, Variation
from tleg_core.images import ImageSet, save_parquet
from tleg_core.learngene import Learngene
from tleg_core.path import Path as PoolPath
from tleg_core.plots.macs_plot import best
from tleg_core.recipe import Head, Member
from tleg_core.training.network import DeviceLearngene, Network

CPU = torch.device("cpu")


@pytest.mark.parametrize("variation", [Variation(), Variation(img_size=48), Variation(num_classes=3, dtype=DType.BFLOAT16)])
@pytest.mark.parametrize("design", ["pool", "scratch"])
def test_what_is_expanded_on_the_device_is_the_served_file(design: str, variation: Variation) -> None:
    """Bit for bit, stitches and drawn tensors included."""
    family = Family({"pool": build_pool, "scratch": build_scratch}[design]())
    held = DeviceLearngene(family, CPU)
    for member in (family.members[0], family.members[-1], family.members[3]):
        recipe = family.recipe(member, variation, head=Head.RANDOM, seed=3)
        descendant = Descendant(family, recipe)
        served = safetensors.torch.load(descendant.read(0, descendant.size))
        expanded = held.expand(recipe)
        assert list(expanded) == [spec.name for spec, _ in family.sources(recipe)]
        for name, tensor in served.items():
            assert torch.equal(expanded[name], tensor.float()), name


@pytest.fixture
def bench(bars: ImageSet, tmp_path: Path) -> Path:
    """A folder with a pool of larger random numbers, one of whose members was measured before, and a set of images."""
    config = {"img_size": 16, "patch_size": 8, "num_classes": 3}
    anchors = tuple(replace(anchor, config=replace(anchor.config, **config)) for anchor in TEST_POOL.anchors)
    design = replace(TEST_POOL, anchors=anchors)
    rng = np.random.default_rng(1)
    tensors = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in design.tensor_shapes().items()}
    before = tuple(
        Measurement.of(Member.along(PoolPath.parse(path)), data_set=name, top1=0.125, images=8)
        for name, path in (("a", "1.0-3"), ("b", "0.0-1_1.3-3"))
    )
    description = replace(
        build_pool().description, name="bars-pool", design=design, class_names=bars.class_names, accuracy=before
    )
    Learngene.create(description, tensors).write(tmp_path / "pool.safetensors")
    save_parquet(bars, tmp_path / "a.parquet")
    return tmp_path


def by_hand(pool: Learngene, path: str, images: ImageSet) -> float:
    """Return the top-1 of the network that the member's file is loaded into."""
    family = Family(pool)
    recipe = family.recipe(Member.along(PoolPath.parse(path)), Variation())
    stack = family.stack(recipe.member)
    descendant = Descendant(family, recipe)
    weights = safetensors.torch.load(descendant.read(0, descendant.size))
    network = Network(architecture=stack.architecture, model_args=stack.model_args, num_classes=3)
    model = network.load(weights, drop_path=0.0, device=CPU).eval()
    pixels = torch.from_numpy(images.images).permute(0, 3, 1, 2).float() / 255  # (B, 3, H, W)
    with torch.inference_mode():
        predicted = model((pixels - 0.5) / 0.5).argmax(dim=1)
    return float((predicted == torch.from_numpy(images.labels)).float().mean())


def test_every_path_is_measured_and_written(bench: Path, bars: ImageSet) -> None:
    """Each figure is that of the file that a user would load; what another set said of a member stays."""
    before = Learngene.open(bench / "pool.safetensors")
    result = run(bench / "pool.safetensors", "--data", bench / "a.parquet", "--json", "--batch-size", 16)
    assert result.exit_code == 0, result.output
    entries: list[dict[str, Any]] = json.loads(result.stdout)["data"]
    assert [entry["path"] for entry in entries] == [str(member.path) for member in before.description.design.members]
    for entry in entries:
        assert entry["top1"] == pytest.approx(by_hand(before, entry["path"], bars), abs=1e-6), entry["path"]
    assert len({entry["top1"] for entry in entries}) > 1
    after = Learngene.open(bench / "pool.safetensors")
    assert after.digest == before.digest
    told = {(entry.data_set, str(entry.path)): entry.top1 for entry in after.description.accuracy}
    assert told == {("a", entry["path"]): entry["top1"] for entry in entries} | {("b", "0.0-1_1.3-3"): 0.125}


def test_some_members_are_chosen_by_path_or_by_depth(bench: Path) -> None:
    """In the design's order, whatever order they were named in."""
    arguments = (bench / "pool.safetensors", "--data", bench / "a.parquet", "--no-write", "--json")

    def measured(*options: object) -> list[str]:
        return [entry["path"] for entry in json.loads(run(*arguments, *options).stdout)["data"]]

    assert measured("--paths", "0.0-1_1.3-3, 1.0-3") == ["1.0-3", "0.0-1_1.3-3"]
    assert measured("--depths", "4") == ["1.0-3", "0.0-0_1.1-3", "0.0-1_1.2-3"]


def test_the_table_and_the_figure_are_by_path(bench: Path) -> None:
    """In eighty columns; the figure against multiply-accumulates."""
    result = run(bench / "pool.safetensors", "--data", bench / "a.parquet", "--no-write", "--plot", bench / "figure.svg")
    assert result.exit_code == 0, result.output
    assert "0.0-0_1.1-1_0.2-2" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "multiply-accumulates" in (bench / "figure.svg").read_text()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--paths", "0.0-1_1.1-3"), "none of this pool's"),
        (("--paths", "1"), "must be like"),
        (("--paths", "1.0-3", "--depths", "4"), "both"),
        (("--depths", "2"), "must lie within 3 to 4"),
    ],
)
def test_members_that_are_none_are_refused(bench: Path, options: tuple[str, ...], says: str) -> None:
    """Before anything is measured."""
    result = run(bench / "pool.safetensors", "--data", bench / "a.parquet", *options)
    assert says in str(result.exception)


def test_nothing_of_scratch_is_measured(bench: Path) -> None:
    """Its head is drawn too."""
    build_scratch().write(bench / "scratch.safetensors")
    result = run(bench / "scratch.safetensors", "--data", bench / "a.parquet")
    assert "drawn at random" in str(result.exception)


def test_networks_trained_one_by_one_are_measured_too(bench: Path) -> None:
    """A pool without stitches has its anchors."""
    pool = Learngene.open(bench / "pool.safetensors")
    design = replace(pool.description.pool, stitches=(), paths=())
    tensors = {name: pool.tensors[name] for name in design.tensor_shapes()}
    description = replace(pool.description, method=Method.PRETRAINED, design=design, accuracy=())
    Learngene.create(description, tensors).write(bench / "anchors.safetensors")
    run(bench / "anchors.safetensors", "--data", bench / "a.parquet")
    accuracy = Learngene.open(bench / "anchors.safetensors").description.accuracy
    assert [str(entry.path) for entry in accuracy] == ["0.0-2", "1.0-3"]


def test_the_best_of_a_figure_are_beaten_by_none() -> None:
    """A cheaper one is less accurate; of two that cost the same the better one stays."""
    assert best([(3, 70), (1, 50), (2, 40), (3, 60), (4, 70)]) == [(1, 50), (3, 70)]
