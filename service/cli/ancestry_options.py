"""The options that say which timm model an ancestry model is, and what they are turned into."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tleg_core.errors import ConfigError

if TYPE_CHECKING:
    from tleg_core.training.architecture import Architecture

ArchitectureOption = Annotated[str, typer.Option(help="timm's model name.")]
ModelArgOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model-arg", metavar="KEY=VALUE", help="A further argument of timm's create_model; may be given several times."
    ),
]
ImgSizeOption = Annotated[
    int | None,
    typer.Option(help="Side of the model's input, in pixels; images are resized to it. Default: timm's for this model."),
]
MeanOption = Annotated[str | None, typer.Option(help="Mean of each channel, such as 0.5,0.5,0.5. Default: timm's.")]
StdOption = Annotated[str | None, typer.Option(help="Standard deviation of each channel. Default: timm's.")]
InterpolationOption = Annotated[str | None, typer.Option(help="bilinear or bicubic. Default: timm's.")]
CropOption = Annotated[
    float | None, typer.Option(help="Share of the resized image's side that is kept, 1 for all. Default: timm's.")
]
OriginOption = Annotated[str, typer.Option(help="Where the weights come from, for the card.")]
LicenceOption = Annotated[str, typer.Option(help="Licence of the weights, for the card.")]
OutOption = Annotated[Path, typer.Option(help="The safetensors file to write; a run's files go to a folder beside it.")]


def read_architecture(
    name: str,
    model_args: Sequence[str],
    img_size: int | None,
    mean: str | None,
    std: str | None,
    interpolation: str | None,
    crop_pct: float | None,
) -> Architecture:
    """Return timm's model of that name, with what the options change of its configuration."""
    from tleg_core.training.architecture import Architecture

    return Architecture.named(
        name,
        model_args=dict(_model_arg(text) for text in model_args),
        img_size=img_size,
        mean=_numbers("mean", mean),
        std=_numbers("std", std),
        interpolation=interpolation,
        crop_pct=crop_pct,
    )


def _model_arg(text: str) -> tuple[str, Any]:
    """Return name and value of `name=value`; the value is JSON's, Python's, or failing that a bare word."""
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier()):
        raise ConfigError("model_arg", f"must be like img_size=112, not {text[:80]!r}")
    for read in (json.loads, ast.literal_eval):
        try:
            return name, json.loads(json.dumps(read(value)))  # as the card will have it
        except (ValueError, SyntaxError, TypeError, RecursionError):
            continue
    return name, value


def _numbers(field: str, text: str | None) -> tuple[float, ...] | None:
    """Return the numbers of `0.5,0.5,0.5`."""
    if text is None:
        return None
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise ConfigError(field, f"must be like 0.5,0.5,0.5, not {text[:80]!r}") from None


def read_class_names(text: str) -> tuple[str, ...]:
    """Return the class names of a file, one a line, or of a list with commas."""
    path = Path(text)
    try:
        words = path.read_text(encoding="utf-8").splitlines() if path.is_file() else text.split(",")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("classes", f"cannot be read from {path}: {error}") from error
    names = tuple(word.strip() for word in words if word.strip())
    if len(set(names)) != len(names) or not names:
        raise ConfigError("classes", "must be names, each once")
    return names
