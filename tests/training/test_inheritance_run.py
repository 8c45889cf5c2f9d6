"""From an ancestry model to a learngene of some of its layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tleg_core.description import Method
from tleg_core.errors import ConfigError
from tleg_core.family import Family, Variation
from tleg_core.image_source import ImageSource
from tleg_core.images import ImageSet, open_images, save_parquet
from tleg_core.inheritance_config import InheritanceConfig
from tleg_core.learngene import Learngene
from tleg_core.recipe import Member
from tleg_core.training.ancestry import AncestryCard, AncestryModel
from tleg_core.training.ancestry_vit import AncestryVit, vit_weights
from tleg_core.training.checkpoint import Checkpoint
from tleg_core.training.inheritance_run import inherit_layers
from tleg_core.training.keeper import CHECKPOINT_NAME
from tleg_core.training.layer_transfer import frozen_source
from tleg_core.training.look_ahead import lambdas, pooled
from tleg_core.training.network import DeviceLearngene
from tleg_core.training.observer import Silent
from tleg_core.training.preprocessing import prepare, to_unit
from tleg_core.training.processes import Processes

CPU = torch.device("cpu")
DEPTH = 4
STABILITY: dict[str, Any] = {
    "selection": {"rule": "stability", "num_layers": 2},
    "stability": {"num_tasks": 2, "classes_per_task": 2, "windows": 1, "fisher_images": 2},
}
TRANSFER: dict[str, Any] = {
    "selection": {"rule": "transfer", "num_layers": 2},
    "transfer": {"depth": 1, "meta_images": 8, "score_images": 16, "meta_lr": 1e-2},
}
GIVEN: dict[str, Any] = {"selection": {"rule": "given", "layers": [0, 3]}}


@pytest.fixture(scope="module")
def ancestry() -> AncestryModel:
    """A random ViT of four blocks; the branches of blocks 1 and 2 are zero, at a point where no gradient moves them."""
    card = AncestryCard(
        architecture="vit_tiny_patch16_224",
        img_size=16,
        class_names=("top", "middle", "bottom"),
        data_set="bars",
        origin="random",
        licence="none",
        model_args={"img_size": 16, "patch_size": 8, "embed_dim": 32, "num_heads": 2, "depth": DEPTH, "mlp_ratio": 2.0},
    )
    torch.manual_seed(0)
    model = AncestryModel(card)
    network: Any = model.network
    with torch.no_grad():
        for block in (network.blocks[1], network.blocks[2]):
            for linear in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
                linear.weight.zero_()
                linear.bias.zero_()
    return model.freeze()


def inherited(
    sections: dict[str, Any], ancestry: AncestryModel, data: ImageSource | None, folder: Path, **more: Any
) -> Learngene:
    """Return the learngene that a tiny configuration makes."""
    training = {"epochs": 1, "batch_size": 8, "precision": "float32"}
    return inherit_layers(
        "heir",
        InheritanceConfig.from_json({"training": training, **sections}),
        ancestry,
        data,
        folder=folder,
        command="test",
        licence="none",
        journal=more.pop("journal", Silent()),
        device=CPU,
        **more,
    )


def test_given_layers_are_the_ancestrys_bit_for_bit(ancestry: AncestryModel, tmp_path: Path) -> None:
    """No image is looked at; what is not a block comes along, the head included."""
    learngene = inherited(GIVEN, ancestry, None, tmp_path)
    weights = vit_weights(ancestry)
    for name, tensor in learngene.tensors.items():
        if name.startswith("basis."):
            part = name.removeprefix("basis.")
            expected = np.stack([weights[f"blocks.{layer}.{part}"].numpy() for layer in (0, 3)])
        else:
            expected = weights[name].numpy()
        assert np.array_equal(tensor, expected)
    description = learngene.description
    assert (description.method, description.class_names) == (Method.LEARNGENE, ("top", "middle", "bottom"))
    assert description.selection is not None
    assert (description.selection.chosen, description.selection.scores) == ((0, 3), (1.0, 0.0, 0.0, 1.0))
    assert str(description.design) == "layers 0, 3 of 4, the others fresh"


def test_the_whole_ancestry_inherited_is_the_ancestry(ancestry: AncestryModel, tmp_path: Path) -> None:
    """With all layers, the descendant of its depth computes the ancestry's logits."""
    sections = {"selection": {"rule": "given", "layers": [0, 1, 2, 3]}, "depths": {"offer_max": 6}}
    family = Family(inherited(sections, ancestry, None, tmp_path))
    recipe = family.recipe(Member(depth=DEPTH), Variation())
    weights = DeviceLearngene(family, CPU).expand(recipe)
    for name, tensor in vit_weights(ancestry).items():
        assert torch.equal(weights[name], tensor)


