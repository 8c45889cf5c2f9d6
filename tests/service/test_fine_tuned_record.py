"""A fine-tuned model's record: its id, its costs against timm, and the way through JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
import yaml

from service.api.fine_tuned_card import fine_tuned_card
from service.api.model_card import model_card
from service.api.timm_config import timm_config
from service.domain.catalogue import Catalogue, ModelRequest
from service.domain.dataset import Dataset
from service.domain.errors import LearngeneNotLoadedError, UnreadableRecordError
from service.domain.model import FineTuning, Model, ModelKind
from tests.service import tiny
from tleg_core.budget import Accuracy, Budget
from tleg_core.dtype import DType
from tleg_core.family import Family, Variation
from tleg_core.recipe import Head
from tleg_core.vit import VIT_SIZES, VitConfig

DATASET = Dataset(
    id="ds-" + "1" * 32,
    name="petals",
    class_names=("rose", "tulip", "daisy"),
    train_counts=(40, 30, 30),
    test_counts=(0, 0, 0),
    size_bytes=1000,
    min_side=32,
    max_side=64,
    formats={"PNG": 100},
    refused={},
    refused_examples=(),
    object_key="datasets/x.arrow",
)
SETTINGS: dict[str, Any] = {
    "epochs": 3,
    "lr": 0.001,
    "clip_grad": 1.0,
    "head": "zero",
    "start": "model",
    "save_every_epochs": 1,
}


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    """One tiny learngene with named and measured classes."""
    accuracy = tiny.measured("shapes", {4: 0.6})
    return Catalogue([Family(tiny.learngene("tiny-record", class_names=tiny.CLASS_NAMES, accuracy=accuracy))])


@pytest.fixture(scope="module")
def base(catalogue: Catalogue) -> Model:
    """A descendant of depth 4."""
    return catalogue.resolve(ModelRequest(budget=Budget(depth=4))).model


def tuning(catalogue: Catalogue, base: Model, dataset: Dataset = DATASET, **changes: Any) -> FineTuning:
    """Return a fine-tuning of `base`."""
    given = FineTuning.of(
        dataset,
        parent=base.id,
        usage=catalogue.usage(base),
        job="ft-" + "2" * 32,
        settings=SETTINGS,
        epoch=3,
        step=30,
        metrics={"loss": 0.5, "top1": 0.9, "top5": 1.0},
        images=20,
        weights_sha256="a" * 64,
        weights_key="weights/x.safetensors",
        size_bytes=123_456,
    )
    return replace(given, **changes)


def test_the_record_reads_back_as_it_was(catalogue: Catalogue, base: Model) -> None:
    """Everything survives JSON; records of expanded models are as they were before."""
    model = Model.fine_tuned(base, tuning(catalogue, base))
    assert Model.from_json(json.loads(json.dumps(model.to_json()))) == model
    assert (model.kind, base.kind) == (ModelKind.FINE_TUNED, ModelKind.EXPANDED)
    record = base.to_json()
    assert record["version"] == 1
    assert "fine_tuning" not in record
    assert Model.from_json(json.loads(json.dumps(record))) == base


@pytest.mark.parametrize("damage", [{"version": 3}, {"fine_tuning": None}, {"fine_tuning": {"parent": "x"}}])
def test_a_damaged_record_is_refused(catalogue: Catalogue, base: Model, damage: dict[str, Any]) -> None:
    """Of another version, or without what its version promises."""
    with pytest.raises(UnreadableRecordError):
        Model.from_json(Model.fine_tuned(base, tuning(catalogue, base)).to_json() | damage)


def test_the_id_follows_from_what_decides_the_file(catalogue: Catalogue, base: Model) -> None:
    """Parent, data set, settings, step and bytes; not the job, names, or how often checkpoints were kept."""
    first = tuning(catalogue, base)
    same = [
        replace(first, job="ft-" + "3" * 32, dataset_name="flowers"),
        replace(first, settings=SETTINGS | {"save_every_epochs": 2, "clip_grad": 1}),
        replace(first, settings=dict(reversed(SETTINGS.items()))),
    ]
    assert {item.model_id for item in same} == {first.model_id}
    others = [
        replace(first, parent="m-" + "0" * 32),
        replace(first, dataset="ds-" + "0" * 32),
        replace(first, settings=SETTINGS | {"lr": 0.002}),
        replace(first, step=29),
        replace(first, weights_sha256="b" * 64),
    ]
    assert len({item.model_id for item in [first, *others]}) == 6
    assert Model.fine_tuned(base, first).id == first.model_id != base.id


@pytest.mark.parametrize(
    "config",
    [
        VIT_SIZES["test"],
        VIT_SIZES["tiny"],
        VitConfig(embed_dim=48, num_heads=4, img_size=24, patch_size=6, mlp_ratio=3.0, class_token=True, global_pool="token"),
    ],
)
@pytest.mark.parametrize("num_classes", [1, 3, 137])
def test_costs_and_arguments_are_those_of_timms_network(config: VitConfig, num_classes: int) -> None:
    """The parameters of the network that timm builds from the record, with the data set's classes, in float32."""
    family = Family(tiny.learngene("tiny-costs", config=config))
    catalogue = Catalogue([family])
    variation = Variation(dtype=DType.FLOAT16, img_size=2 * config.img_size)
    base = catalogue.resolve(ModelRequest(budget=Budget(depth=3), variation=variation)).model
    names = tuple(f"class {index}" for index in range(num_classes))
    dataset = replace(DATASET, class_names=names, train_counts=(5,) * num_classes, test_counts=(1,) * num_classes)
    model = Model.fine_tuned(base, tuning(catalogue, base, dataset))
    with torch.device("meta"):
        network = timm.create_model(model.architecture, num_classes=num_classes, **model.model_args)
    assert model.cost.params == sum(tensor.numel() for tensor in network.parameters())
    assert model.cost.weights_bytes == 4 * model.cost.params
    assert network.patch_embed.img_size == (2 * config.img_size,) * 2
    assert (model.recipe.num_classes, model.recipe.dtype, model.recipe.member) == (
        num_classes,
        DType.FLOAT32,
        base.recipe.member,
    )
    assert model.config == config.with_changes(num_classes=num_classes, img_size=2 * config.img_size)
    assert model.size_bytes == 123_456


