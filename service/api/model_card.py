"""The model card of an expanded model: what it is, in the Markdown that the Hub shows."""

from __future__ import annotations

from service.domain.model import Model
from tleg_core.canonical import canonical_json
from tleg_core.description import Provenance
from tleg_core.markdown import licence_tag, table_cell


def model_card(repo_id: str, model: Model, provenance: Provenance) -> str:
    """Return the card of a model whose repository is `repo_id`; the provenance is its learngene's."""
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
license: {licence_tag(provenance.licence)}
tags: [image-classification, timm, learngene]
---

# {repo_id}

An initialised vision Transformer with {model.recipe.member.depth} blocks: {model.cost.params:,} parameters,
{model.cost.macs:,} MACs for one {model.recipe.img_size} x {model.recipe.img_size} image.
Its blocks were expanded by `{model.method}` from the learngene `{model.learngene}`; it is a starting point for fine-tuning.

```python
import timm
model = timm.create_model("hf-hub:{repo_id}", pretrained=True)
```
{accuracy if measured else ""}
## Where it comes from

| | |
|---|---|
| data set | {table_cell(provenance.data_set)} |
| ancestry model | {table_cell(provenance.ancestry)} |
| licence | {table_cell(provenance.licence)} |
| learngene digest | `{model.recipe.learngene}` |
| recipe | `{canonical_json(model.recipe.to_json()).decode()}` |
"""
