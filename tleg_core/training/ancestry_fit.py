"""How an ancestry model comes to know a data set's classes: its whole network trained, its head alone fitted, or neither.

Shape legend: N images, B images of a batch, F features, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tleg_core.errors import ConfigError
from tleg_core.image_source import ImageSource
from tleg_core.training.ancestry import AncestryCard, AncestryModel, whole_side
from tleg_core.training.batches import Batch, Batches
from tleg_core.training.checkpoint import publish_tensors, read_tensors
from tleg_core.training.decoded import InputShape
from tleg_core.training.evaluate import Top1, measure_top1
from tleg_core.training.journal import Journal
from tleg_core.training.keeper import FolderKeeper
from tleg_core.training.linear_head import fit_linear_head
from tleg_core.training.loop import Outcome, Trainer, autocast
from tleg_core.training.pixels import Pixels
from tleg_core.training.preprocessing import to_unit
from tleg_core.training.processes import Processes
from tleg_core.training.source_pixels import default_workers, whole_pixels
from tleg_core.training_config import Precision, TrainingConfig

FEATURES_NAME = "features.safetensors"

_FEATURES_KEY = "tleg.features"
_MEASURED_AT_ONCE = 250  # images

Progressed = Callable[[int], None]
"""Is told after each batch how many images it had."""


def fit_ancestry(
    card: AncestryCard,
    weights: Path | None,
    data: ImageSource,
    test_data: ImageSource,
    config: TrainingConfig,
    *,
    out: Path,
    folder: Path,
    journal: Journal,
    device: torch.device,
    resume: bool = False,
) -> Top1:
    """Train a whole model with a new head on labels, write it to `out`, and return its accuracy on `test_data`.

    Args:
        card: What to build; its accuracy is filled in here.
        weights: Safetensors of the pretrained model; None to start from random weights.
        data: Training images.
        test_data: Images that the accuracy is measured on.
        config: How long and how fast.
        out: The file to write.
        folder: Where checkpoints lie.
        journal: Where progress is told.
        device: Where it computes.
        resume: Go on from the checkpoint in `folder`.
    """
    torch.manual_seed(config.seed)  # the new head, or all of it
    model = AncestryModel(card)
    if weights is not None:
        model.load_weights(weights, with_head=False)
    start = model.digest()
    model.to(device)

    def objective(batch: Batch) -> Outcome:
        logits = model(batch.images)
        return Outcome(loss=nn.functional.cross_entropy(logits.float(), batch.targets), logits=logits)

    def measure(module: AncestryModel) -> dict[str, float]:
        return _measured(module, test_data, device, autocast=config.precision is not Precision.FLOAT32).metrics()

    batches = Batches.of_images(data, config, device, shape=input_shape(card), preprocessing=card.preprocessing)
    trainer = Trainer(
        model,
        objective,
        batches,
        config,
        identity={"ancestry": asdict(card), "weights": start},
        keeper=FolderKeeper(folder, config.checkpoint_every_steps),
        observer=journal,
        device=device,
        measure=measure,
    )
    with batches:
        if resume:
            trainer.load()
        result = trainer.run()
    return _finish(result, test_data, out, journal, device)


def fit_ancestry_head(
    card: AncestryCard,
    weights: Path,
    data: ImageSource,
    test_data: ImageSource,
    *,
    seed: int,
    precision: Precision,
    batch_size: int,
    out: Path,
    folder: Path,
    journal: Journal,
    device: torch.device,
    progressed: Progressed = lambda _count: None,
) -> Top1:
    """Fit the head alone on frozen features, write the model to `out`, and return its accuracy on `test_data`.

    The features are computed once, without augmentation, and kept in `folder`; another head on the same is then a matter of
    seconds. Arguments as for `fit_ancestry`; `progressed` follows the images of `data`, and then those of `test_data`.

    Raises:
        ConfigError: The model does not end in one linear layer.
    """
    torch.manual_seed(seed)
    model = AncestryModel(card).freeze()
    model.load_weights(weights, with_head=False)
    model.to(device)
    head = model.head()
    if head.bias is None:
        raise ConfigError("head_only", f"needs a last layer with a bias, which {card.architecture} does not have")
    features = features_of(
        model, data, folder / FEATURES_NAME, precision=precision, batch_size=batch_size, device=device, progressed=progressed
    )
    fitted = fit_linear_head(features, torch.from_numpy(data.labels).to(device), len(data.class_names), seed=seed)
    with torch.no_grad():
        head.weight.copy_(fitted.weight)
        head.bias.copy_(fitted.bias)
    journal.write(
        "head",
        f"head fitted on {len(features):,} images: penalty {fitted.penalty:g}, top-1 {fitted.held_out_top1:.2%} on the tenth "
        "that chose it",
        penalty=fitted.penalty,
        held_out_top1=fitted.held_out_top1,
    )
    return _finish(model, test_data, out, journal, device, progressed=progressed)


def import_ancestry(
    card: AncestryCard, weights: Path, test_data: ImageSource | None, *, out: Path, device: torch.device
) -> Top1 | None:
    """Write a model that has its head already to `out`; return its accuracy on `test_data`, if there is some.

    Raises:
        CheckpointError: The weights are not exactly those of the architecture with so many classes.
    """
    model = AncestryModel(card).freeze()
    model.load_weights(weights, with_head=True)
    if test_data is None:
        model.write(out, {})
        return None
    top1 = _measured(model.to(device), test_data, device)
    model.write(out, {test_data.name: top1.fraction})
    return top1


@torch.no_grad()
def features_of(
    model: AncestryModel,
    data: ImageSource,
    path: Path,
    *,
    precision: Precision,
    batch_size: int,
    device: torch.device,
    progressed: Progressed = lambda _count: None,
) -> Tensor:
    """Return the frozen model's features (N, F) of all images, float32 on `device`; read from `path` where they are kept.

    Raises:
        ConfigError: The model's logits are not those of a linear layer on these features.
    """
    kept_for = _identity(model, data, precision)
    if path.exists():
        tensors, metadata = read_tensors(path)
        if metadata.get(_FEATURES_KEY) == kept_for:
            progressed(len(data))
            return tensors["features"].to(device)
    parts: list[Tensor] = []
    with closing(_pixels(model.card, data, device, batch_size)) as pixels:
        _check_features(model, to_unit(pixels.take([0, len(data) - 1], 0)))
        for start in range(0, len(data), batch_size):
            stop = min(start + batch_size, len(data))
            pixels.expect(range(stop, min(stop + batch_size, len(data))), 0)
            images = to_unit(pixels.take(range(start, stop), 0))  # (B, 3, H, W)
            with autocast(device, precision):
                parts.append(model.features(images).float())
            progressed(len(images))
    features = torch.cat(parts)  # (N, F)
    publish_tensors(path, {"features": features}, {_FEATURES_KEY: kept_for})
    return features


def input_shape(card: AncestryCard) -> InputShape:
    """Return the size that images which are not in memory are brought to: before the model cuts out the centre itself."""
    side = whole_side(card.img_size, card.preprocessing)
    return InputShape(side=side, channels=3, interpolation=card.preprocessing.interpolation, crop_pct=1.0)


def _pixels(card: AncestryCard, data: ImageSource, device: torch.device, batch_size: int) -> Pixels:
    processes = Processes()
    workers = default_workers(device, processes)
    return whole_pixels(data, input_shape(card), device=device, processes=processes, batch_size=batch_size, workers=workers)


def _measured(
    model: AncestryModel,
    data: ImageSource,
    device: torch.device,
    *,
    autocast: bool = False,
    progressed: Progressed = lambda _count: None,
) -> Top1:
    with closing(_pixels(model.card, data, device, _MEASURED_AT_ONCE)) as pixels:
        return measure_top1(
            model, data, device=device, pixels=pixels, batch_size=_MEASURED_AT_ONCE, autocast=autocast, progressed=progressed
        )


def _identity(model: AncestryModel, data: ImageSource, precision: Precision) -> str:
    """Return, as JSON, what decides the features: all of the model but its head, its input, and the images."""
    card = asdict(model.card)
    network: dict[str, Any] = {name: card[name] for name in ("architecture", "model_args", "img_size", "preprocessing")}
    facts = {"weights": model.digest(with_head=False), "data": data.digest(), "precision": precision}
    return json.dumps(network | facts, sort_keys=True)


def _check_features(model: AncestryModel, images: Tensor) -> None:
    """Raise `ConfigError` unless the head makes the model's logits of its features."""
    refused = ConfigError("head_only", f"the logits of {model.card.architecture} are not a linear layer's on its features")
    try:
        logits, ours = model(images), model.head()(model.features(images))
    except (AttributeError, RuntimeError, TypeError) as error:
        raise refused from error
    if logits.shape != ours.shape or not torch.allclose(logits, ours, rtol=1e-3, atol=1e-3 * float(logits.abs().max())):
        raise refused


def _finish(
    model: AncestryModel,
    test_data: ImageSource,
    out: Path,
    journal: Journal,
    device: torch.device,
    *,
    progressed: Progressed = lambda _count: None,
) -> Top1:
    """Measure the fitted model, write it, and say so."""
    top1 = _measured(model.eval(), test_data, device, progressed=progressed)
    model.write(out, {test_data.name: top1.fraction})
    journal.write("ancestry", f"{out}: top-1 {top1.fraction:.2%} on {test_data.name}", top1=top1.fraction, images=top1.images)
    return top1
