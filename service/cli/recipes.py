"""`tleg recipes`: the training configurations that come with the package."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from service.cli.console import out, print_json, print_table, printable
from tleg_core.inheritance_config import InheritanceConfig
from tleg_core.learngene_config import DepthRule
from tleg_core.pool_config import PoolConfig
from tleg_core.training_recipe import AnyConfig, RecipeHeader, read_recipe, recipe_names, recipe_text

app = typer.Typer(help="Recipes: training configurations, each with its paper, command, result and time.", no_args_is_help=True)

RecipeName = Annotated[str, typer.Argument(help="A recipe's name, or the path of one's file.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_recipes(as_json: AsJson = False) -> None:
    """List the recipes that come with the package."""
    found = [(name, RecipeHeader.from_text(recipe_text(name)), read_recipe(name)) for name in recipe_names()]
    if as_json:
        print_json([{"name": name, "title": header.title, "config": config.to_json()} for name, header, config in found])
        return
    print_table(
        ("recipe", "width", "px", "depths", "epochs", "what"),
        [(name, *_facts(config), header.title) for name, header, config in found],
        folds=5,
    )


@app.command("show")
def show(name: RecipeName, as_json: AsJson = False) -> None:
    """Print a recipe: its header and its fields, as they stand in its file; as JSON with the defaults of all others."""
    text = recipe_text(name)
    if as_json:
        print_json(read_recipe(name).to_json())
        return
    out.print(printable(text), end="", soft_wrap=True)


def _facts(config: AnyConfig) -> tuple[str, str, str, str]:
    """Return widths, side of the input, depths and epochs; of a pool those of its anchors, and of both trainings."""
    training = config.training
    if isinstance(config, PoolConfig):
        widths = _listed(anchor.vit(config.network, num_classes=1).embed_dim for anchor in config.anchors)
        epochs = f"{training.epochs}+{config.joint.epochs}" if config.joint.epochs else str(training.epochs)
        return widths, str(config.network.img_size), _listed(anchor.depth for anchor in config.anchors), epochs
    if isinstance(config, InheritanceConfig):  # its network is the ancestry model's
        return "", "", f"{config.min_depth}-{config.depths.offer_max}", str(training.epochs)
    depths = config.depths
    trained = str(depths.train) if depths.rule is DepthRule.FIXED else f"{depths.train_min}-{depths.train}"
    network = config.network
    return str(network.vit(num_classes=1).embed_dim), str(network.img_size), trained, str(training.epochs)


def _listed(numbers: Iterable[int]) -> str:
    """Return the different ones of some numbers, in their order."""
    return "/".join(str(number) for number in dict.fromkeys(numbers))
