"""The options of a fine-tune's settings: one for each field of the schema, with the schema's description as its help."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from service.api.schemas.budget import BudgetBody
from service.api.schemas.fine_tunes import FineTuneSettingsBody
from service.domain.invalid_value import invalid_value_message
from tleg_core.errors import ConfigError

_WORDS = {"none": None, "null": None, "true": True, "false": False}


def with_setting_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command, which takes them as `**settings`, an option for each setting."""
    signature = inspect.signature(command, eval_str=True)
    own = [item for item in signature.parameters.values() if item.kind is not inspect.Parameter.VAR_KEYWORD]
    added = [_parameter(name, str(field.description)) for name, field in FineTuneSettingsBody.model_fields.items()]
    command.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]  # what `inspect` reads
    return command


def parse_settings(texts: Mapping[str, str | None]) -> dict[str, Any]:
    """Return the settings that were given, as the request's body has them."""
    return {name: _parse(text) for name, text in texts.items() if text is not None}


def option_error(error: ValidationError) -> ConfigError:
    """Return the first error of a request as one of the option that it came from."""
    first = error.errors()[0]
    named = [str(part) for part in first["loc"] if part in FineTuneSettingsBody.model_fields or part in BudgetBody.model_fields]
    field = named[-1] if named else str(first["loc"][0]) if first["loc"] else "model"
    return ConfigError(f"--{field.replace('_', '-')}", invalid_value_message(first))


def _parameter(name: str, description: str) -> inspect.Parameter:
    option = typer.Option(f"--{name.replace('_', '-')}", metavar="VALUE", help=description, rich_help_panel="Settings")
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option])


def _parse(text: str) -> Any:
    """Return a setting's text as the JSON value that it stands for."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
