"""`tleg recipes`: the training configurations that come with the package."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.console import out, print_json, print_table, printable
from tleg_core.learngene_config import DepthRule, LearngeneConfig
from tleg_core.training_recipe import RecipeHeader, read_recipe, recipe_names, recipe_text

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
        [
            (
                name,
                str(config.network.vit(num_classes=1).embed_dim),
                str(config.network.img_size),
                _depths(config),
                str(config.training.epochs),
                header.title,
            )
            for name, header, config in found
        ],
        folds=5,
    )


@app.command("show")
def show(name: RecipeName, as_json: AsJson = False) -> None:
    """Print a recipe: its header and its fields, as they stand in its file; as JSON with the defaults of all others."""
    text = recipe_text(name)
    config = LearngeneConfig.from_toml(text)
    if as_json:
        print_json(config.to_json())
        return
    out.print(printable(text), end="", soft_wrap=True)


def _depths(config: LearngeneConfig) -> str:
    depths = config.depths
    return str(depths.train) if depths.rule is DepthRule.FIXED else f"{depths.train_min}-{depths.train}"