def test_the_heuristic_takes_the_stable_layers_of_the_collective_model(
    ancestry: AncestryModel, bars: ImageSet, tmp_path: Path
) -> None:
    """Planted: blocks 1 and 2 get no gradient, and stay as they were; their norms, and what is outside, were trained."""
    learngene = inherited(STABILITY, ancestry, bars, tmp_path)
    selection = learngene.description.selection
    assert selection is not None
    assert selection.chosen == (1, 2)
    assert min(selection.scores[1], selection.scores[2]) > max(selection.scores[0], selection.scores[3])
    assert selection.details["mean_rate"][1:3] == [0.0, 0.0]  # type: ignore[index,call-overload]
    assert len(selection.details["tasks"]) == 2  # type: ignore[arg-type]
    weights = vit_weights(ancestry)
    assert np.all(learngene.tensors["basis.mlp.fc1.weight"] == 0.0)
    assert not np.array_equal(learngene.tensors["pos_embed"], weights["pos_embed"].numpy())
    assert np.array_equal(learngene.tensors["head.weight"], weights["head.weight"].numpy())


def test_the_heuristic_may_keep_the_ancestrys_weights(ancestry: AncestryModel, bars: ImageSet, tmp_path: Path) -> None:
    """The choice is the same, what is inherited is as it came."""
    learngene = inherited(STABILITY | {"stability": STABILITY["stability"] | {"weights": "ancestry"}}, ancestry, bars, tmp_path)
    assert learngene.description.selection is not None
    assert learngene.description.selection.chosen == (1, 2)
    assert np.array_equal(learngene.tensors["pos_embed"], vit_weights(ancestry)["pos_embed"].numpy())


def test_the_automatic_rule_takes_the_highest_lambdas(ancestry: AncestryModel, bars: ImageSet, tmp_path: Path) -> None:
    """The table is the evidence, and the choice follows from it; the weights are the ancestry's."""
    learngene = inherited(TRANSFER, ancestry, bars, tmp_path)
    selection = learngene.description.selection
    assert selection is not None
    table = np.array(selection.details["mean_lambda"])
    assert table.shape == (DEPTH, 1)
    assert selection.scores == pytest.approx(table.mean(axis=1).tolist(), abs=1e-6)
    lowest_chosen = min(selection.scores[layer] for layer in selection.chosen)
    assert all(score <= lowest_chosen for layer, score in enumerate(selection.scores) if layer not in selection.chosen)
    assert np.array_equal(learngene.tensors["norm.weight"], vit_weights(ancestry)["norm.weight"].numpy())


def test_scores_are_of_whole_images_whatever_the_training_cuts_out(
    ancestry: AncestryModel, bars: ImageSet, tmp_path: Path
) -> None:
    """The mean lambda of all images as they are, by the lambda nets of the last checkpoint."""
    sections = {
        "augmentation": {"crop": "random-resized", "rand_augment": "rand-m9-mstd0.5-inc1"},
        "transfer": TRANSFER["transfer"] | {"score_images": 48, "meta_lr": 0.1},
    }
    learngene = inherited(TRANSFER | sections, ancestry, bars, tmp_path, workers=0)
    nets = Checkpoint.read(tmp_path / CHECKPOINT_NAME).tensors
    vit = AncestryVit.of(ancestry)
    images = prepare(to_unit(torch.from_numpy(bars.images)), vit.config.img_size, vit.preprocessing)
    table = lambdas(pooled(frozen_source(vit, CPU)(images)), nets["model.weight"], nets["model.bias"]).mean(dim=0)
    assert learngene.description.selection is not None
    np.testing.assert_allclose(learngene.description.selection.details["mean_lambda"], table, atol=2e-6)  # six places


