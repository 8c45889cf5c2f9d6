"""The options that describe a budget and a network, shared by every command that takes them."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from service.api.schemas.budget import BudgetBody
from service.api.schemas.models import ModelRequestBody
from service.domain.invalid_value import invalid_value_message
from tleg_core.budget import Objective
from tleg_core.description import Method
from tleg_core.dtype import DType
from tleg_core.errors import ConfigError
from tleg_core.recipe import Head

PUBLISH_FIRST = "publish it by `tleg publish`, then give its name"
"""What to do with a learngene's file where a server takes names only."""

_NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:[eE]\d{1,2})?)([kKMGT]?)")
_SUFFIXES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def parse_number(text: str) -> int:
    """Return a whole number written with an optional decimal suffix: 3M, 1.5G, 400k."""
    found = _NUMBER.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no number; write 3000000 or 3M (k, M, G, T are powers of 1000)")
    return round(Decimal(found[1]) * _SUFFIXES[found[2]])


def _number(help_text: str) -> object:
    return typer.Option(parser=parse_number, metavar="N", help=help_text, rich_help_panel="Budget")


Depth = Annotated[int | None, typer.Option(help="Exactly so many blocks.", rich_help_panel="Budget")]
PathName = Annotated[
    str | None,
    typer.Option(
        "--path", help="Exactly the member of a pool along this path, such as 0.0-7_1.8-11.", rich_help_panel="Budget"
    ),
]
MaxParams = Annotated[int | None, _number("At most so many parameters, such as 3M.")]
MaxMacs = Annotated[int | None, _number("At most so many multiply-accumulates for one image.")]
MaxFlops = Annotated[int | None, _number("At most so many floating-point operations, 2 x MACs.")]
MaxWeightsBytes = Annotated[int | None, _number("At most so many bytes of weights in the chosen dtype.")]
MaxMemoryBytes = Annotated[int | None, _number("At most so many bytes at the peak of a forward pass.")]
BatchSize = Annotated[int, typer.Option(help="Images in that forward pass.", rich_help_panel="Budget")]
LearngeneName = Annotated[str | None, typer.Option("--learngene", help="Only this learngene's members.")]
MethodName = Annotated[
    Method | None,
    typer.Option("--method", metavar="METHOD", help=f"Only learngenes of this method: {', '.join(Method)}."),
]
ObjectiveName = Annotated[Objective, typer.Option("--objective", help="What is best among the members that fit.")]
AccuracyOn = Annotated[
    str | None, typer.Option("--accuracy-on", metavar="NAME", help="The data set whose measured accuracy decides.")
]
NumClasses = Annotated[int | None, typer.Option(help="Outputs of the head; 0 for none.")]
ImageSize = Annotated[int | None, typer.Option(help="Side of the input image, in pixels.")]
HeadSource = Annotated[
    Head | None, typer.Option("--head", metavar="HEAD", help=f"Where the head's weights come from: {', '.join(Head)}.")
]
Seed = Annotated[int, typer.Option(help="Of what is drawn: a random head, layers that are fresh.")]
DTypeName = Annotated[DType, typer.Option("--dtype", metavar="DTYPE", help=f"Element type of the weights: {', '.join(DType)}.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
LearngeneFiles = Annotated[
    list[Path] | None, typer.Option("--learngene-file", help="A learngene's file, beside the shipped ones; repeatable.")
]


def refuse_file(learngene: str | None, advice: str) -> None:
    """Raise `ConfigError` with the advice where a learngene's file stands for its name, which has no dot and no slash."""
    if learngene is not None and not {".", "/"}.isdisjoint(learngene) and Path(learngene).is_file():
        raise ConfigError("--learngene", f"{learngene} is a file; {advice}")


def request_body(**options: object) -> ModelRequestBody:
    """Return the request that the options describe, what was not given (None) left out.

    Raises:
        ConfigError: A value is outside its limits; it names the option.
    """
    given = {name: value for name, value in options.items() if value is not None}
    budget = {name: given.pop(name) for name in BudgetBody.model_fields if name in given}
    try:
        return ModelRequestBody.model_validate({"budget": budget, **given})
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"--{str(first['loc'][-1]).replace('_', '-')}", invalid_value_message(first)) from None
