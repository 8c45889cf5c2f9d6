"""The card of a learngene: what it is, what it is worth and where it comes from, in the Markdown that the Hub shows.

It says what the learngene's file says, and what follows from it by arithmetic.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from tleg_core.budget import Candidate
from tleg_core.description import Description
from tleg_core.designs.basis import Basis
from tleg_core.designs.pool import Pool
from tleg_core.designs.scratch import Scratch
from tleg_core.family import Family, Variation
from tleg_core.interval import wilson
from tleg_core.markdown import code_block, licence_line, listed, plain, stated_licence, table
from tleg_core.recipe import Member
from tleg_core.schedule import Inherited

_SHOWN_MEMBERS = 40  # rows of the table; of more members they are spread evenly
_EXAMPLE_DEPTH = 6
_STITCHED_IMPORT = "import tleg_core.training.stitched_vit  # timm knows networks of changing width now\n"


def card(family: Family) -> str:
    """Return the card of a learngene and the family of models that are expanded from it."""
    learngene, description = family.learngene, family.learngene.description
    config, provenance = description.config, description.provenance
    candidates = family.candidates(Variation())
    shown = _spread(candidates)
    data_sets = sorted({name for candidate in candidates for name in candidate.accuracy})
    return f"""---
library_name: timm
pipeline_tag: image-classification
{licence_line(provenance.licence)}tags: [image-classification, timm, learngene]
{_model_index(description.name, shown, data_sets)}---

# {description.name}

{_introduction(family, candidates)}

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
{_auxiliary(description)}| licence | {plain(stated_licence(provenance.licence))} |
| made with | tleg {plain(provenance.version)} |
| digest | `{learngene.digest}` |

The command:

{code_block(provenance.command, "sh")}
{_selection(description)}{_labels(description, config.num_classes)}"""


def _introduction(family: Family, candidates: Sequence[Candidate]) -> str:
    """Return what the learngene is, and how much of its family it stores."""
    learngene, design = family.learngene, family.learngene.description.design
    depths = [candidate.member.depth for candidate in candidates]
    whole = sum(candidate.cost.params for candidate in candidates)
    if isinstance(design, Scratch):
        return f"""Vision Transformers of every depth from {min(depths)} to {max(depths)} in which nothing was learned: nothing
is stored, and every weight is drawn by the request's seed, the same on any machine. They are the baseline."""
    if isinstance(design, Pool):
        made = f"""A pool: {learngene.num_params:,} stored parameters, {len(design.anchors)} vision Transformers and
{len(design.stitches)} stitches, linear layers between their widths. A member runs along a path: one whole network, or
blocks of several."""
    elif isinstance(design, Basis) and isinstance(design.schedule, Inherited):
        made = f"""A learngene: {learngene.num_params:,} stored parameters, {design.schedule.num_components} layers of an
ancestry model, which stand among freshly drawn ones in vision Transformers of every depth from
{min(depths)} to {max(depths)}."""
    else:
        made = f"""A learngene: {learngene.num_params:,} stored parameters, from which vision Transformers of every depth from
{min(depths)} to {max(depths)} are expanded by arithmetic, ready to be fine-tuned."""
    return f"""{made} All {len(candidates)}
together have {whole:,} parameters, {whole / learngene.num_params:.1f} times what is stored."""


def _auxiliary(description: Description) -> str:
    """Return the table's row on the auxiliary model, where the design is made by one."""
    design = description.design
    if not isinstance(design, Basis) or isinstance(design.schedule, Inherited):
        return ""
    depth = description.trained_depth
    return f"| auxiliary model | {f'depth {depth}' if depth else 'none: nothing was trained'} |\n"


def _selection(description: Description) -> str:
    """Return the section on the layers that are inherited, with the evidence of their choice."""
    choice = description.selection
    if choice is None:
        return ""
    rows = [(str(layer), f"{score:.4g}", "yes" if layer in choice.chosen else "") for layer, score in enumerate(choice.scores)]
    return f"""
## Which layers

{plain(choice.rule)}

{table(("layer of the ancestry model, from 0", "score", "inherited"), rows)}
"""


def _facts(family: Family) -> str:
    description = family.learngene.description
    config = description.config
    tokens = f"{config.num_tokens} tokens{', one of them the class token' if config.class_token else ''}"
    widths = "" if isinstance(description.design, Pool) else f"width {config.embed_dim}, {config.num_heads} heads, "
    network = f"{widths}{config.img_size} px in patches of {config.patch_size} ({tokens})"
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
    header = (
        "depth" if shown[0].member.path is None else "path",
        "parameters",
        "MACs",
        "weights, MB",
        *(f"top-1, {plain(name)}" for name in data_sets),
    )
    return table(
        header,
        [
            (
                str(candidate.member.path or candidate.member.depth),
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


def _example(description: Description) -> Member:
    """Return the member that the example makes: of six blocks or nearly so; in a pool the first stitched one."""
    members = description.design.members
    if isinstance(description.design, Pool):
        return next((member for member in members if member.path is not None and member.path.joins), members[0])
    return min(members, key=lambda member: abs(member.depth - _EXAMPLE_DEPTH))


def _usage(description: Description) -> str:
    config, preprocessing = description.config, description.preprocessing
    member = _example(description)
    option, value = ("depth", str(member.depth)) if member.path is None else ("path", str(member.path))
    stack = description.design.stack(member)
    arguments = ", ".join(f"{name}={value!r}" for name, value in stack.model_args.items())
    expand = code_block(f"tleg expand {description.name}.safetensors --{option} {value} --output model.safetensors", "sh")
    load = code_block(
        f"""{_STITCHED_IMPORT * (not stack.is_plain)}import timm
from safetensors.torch import load_file

model = timm.create_model("{stack.architecture}", num_classes={config.num_classes}, {arguments})
model.load_state_dict(load_file("model.safetensors"))""",
        "python",
    )
    serve = code_block(
        f"""curl -X POST localhost:8000/models -H 'content-type: application/json' \\
  -d '{{"learngene": "{description.name}", "budget": {{"{option}": {json.dumps(member.to_json()[option])}}}}}'""",
        "sh",
    )
    needs = (
        "nothing of tleg is needed for the second step"
        if stack.is_plain
        else "of tleg the second step needs one import, as this member's width changes"
    )
    return f"""Expand one member, and load it in plain timm; {needs}:

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


def _named(candidate: Candidate) -> str:
    member = candidate.member
    return f"depth {member.depth}" if member.path is None else f"path {member.path}"


def _model_index(name: str, shown: Sequence[Candidate], data_sets: Sequence[str]) -> str:
    """Return the Hub's machine-readable results: YAML, its strings in JSON's form."""
    results = []
    for data_set in data_sets:
        metrics = [
            {"type": "accuracy", "value": candidate.accuracy[data_set].top1, "name": f"top-1, {_named(candidate)}"}
            for candidate in shown
            if data_set in candidate.accuracy
        ]
        if metrics:
            slug = "-".join("".join(letter if letter.isalnum() else " " for letter in data_set).split()) or "images"
            source = {"name": data_set, "type": slug}
            results.append({"task": {"type": "image-classification"}, "dataset": source, "metrics": metrics})
    return f"model-index: {json.dumps([{'name': name, 'results': results}])}\n" if results else ""
