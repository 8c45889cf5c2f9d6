"""The ancestry model: a timm model with a head for the data set at hand, frozen, that the learngene learns from.

Its file is safetensors with all that is needed to build it again in the metadata. It takes images in 0..1 of any size and
resizes and crops them itself, so that the auxiliary model may work on smaller ones. How it is made is `ancestry_fit`'s.

Shape legend: B images, H height, W width, F features, C classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from tleg_core.canonical import sha256_hex
from tleg_core.description import Preprocessing
from tleg_core.errors import CheckpointError, ConfigError
from tleg_core.training.architecture import Architecture
from tleg_core.training.checkpoint import publish_tensors, read_tensors
from tleg_core.training.preprocessing import prepare

_METADATA_KEY = "tleg.ancestry"


class Fit(StrEnum):
    """How an ancestry model came to know the data set's classes."""

    WHOLE = "whole"
    """All of its weights were trained on the data set."""
    HEAD = "head"
    """Its head was; the others are as they came."""
    SCRATCH = "scratch"
    """All of its weights were trained on the data set, from random ones."""
    IMPORTED = "imported"
    """It came with the head."""


_FITTED = {
    Fit.WHOLE: "fine-tuned on",
    Fit.HEAD: "frozen, its head fitted on",
    Fit.SCRATCH: "trained from random weights on",
    Fit.IMPORTED: "trained elsewhere on",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AncestryCard:
    """What an ancestry model's file says of itself.

    Args:
        architecture: timm's model name.
        model_args: Further arguments of `timm.create_model`, beside the number of classes.
        img_size: Side of its input, in pixels.
        preprocessing: How its input is resized, cropped and normalised.
        class_names: Its classes, in the head's order.
        data_set: What it was fitted on.
        origin: Where the weights that it started from come from.
        licence: The licence of those weights.
        fit: How it was fitted.
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
    fit: Fit = Fit.WHOLE
    accuracy: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        architecture: Architecture,
        *,
        class_names: tuple[str, ...],
        data_set: str,
        origin: str,
        licence: str,
        fit: Fit,
    ) -> AncestryCard:
        """Return the card of a model of that architecture, without accuracy."""
        return cls(
            architecture=architecture.name,
            img_size=architecture.img_size,
            class_names=class_names,
            data_set=data_set,
            origin=origin,
            licence=licence,
            model_args=architecture.model_args,
            preprocessing=architecture.preprocessing,
            fit=fit,
        )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> AncestryCard:
        """Read `asdict`'s object; raises KeyError, TypeError or ValueError where it is another."""
        prep = value["preprocessing"]
        return cls(
            architecture=value["architecture"],
            img_size=value["img_size"],
            class_names=tuple(value["class_names"]),
            data_set=value["data_set"],
            origin=value["origin"],
            licence=value["licence"],
            model_args=value["model_args"],
            preprocessing=Preprocessing(**(prep | {"mean": tuple(prep["mean"]), "std": tuple(prep["std"])})),
            fit=Fit(value.get("fit", Fit.WHOLE)),  # the first files have none
            accuracy=value["accuracy"],
        )

    def describe(self) -> str:
        """Return the model in one line, for a learngene's provenance."""
        scores = "".join(f", top-1 {top1:.4f} on {name}" for name, top1 in self.accuracy.items())
        origin = "" if self.fit is Fit.SCRATCH else f" ({self.origin}, {self.licence})"
        return f"{self.architecture}{origin}, {_FITTED[self.fit]} {self.data_set} at {self.img_size} px{scores}"

    def build(self) -> nn.Module:
        """Return the network, its weights drawn from PyTorch's global generator; raises `ConfigError` where timm cannot."""
        architecture = Architecture(
            name=self.architecture,
            model_args=self.model_args,
            img_size=self.img_size,
            preprocessing=self.preprocessing,
        )
        return architecture.build(len(self.class_names))


def whole_side(img_size: int, preprocessing: Preprocessing) -> int:
    """Return the side, in pixels, that an image is resized to before its centre is cut out, as timm's evaluation does."""
    return math.floor(img_size / preprocessing.crop_pct)


class AncestryModel(nn.Module):
    """A timm model with its card; called with images in 0..1, it returns logits.

    Raises:
        ConfigError: timm cannot build what the card says.
    """

    def __init__(self, card: AncestryCard) -> None:
        super().__init__()
        self.card = card
        # Convolutions run 1.5 to 2 times faster so on a CPU, and no slower on a GPU.
        self.network = card.build().to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, *, whole_image: bool = False) -> Tensor:
        """Return the logits (B, C) of `images` (B, 3, H, W) in 0..1: the centre, as `crop_pct` says, or the `whole_image`."""
        logits: Tensor = self.network(self._input(images, whole_image=whole_image))
        return logits

    def features(self, images: Tensor) -> Tensor:
        """Return what the last linear layer is given, (B, F), of `images` (B, 3, H, W) in 0..1."""
        network = cast("Any", self.network)
        tokens = network.forward_features(self._input(images, whole_image=False))
        features: Tensor = network.forward_head(tokens, pre_logits=True)
        return features

    def head(self) -> nn.Linear:
        """Return the last layer; raises `ConfigError` where it is not one linear layer."""
        head = cast("Any", self.network).get_classifier()
        if not isinstance(head, nn.Linear):
            raise ConfigError(
                "head_only", f"needs a model that ends in one linear layer, which {self.card.architecture} does not"
            )
        return head

    def digest(self, *, with_head: bool = True) -> str:
        """Return the sha256 of the weights, in hex, of all of them or of all but the head's."""
        head = () if with_head else self._head_prefixes()
        tensors = (tensor for name, tensor in self.network.state_dict().items() if not name.startswith(head))
        return sha256_hex(*(tensor.detach().cpu().contiguous().numpy().tobytes() for tensor in tensors))

    def freeze(self) -> AncestryModel:
        """Return this model in evaluation mode, its weights needing no gradient."""
        self.eval().requires_grad_(False)
        return self

    def load_weights(self, weights: Path, *, with_head: bool) -> None:
        """Load timm weights of this architecture, in any float type.

        Args:
            weights: The safetensors file, in timm's names.
            with_head: Load the head, too; otherwise it stays as it is, and the file may have one, of any number of classes, or
                none.

        Raises:
            CheckpointError: A tensor is missing, unexpected or of another shape.
        """
        tensors, _ = read_tensors(weights)
        head = () if with_head else self._head_prefixes()
        given = {name: tensor for name, tensor in tensors.items() if not name.startswith(head)}
        own = {name: tensor for name, tensor in self.network.state_dict().items() if not name.startswith(head)}
        missing, unexpected = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
        wrong = [
            f"{name} {tuple(given[name].shape)}, not {tuple(own[name].shape)}"
            for name in sorted(own.keys() & given.keys())
            if own[name].shape != given[name].shape
        ]
        if missing or unexpected or wrong:
            raise CheckpointError(
                f"{weights} does not fit {self.card.architecture}: missing {missing}, unexpected {unexpected}, "
                f"of another shape {wrong}"
            )
        floats = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in given.items()}
        self.network.load_state_dict(floats, strict=False)  # compared above; only a head may be left out

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
            raise CheckpointError(f"{path} is no ancestry model (make one with `tleg ancestry fit` or `import`)") from error
        model = cls(card)
        try:
            model.network.load_state_dict(tensors, strict=True)
        except RuntimeError as error:
            raise CheckpointError(f"{path} does not fit {card.architecture}: {error}") from error
        return model.freeze()

    def _input(self, images: Tensor, *, whole_image: bool) -> Tensor:
        """Return the network's input: resized to a little more than its side, as `crop_pct` says, and its centre cut out.

        With `whole_image`, nothing is cut off.
        """
        side = self.card.img_size
        whole = side if whole_image else whole_side(side, self.card.preprocessing)
        start = round((whole - side) / 2)
        ready = prepare(images, whole, self.card.preprocessing)[..., start : start + side, start : start + side]
        return ready.contiguous(memory_format=torch.channels_last)

    def _head_prefixes(self) -> tuple[str, ...]:
        """Return what the names of the head's tensors begin with, as timm says it (a distilled model has two heads)."""
        said = cast("Mapping[str, Any]", self.network.pretrained_cfg).get("classifier") or ()
        return tuple(f"{name}." for name in ((said,) if isinstance(said, str) else said))
