"""The model card of an expanded model: what it is, in the Markdown that the Hub shows."""

from __future__ import annotations

from service.api.stitched_section import stitched_section, timm_import
from service.domain.model import Model, is_model_id
from tleg_core.amount import amount
from tleg_core.canonical import canonical_json
from tleg_core.description import Description
from tleg_core.designs.basis import Basis
from tleg_core.designs.pool import Pool
from tleg_core.designs.scratch import Scratch
from tleg_core.markdown import licence_line, stated_licence, table_cell
from tleg_core.path import Path
from tleg_core.schedule import Inherited


def model_card(repo_id: str, model: Model, description: Description) -> str:
    """Return the card of a model whose repository is `repo_id`; the description is its learngene's."""
    provenance = description.provenance
    measured = "\n".join(
        f"| {table_cell(data_set)} | {entry.top1:.2%} | {entry.images:,} |"
        for data_set, entry in sorted(model.accuracy.items())
    )
    accuracy = f"""
Measured without any fine-tuning, with the learngene's own head and image size:

| data set | top-1 | images |
|---|---|---|
{measured}
"""
    return f"""---
library_name: timm
pipeline_tag: image-classification
{licence_line(provenance.licence)}tags: [image-classification, timm, learngene]
---

# {repo_id}

An initialised vision Transformer with {amount(model.recipe.member.depth, "block")}: {model.cost.params:,} parameters,
{model.cost.macs:,} MACs for one {model.recipe.img_size} x {model.recipe.img_size} image.
{_made(model, description)}; it is a starting point for fine-tuning.

```python
{timm_import(model)}import timm
model = timm.create_model("hf-hub:{repo_id}", pretrained=True)
```
{accuracy if measured else ""}{stitched_section(model, is_recorded=is_model_id(repo_id.rpartition("/")[2]))}
## Where it comes from

| | |
|---|---|
| data set | {table_cell(provenance.data_set)} |
| ancestry model | {table_cell(provenance.ancestry)} |
| licence | {table_cell(stated_licence(provenance.licence))} |
| learngene digest | `{model.recipe.learngene}` |
| recipe | `{canonical_json(model.recipe.to_json()).decode()}` |
"""


def _made(model: Model, description: Description) -> str:
    """Return, as the beginning of a sentence, where the blocks come from."""
    design, member = description.design, model.recipe.member
    learngene = f"the learngene `{model.learngene}` (`{model.method}`)"
    if isinstance(design, Scratch):
        return "Everything in it is freshly drawn, and nothing was learned: it is the baseline"
    if isinstance(design, Pool) and member.path is not None:
        return f"Its blocks are those of {_along(design, member.path)}, of {learngene}"
    if isinstance(design, Basis) and isinstance(design.schedule, Inherited):
        places = ", ".join(map(str, design.schedule.places(member.depth)))
        return f"Its blocks {places} (from 0) are layers of the ancestry model that {learngene} keeps; any others are fresh"
    return f"Its blocks were expanded by `{model.method}` from the learngene `{model.learngene}`"


def _along(pool: Pool, path: Path) -> str:
    """Return the anchors and their blocks in words."""
    parts = [
        f"the anchor `{pool.anchors[item.anchor].name}` ({item.first} to {item.last})"
        if item.depth < pool.anchors[item.anchor].depth
        else f"the whole anchor `{pool.anchors[item.anchor].name}`"
        for item in path.segments
    ]
    return ", then ".join(parts)
