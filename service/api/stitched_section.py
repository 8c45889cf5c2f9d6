"""What the cards of networks whose width changes say beside those of plain ones: their stages, and how to load them."""

from __future__ import annotations

import json

from service.domain.export import ExportFormat
from service.domain.model import Model
from tleg_core.markdown import table
from tleg_core.stack import STITCHED_VIT

_MODULE = "tleg_core.training.stitched_vit"


def timm_import(model: Model) -> str:
    """Return the line of Python before which timm does not know the architecture; nothing for a plain network."""
    return "" if model.stack.is_plain else f"import {_MODULE}  # timm knows {STITCHED_VIT} now\n"


def stitched_section(model: Model, *, is_recorded: bool = True) -> str:
    """Return a section on the stages and on the ways to run them; nothing for a plain network.

    The Hub's routes know members that nobody created: one that is not recorded is to be created first.
    """
    stack = model.stack
    if stack.is_plain:
        return ""
    stages = table(
        ("stage", "blocks", "width", "heads"),
        [
            (str(index), str(stage.depth), str(stage.config.embed_dim), str(stage.config.num_heads))
            for index, stage in enumerate(stack.stages)
        ],
    )
    exports = " or ".join(f"`GET /models/{model.id}/weights?format={item.value}`" for item in ExportFormat)
    if not is_recorded:
        body = {"learngene": model.learngene, "budget": {"path": str(model.recipe.member.path)}}
        exports = f"`POST /models` with `{json.dumps(body)}`, then {exports}"
    return f"""
## A network of changing width

Its blocks come in stages, with a linear layer from each width to the next:

{stages}

No architecture of timm's own does that. `import {_MODULE}` (the package `tleg`) makes `{STITCHED_VIT}` known
to timm, after which everything is as with any other model. To run it without any of our code, ask the server for an
ONNX file or a `torch.export` program: {exports}.
"""
