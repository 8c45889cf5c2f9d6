"""The model card of a fine-tuned model, in the Markdown that the Hub shows.

It says what the record and the job's epochs up to the model's own say, and nothing that may change: the card is part of the
repository's commit.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from service.api.learning_curve import CurvePoint
from service.api.stitched_section import stitched_section, timm_import
from service.domain.model import FineTuning, Model
from tleg_core.amount import amount
from tleg_core.canonical import canonical_json
from tleg_core.markdown import licence_line, plain, stated_licence, table_cell

_SHOWN_CLASSES = 100
_BARS = "▁▂▃▄▅▆▇█"


def fine_tuned_card(repo_id: str, model: Model, tuning: FineTuning, curve: Sequence[CurvePoint]) -> str:
    """Return the card of a fine-tuned model whose repository is `repo_id`."""
    namespace = repo_id.split("/", maxsplit=1)[0]
    data_set = plain(tuning.dataset_name or tuning.dataset)
    epochs = tuning.settings.get("epochs")
    num_classes = len(tuning.class_names)
    classes = f"{num_classes:,} class{'' if num_classes == 1 else 'es'}"
    side = model.recipe.img_size
    when = f"after epoch {tuning.epoch}{'' if epochs is None else f' of {epochs}'}"
    start = (
        f"Training started from scratch: of its base {model_link(namespace, tuning.parent)} it has the shape only."
        if tuning.from_scratch
        else f"Training started from {model_link(namespace, tuning.parent)}, whose blocks go back to the learngene "
        f"`{model.learngene}` (`{model.method}`)."
    )
    return f"""---
library_name: timm
pipeline_tag: image-classification
{licence_line(tuning.licence)}base_model: {namespace}/{tuning.parent}
tags: [image-classification, timm, learngene, fine-tuned]
{_model_index(repo_id, model, tuning)}---

# {repo_id}

A vision Transformer with {amount(model.recipe.member.depth, "block")}, fine-tuned on {data_set} to tell {classes} apart:
{model.cost.params:,} parameters, {model.cost.macs:,} MACs for one {side} x {side} image.
{start}

```python
{timm_import(model)}import timm
import torch
from PIL import Image

model = timm.create_model("hf-hub:{repo_id}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
with torch.inference_mode():
    scores = model(transform(Image.open("image.jpg").convert("RGB")).unsqueeze(0)).softmax(dim=1)[0]
print(model.pretrained_cfg["label_names"][scores.argmax()], scores.max().item())
```
{stitched_section(model)}
## Results

Measured {when} ({amount(tuning.step, "update")}) on {_held_out(tuning)}, one crop an image:

| metric | value |
|---|---|
{_rows((_METRICS[name], _number(name, tuning.metrics[name])) for name in _results(tuning))}
{_curve_section(tuning, curve)}
## Data

| | |
|---|---|
| data set | {data_set} (`{tuning.dataset}`) |
| training images | {tuning.train_images:,} |
| held-out images | {tuning.images:,} |
| classes | {len(tuning.class_names):,} |

Labels, in order: {_labels(tuning.class_names)}.

## Settings

| setting | value |
|---|---|
{_rows((f"`{name}`", plain(_setting(value))) for name, value in sorted(tuning.settings.items()))}

## Where it comes from

| | |
|---|---|
| base | {model_link(namespace, tuning.parent)} |
| learngene | `{model.learngene}`, digest `{model.recipe.learngene}` |
| network | `{canonical_json(model.recipe.to_json()).decode()}` |
| job | `{tuning.job}` |
| licence | {table_cell(stated_licence(tuning.licence))} (the base's; that of the images is for their owner to say) |
| sha256 of the weights | `{tuning.weights_sha256}` |
"""


_METRICS = {"top1": "top-1 accuracy", "top5": "top-5 accuracy", "loss": "cross-entropy loss", "train_loss": "training loss"}
_HELD_OUT = ("top1", "top5", "loss")
_HUB_METRICS = {"top1": "accuracy", "top5": "top_5_accuracy", "loss": "loss"}


def model_link(namespace: str, model_id: str) -> str:
    """Return a Markdown link to a model's repository."""
    return f"[{namespace}/{model_id}](/{namespace}/{model_id})"


def _results(tuning: FineTuning) -> list[str]:
    """Return the held-out metrics that say something; the top 5 of five classes or fewer are always right."""
    return [name for name in _HELD_OUT if name in tuning.metrics and (name != "top5" or len(tuning.class_names) > 5)]


def _model_index(repo_id: str, model: Model, tuning: FineTuning) -> str:
    """Return the Hub's machine-readable results: YAML, its strings in JSON's form."""
    metrics = [{"type": _HUB_METRICS[name], "value": tuning.metrics[name], "name": _METRICS[name]} for name in _results(tuning)]
    if not metrics or not model.accuracy:
        return ""
    name = " ".join(tuning.dataset_name.split()) or tuning.dataset
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": name, "type": tuning.dataset, "split": "test" if tuning.own_test_split else "held-out"},
        "metrics": metrics,
    }
    return f"model-index: {json.dumps([{'name': repo_id, 'results': [result]}])}\n"


def _held_out(tuning: FineTuning) -> str:
    if tuning.own_test_split:
        return f"the data set's own test split of {tuning.images:,} images"
    share = tuning.settings.get("holdout")
    part = f" ({share:.0%} of each class)" if isinstance(share, float) else ""
    return f"{tuning.images:,} images{part} that were held out of training"


def _curve_section(tuning: FineTuning, curve: Sequence[CurvePoint]) -> str:
    """Return the learning curve as small bars and a table; nothing where there is none."""
    names = [name for name in ("train_loss", *_results(tuning)) if any(name in point.metrics for point in curve)]
    if len(curve) < 2 or not names:
        return ""
    bars = "  \n".join(f"{_METRICS[name]}: {_bars([point.metrics.get(name) for point in curve])}" for name in names)
    rows = _rows(
        (str(point.epoch), *(_number(name, point.metrics[name]) if name in point.metrics else "-" for name in names))
        for point in curve
    )
    return f"""
## Learning curve

{bars}

| epoch | {" | ".join(_METRICS[name] for name in names)} |
|---{"|---" * len(names)}|
{rows}
"""


def _bars(values: Sequence[float | None]) -> str:
    """Return one bar for each value, from the smallest to the largest."""
    known = [value for value in values if value is not None]
    low, span = min(known), max(known) - min(known)
    top = len(_BARS) - 1
    return "".join(" " if value is None else _BARS[round((value - low) / span * top) if span else 0] for value in values)


def _number(name: str, value: float) -> str:
    return f"{value:.2%}" if name in ("top1", "top5") else f"{value:.4f}"


def _setting(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else json.dumps(value) if not isinstance(value, str) else value


def _labels(names: tuple[str, ...]) -> str:
    shown = ", ".join(plain(name) for name in names[:_SHOWN_CLASSES])
    return shown if len(names) <= _SHOWN_CLASSES else f"{shown}, and {len(names) - _SHOWN_CLASSES:,} more (config.json has all)"


def _rows(rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