@pytest.mark.parametrize("sections", [STABILITY, TRANSFER, GIVEN], ids=["stability", "transfer", "given"])
def test_a_learngenes_file_reads_back_and_makes_descendants(
    sections: dict[str, Any], ancestry: AncestryModel, bars: ImageSet, tmp_path: Path
) -> None:
    """Evidence included; a descendant has the inherited layers at their places and fresh ones between them."""
    learngene = inherited(sections, ancestry, bars, tmp_path)
    learngene.write(tmp_path / "heir.safetensors")
    read = Learngene.open(tmp_path / "heir.safetensors")
    assert read.digest == learngene.digest
    assert read.description == learngene.description
    family = Family(read)
    recipe = family.recipe(Member(depth=6), Variation(), seed=3)
    weights = DeviceLearngene(family, CPU).expand(recipe)
    places = read.description.basis.schedule.coefficients(6)
    for layer, row in enumerate(places):
        tensor = weights[f"blocks.{layer}.attn.qkv.weight"].numpy()
        if any(row):
            assert np.array_equal(tensor, read.basis("attn.qkv.weight")[row.index(1.0)])
        else:
            assert 0.015 < float(tensor.std()) < 0.025
            assert np.all(weights[f"blocks.{layer}.norm1.weight"].numpy() == 1.0)


def test_the_choice_is_told(ancestry: AncestryModel, bars: ImageSet, tmp_path: Path) -> None:
    """Layers and scores, for whoever reads along."""
    told: list[str] = []

    class Listener(Silent):
        def note(self, message: str) -> None:
            told.append(message)

    inherited(STABILITY, ancestry, bars, tmp_path, journal=Listener())
    assert told[-1].startswith("inherited: layers 1, 2 of 4; scores ")


@pytest.mark.parametrize("sections", [STABILITY, TRANSFER], ids=["stability", "transfer"])
def test_images_that_are_not_in_memory_and_half_precision_serve_as_well(
    sections: dict[str, Any], ancestry: AncestryModel, bars: ImageSet, tmp_path: Path
) -> None:
    """A parquet file that is read when asked for, in bfloat16, as is the default."""
    save_parquet(bars, tmp_path / "bars.parquet")
    sections = sections | {"training": {"epochs": 1, "batch_size": 8, "precision": "bfloat16", "micro_batches": 2}}
    learngene = inherited(sections, ancestry, open_images(tmp_path / "bars.parquet"), tmp_path, workers=0)
    assert learngene.description.selection is not None
    assert len(learngene.description.selection.chosen) == 2
    assert learngene.description.provenance.data_set == "bars (48 images)"


def test_several_processes_are_refused(ancestry: AncestryModel, bars: ImageSet, tmp_path: Path) -> None:
    """Each would see other gradients."""
    processes = Processes()
    processes.count = 2
    with pytest.raises(ConfigError, match="processes: must be one"):
        inherited(STABILITY, ancestry, bars, tmp_path, processes=processes)


def test_the_test_images_have_the_ancestrys_classes(ancestry: AncestryModel, bars: ImageSet, tmp_path: Path) -> None:
    """Members are measured with its head."""
    others = ImageSet(name="others", images=bars.images, labels=bars.labels, class_names=("a", "b", "c"))
    with pytest.raises(ConfigError, match=r"^test_data: the classes of others"):
        inherited(GIVEN, ancestry, None, tmp_path, test_data=others)


def test_what_does_not_fit_the_ancestry_is_named_before_anything_is_trained(ancestry: AncestryModel, tmp_path: Path) -> None:
    """More layers than there are, a layer that is not there, images that are missing."""
    for sections, named in (
        (
            {**STABILITY, "selection": {"rule": "stability", "num_layers": 5}},
            r"selection\.num_layers: must be at most .* 4 layers",
        ),
        ({"selection": {"rule": "given", "layers": [0, 4]}}, r"selection\.layers: must be below .* 4 layers, not 4"),
        (STABILITY, "data: is needed by rule stability"),
    ):
        with pytest.raises(ConfigError, match=f"^{named}"):
            inherited(sections, ancestry, None, tmp_path)
