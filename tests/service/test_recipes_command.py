"""`tleg recipes`, and the commands in the recipes' headers."""

from __future__ import annotations

import json
import shlex

import click
import pytest
import typer
from typer.testing import CliRunner

from service.cli import main, recipes
from tests.service.commands import assert_fits
from tleg_core.errors import ConfigError
from tleg_core.training_recipe import RecipeHeader, config_from_json, read_recipe, recipe_names, recipe_text


def test_recipes_are_listed() -> None:
    """Every one, in a table that fits, or as JSON."""
    shown = CliRunner().invoke(recipes.app, ["list"])
    assert_fits(shown.stdout)
    listed = json.loads(CliRunner().invoke(recipes.app, ["list", "--json"]).stdout)
    assert [entry["name"] for entry in listed] == recipe_names()
    for entry in listed:
        assert entry["name"] in shown.stdout
        assert config_from_json(entry["config"]) == read_recipe(entry["name"])


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_shown_as_it_stands(name: str) -> None:
    """So that it can be saved, changed and given to `tleg train`; as JSON with every default."""
    shown = CliRunner().invoke(recipes.app, ["show", name])
    assert shown.stdout == recipe_text(name)
    assert_fits(shown.stdout)
    whole = json.loads(CliRunner().invoke(recipes.app, ["show", name, "--json"]).stdout)
    assert config_from_json(whole) == read_recipe(name)


def test_an_unknown_recipe_is_one_clear_error() -> None:
    """It lists those that there are."""
    result = CliRunner().invoke(recipes.app, ["show", "nothing"])
    assert isinstance(result.exception, ConfigError)
    assert "tleg-s-imagenet" in str(result.exception)


@pytest.mark.parametrize("name", recipe_names())
def test_the_commands_in_a_header_are_ones_that_tleg_takes(name: str) -> None:
    """Every option exists, and none that is needed is missing; nothing is run."""
    lines = RecipeHeader.from_text(recipe_text(name)).command.replace("\\\n", " ").splitlines()
    commands = [shlex.split(line) for line in lines if line.startswith("tleg ")]
    assert commands
    for words in commands:
        command: click.Command = typer.main.get_command(main.app)
        context = click.Context(command, info_name="tleg")
        arguments = words[1:]
        while isinstance(command, click.Group):
            found = command.get_command(context, arguments[0])
            assert found is not None, arguments[0]
            command, arguments = found, arguments[1:]
        command.make_context(words[1], arguments, parent=context)
