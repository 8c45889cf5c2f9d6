"""The ancestry model: a pretrained timm model, fine-tuned on the data set at hand, then frozen, that the learngene learns from.

Its file is safetensors with all that is needed to build it again in the metadata. It takes images in 0..1 of any size and
resizes them itself, so that the auxiliary model may work on smaller ones.

Shape legend: B images, H height, W width, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

from tleg_core.canonical import sha256_hex
from tleg_core.description import Preprocessing
from tleg_core.errors import CheckpointError, ConfigError
from tleg_core.images import ImageSet
from tleg_core.training.batches import Batch, Batches
from tleg_core.training.checkpoint import publish_tensors, read_tensors
from tleg_core.training.evaluate import Top1, measure_top1
from tleg_core.training.journal import Journal
from tleg_core.training.keeper import FolderKeeper
from tleg_core.training.loop import Outcome, Trainer
from tleg_core.training.preprocessing import prepare
from tleg_core.training_config import Precision, TrainingConfig

_METADATA_KEY = "tleg.ancestry"


@dataclass(frozen=True, slots=True, kw_only=True)
class AncestryCard:
    """What an ancestry model's file says of itself.

    Args:
        architecture: timm's model name.
        model_args: Further arguments of `timm.create_model`, beside the number of classes.
        img_size: Side of its input, in pixels.
        preprocessing: How its input is normalised.
        class_names: Its classes, in the head's order.
        data_set: What it was fine-tuned on.
        origin: Where the weights that it started from come from.
        licence: The licence of those weights.
        accuracy: Top-1, a fraction, by data set.
    """

    architecture: str
    img_size: int
    class_names: tuple[str, ...]
    data_set: str
    origin: str
    licence: str
    model_args: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    accuracy: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> AncestryCard:
        """Read `asdict`'s object; raises KeyError or TypeError where it is another."""
        known = {name: value[name] for name in (item.name for item in fields(cls))}
        prep = value["preprocessing"]
        known["preprocessing"] = Preprocessing(**(prep | {"mean": tuple(prep["mean"]), "std": tuple(prep["std"])}))
        return cls(**(known | {"class_names": tuple(value["class_names"])}))

    def describe(self) -> str:
        """Return the model in one line, for a learngene's provenance."""
        scores = "".join(f", top-1 {top1:.4f} on {name}" for name, top1 in self.accuracy.items())
        return (
            f"{self.architecture} ({self.origin}, {self.licence}), fine-tuned on {self.data_set} at {self.img_size} px{scores}"
        )


class AncestryModel(nn.Module):
    """A timm model with its card; called with images in 0..1, it returns logits."""

    def __init__(self, card: AncestryCard) -> None:
        super().__init__()
        self.card = card
        try:
            network = timm.create_model(card.architecture, num_classes=len(card.class_names), **card.model_args)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ConfigError("architecture", f"timm cannot build {card.architecture!r}: {error}") from error
        # Convolutions run 1.5 to 2 times faster so on a CPU, and no slower on a GPU.
        self.network = network.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, C) of `images` (B, 3, H, W) in 0..1."""
        ready = prepare(images, self.card.img_size, self.card.preprocessing)
        logits: Tensor = self.network(ready.contiguous(memory_format=torch.channels_last))
        return logits

    def digest(self) -> str:
        """Return the sha256 of the weights, in hex."""
        parts = (tensor.detach().cpu().contiguous().numpy().tobytes() for tensor in self.network.state_dict().values())
        return sha256_hex(*parts)

    def freeze(self) -> AncestryModel:
        """Return this model in evaluation mode, its weights needing no gradient."""
        self.eval().requires_grad_(False)
        return self

    def load_pretrained(self, weights: Path) -> None:
        """Load timm weights of this architecture, in any float type, all but the head.

        Raises:
            CheckpointError: A tensor other than the head's is missing, unexpected or of another shape.
        """
        tensors, _ = read_tensors(weights)
        head = cast("Mapping[str, Any]", self.network.pretrained_cfg)["classifier"]
        body = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
        body = {name: tensor for name, tensor in body.items() if not name.startswith(f"{head}.")}
        own = {name: tensor for name, tensor in self.network.state_dict().items() if not name.startswith(f"{head}.")}
        missing, unexpected = sorted(own.keys() - body.keys()), sorted(body.keys() - own.keys())
        wrong = sorted(name for name in own.keys() & body.keys() if own[name].shape != body[name].shape)
        if missing or unexpected or wrong:
            raise CheckpointError(
                f"{weights} does not fit {self.card.architecture}: missing {missing}, unexpected {unexpected}, "
                f"of another shape {wrong}"
            )
        self.network.load_state_dict(body, strict=False)  # compared above; only the head is left out

    def write(self, path: Path, accuracy: Mapping[str, float]) -> None:
        """Write weights and card, with the measured accuracy; raises `CheckpointError` where it cannot."""
        card = asdict(self.card) | {"accuracy": dict(accuracy)}
        publish_tensors(path, self.network.state_dict(), {"format": "pt", _METADATA_KEY: json.dumps(card)})

    @classmethod
    def open(cls, path: Path) -> AncestryModel:
        """Read a model that `write` wrote, frozen.

        Raises:
            CheckpointError: The file is broken, of another kind, or its tensors are not exactly the network's.
        """
        tensors, metadata = read_tensors(path)
        try:
            card = AncestryCard.from_json(json.loads(metadata[_METADATA_KEY]))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is no ancestry model (make one with `tleg ancestry fit`)") from error
        model = cls(card)
        try:
            model.network.load_state_dict(tensors, strict=True)
        except RuntimeError as error:
            raise CheckpointError(f"{path} does not fit {card.architecture}: {error}") from error
        return model.freeze()


def fit_ancestry(
    card: AncestryCard,
    weights: Path,
    data: ImageSet,
    test_data: ImageSet,
    config: TrainingConfig,
    *,
    out: Path,
    folder: Path,
    journal: Journal,
    device: torch.device,
    resume: bool = False,
) -> Top1:
    """Fine-tune a pretrained model with a new head on labels, write it to `out`, and return its accuracy on `test_data`.

    Args:
        card: What to build; its accuracy is filled in here.
        weights: Safetensors of the pretrained model.
        data: Training images.
        test_data: Images that the accuracy is measured on.
        config: How long and how fast.
        out: The file to write.
        folder: Where checkpoints lie.
        journal: Where progress is told.
        device: Where it computes.
        resume: Go on from the checkpoint in `folder`.
    """
    torch.manual_seed(config.seed)  # the new head
    model = AncestryModel(card)
    model.load_pretrained(weights)
    model.to(device)

    def objective(batch: Batch) -> Outcome:
        logits = model(batch.images)
        return Outcome(loss=nn.functional.cross_entropy(logits.float(), batch.targets), logits=logits)

    def measure(module: AncestryModel) -> dict[str, float]:
        return measure_top1(module, test_data, device=device, autocast=config.precision is not Precision.FLOAT32).metrics()

    trainer = Trainer(
        model,
        objective,
        Batches.of_image_set(data, config, device),
        config,
        identity={"ancestry": asdict(card)},
        keeper=FolderKeeper(folder, config.checkpoint_every_steps),
        observer=journal,
        device=device,
        measure=measure,
    )
    if resume:
        trainer.load()
    result = trainer.run()
    top1 = measure_top1(result.eval(), test_data, device=device)
    result.write(out, {test_data.name: top1.fraction})
    journal.write("ancestry", f"{out}: top-1 {top1.fraction:.2%} on {test_data.name}", top1=top1.fraction, images=top1.images)
    return top1