def test_the_accuracy_is_its_own(catalogue: Catalogue, base: Model) -> None:
    """Measured on the held-out part of its data set, under its name or else its id; the learngene does not overwrite it."""
    model = Model.fine_tuned(base, tuning(catalogue, base))
    assert catalogue.current(model).accuracy == {"petals": Accuracy(top1=0.9, images=20)}
    assert catalogue.current(base).accuracy == {"shapes": Accuracy(top1=0.6, images=1000)}
    nameless = Model.fine_tuned(base, tuning(catalogue, base, replace(DATASET, name="")))
    assert list(nameless.accuracy) == [DATASET.id]


def test_the_head_of_the_recipe_is_the_one_that_training_began_with(catalogue: Catalogue, base: Model) -> None:
    """Zero, or the model's own where it was kept; a random one keeps its seed."""
    assert Model.fine_tuned(base, tuning(catalogue, base)).recipe.head is Head.ZERO
    drawn = catalogue.resolve(
        ModelRequest(budget=Budget(depth=4), variation=Variation(num_classes=3), head=Head.RANDOM, seed=5)
    ).model
    kept = Model.fine_tuned(drawn, tuning(catalogue, drawn, settings=SETTINGS | {"head": "keep"})).recipe
    assert (kept.head, kept.seed) == (Head.RANDOM, 5)
    assert Model.fine_tuned(drawn, tuning(catalogue, drawn)).recipe.seed is None


@pytest.mark.parametrize("licence", ["MIT", ""])
def test_the_hubs_files_assert_no_licence_that_nobody_stated(licence: str) -> None:
    """timm's configuration and the cards of both kinds of models: YAML without the key, and words."""
    learngene = tiny.learngene("tiny-record", provenance=replace(tiny.PROVENANCE, licence=licence))
    catalogue = Catalogue([Family(learngene)])
    base = catalogue.resolve(ModelRequest(budget=Budget(depth=4))).model
    tuned = Model.fine_tuned(base, tuning(catalogue, base))
    cards = [
        model_card("tleg/m", base, learngene.description),
        fine_tuned_card("tleg/m", tuned, tuning(catalogue, base), curve=()),
    ]
    for model, card in zip((base, tuned), cards, strict=True):
        config = timm_config(model, catalogue.usage(model))["pretrained_cfg"]
        head = yaml.safe_load(card.split("---")[1])
        if licence:
            assert (config["license"], head["license"]) == ("MIT", "mit")
        else:
            assert "license" not in config.keys() | head.keys()
        assert f"| licence | {licence or 'not stated'}" in card


def test_split_and_usage_are_said(catalogue: Catalogue, base: Model) -> None:
    """A part held out is taken from the training images, a test split is not; usage needs no learngene."""
    assert (tuning(catalogue, base).train_images, tuning(catalogue, base).own_test_split) == (80, False)
    tested = tuning(catalogue, base, replace(DATASET, test_counts=(10, 5, 5)))
    assert (tested.train_images, tested.own_test_split) == (100, True)
    model = Model.fine_tuned(base, tested)
    empty = Catalogue([])
    assert empty.usage(model).class_names == DATASET.class_names
    assert empty.usage(model).licence == catalogue.usage(base).licence
    assert catalogue.usage(base).class_names == tiny.CLASS_NAMES
    with pytest.raises(LearngeneNotLoadedError):
        empty.usage(base)
    again = Model.fine_tuned(model, replace(tested, parent=model.id))
    assert again.id != model.id
    assert again.recipe == model.recipe
