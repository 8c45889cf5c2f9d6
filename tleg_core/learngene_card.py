"""The card of a learngene: what it is, what it is worth and where it comes from, in the Markdown that the Hub shows.

It says what the learngene's file says, and what follows from it by arithmetic.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from tleg_core.budget import Candidate
from tleg_core.description import Description
from tleg_core.family import Family, Variation
from tleg_core.interval import wilson
from tleg_core.markdown import code_block, licence_tag, listed, plain, table
from tleg_core.vit import timm_architecture, timm_model_args

_SHOWN_MEMBERS = 40  # rows of the table; of more members they are spread evenly
_EXAMPLE_DEPTH = 6


def card(family: Family) -> str:
    """Return the card of a learngene and the family of models that are expanded from it."""
    learngene, description = family.learngene, family.learngene.description
    config, provenance, basis = description.config, description.provenance, description.basis
    candidates = family.candidates(Variation())
    shown = _spread(candidates)
    data_sets = sorted({name for candidate in candidates for name in candidate.accuracy})
    whole = sum(candidate.cost.params for candidate in candidates)
    return f"""---
library_name: timm
pipeline_tag: image-classification
license: {licence_tag(provenance.licence)}
tags: [image-classification, timm, learngene]
{_model_index(description.name, shown, data_sets)}---

# {description.name}

A learngene: {learngene.num_params:,} stored parameters, from which vision Transformers of every depth from
{basis.min_depth} to {basis.max_depth} are expanded by arithmetic, ready to be fine-tuned. All {len(candidates)}
together have {whole:,} parameters, {whole / learngene.num_params:.1f} times what is stored.

{_facts(family)}

## Members

{_members(shown, data_sets)}

{_measured(description, shown, data_sets)}

## How to use it

{_usage(description)}

## Where it comes from

| | |
|---|---|
| data | {plain(provenance.data_set)} |
| ancestry model | {plain(provenance.ancestry)} |
| training | {plain(provenance.notes)} |
| auxiliary model | {f"depth {basis.trained_depth}" if basis.trained_depth else "none: nothing was trained"} |
| licence | {plain(provenance.licence)} |
| made with | tleg {plain(provenance.version)} |
| digest | `{learngene.digest}` |

The command:

{code_block(provenance.command, "sh")}
{_labels(description, config.num_classes)}"""


def _facts(family: Family) -> str:
    description = family.learngene.description
    config = description.config
    tokens = f"{config.num_tokens} tokens{', one of them the class token' if config.class_token else ''}"
    network = (
        f"width {config.embed_dim}, {config.num_heads} heads, {config.img_size} px in patches of {config.patch_size} ({tokens})"
    )
    rows = [
        ("method", f"`{description.method.value}`, {plain(str(description.design))}"),
        ("network", f"{network}, {config.num_classes:,} classes"),
        ("file", f"{len(family.learngene.content):,} bytes of safetensors, float32"),
    ]
    return table(("", ""), rows)


def _spread(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return at most `_SHOWN_MEMBERS` members, the first and the last among them."""
    if len(candidates) <= _SHOWN_MEMBERS:
        return list(candidates)
    last = len(candidates) - 1
    return [candidates[round(index * last / (_SHOWN_MEMBERS - 1))] for index in range(_SHOWN_MEMBERS)]


def _members(shown: Sequence[Candidate], data_sets: Sequence[str]) -> str:
    """Return the table of members: costs, and accuracy on each data set with its 95 % interval."""
    header = ("depth", "parameters", "MACs", "weights, MB", *(f"top-1, {plain(name)}" for name in data_sets))
    return table(
        header,
        [
            (
                str(candidate.member.depth),
                f"{candidate.cost.params:,}",
                f"{candidate.cost.macs:,}",
                f"{candidate.cost.weights_bytes / 1e6:.1f}",
                *(_top1(candidate, name) for name in data_sets),
            )
            for candidate in shown
        ],
    )


def _top1(candidate: Candidate, data_set: str) -> str:
    entry = candidate.accuracy.get(data_set)
    if entry is None:
        return "-"
    low, high = wilson(entry.top1, entry.images)
    return f"{entry.top1:.2%} ({100 * low:.1f} to {100 * high:.1f})"


def _measured(description: Description, shown: Sequence[Candidate], data_sets: Sequence[str]) -> str:
    if not data_sets:
        return "No accuracy was measured. MACs are of one image."
    counts = {name: {c.accuracy[name].images for c in shown if name in c.accuracy} for name in data_sets}
    images = "; ".join(f"{plain(name)}: {', '.join(f'{n:,}' for n in sorted(counts[name]))} images" for name in data_sets)
    return (
        f"Accuracy is that of the models as they are expanded, **without any fine-tuning**, with the learngene's own head at "
        f"{description.config.img_size} px, and its 95 % interval (Wilson's), which is about the draw of the images only. "
        f"Measured on {images}. MACs are of one image."
    )


def _usage(description: Description) -> str:
    config, preprocessing = description.config, description.preprocessing
    depth = min(max(_EXAMPLE_DEPTH, description.basis.min_depth), description.basis.max_depth)
    arguments = ", ".join(f"{name}={value!r}" for name, value in timm_model_args(config, depth).items())
    expand = code_block(f"tleg expand {description.name}.safetensors --depth {depth} --output model.safetensors", "sh")
    load = code_block(
        f"""import timm
from safetensors.torch import load_file

model = timm.create_model("{timm_architecture(config)}", num_classes={config.num_classes}, {arguments})
model.load_state_dict(load_file("model.safetensors"))""",
        "python",
    )
    serve = code_block(
        f"""curl -X POST localhost:8000/models -H 'content-type: application/json' \\
  -d '{{"learngene": "{description.name}", "budget": {{"depth": {depth}}}}}'""",
        "sh",
    )
    return f"""Expand one member, and load it in plain timm; nothing of tleg is needed for the second step:

{expand}

{load}

Input: RGB in 0..1, {config.img_size} x {config.img_size} px ({preprocessing.interpolation}), then `(x - mean) / std` with mean
{list(preprocessing.mean)} and std {list(preprocessing.std)}. Other classes, image sizes or float types: `tleg expand --help`.

From a server that holds it (`tleg serve`), a budget instead of a depth will do, and the answer has an id to give to
`timm.create_model("hf-hub:tleg/<id>", pretrained=True)`:

{serve}"""


def _labels(description: Description, num_classes: int) -> str:
    if not description.class_names:
        return ""
    return f"""
## Classes

{num_classes:,}, in the head's order: {listed(description.class_names)}.
"""


def _model_index(name: str, shown: Sequence[Candidate], data_sets: Sequence[str]) -> str:
    """Return the Hub's machine-readable results: YAML, its strings in JSON's form."""
    results = []
    for data_set in data_sets:
        metrics = [
            {"type": "accuracy", "value": candidate.accuracy[data_set].top1, "name": f"top-1, depth {candidate.member.depth}"}
            for candidate in shown
            if data_set in candidate.accuracy
        ]
        if metrics:
            slug = "-".join("".join(letter if letter.isalnum() else " " for letter in data_set).split()) or "images"
            source = {"name": data_set, "type": slug}
            results.append({"task": {"type": "image-classification"}, "dataset": source, "metrics": metrics})
    return f"model-index: {json.dumps([{'name': name, 'results': results}])}\n" if results else ""
