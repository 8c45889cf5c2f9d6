"""A learngene's card: its front matter is YAML, its figures are the file's, and nothing in it breaks out of its place."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import tleg_core
from tleg_core.cost import cost
from tleg_core.descendant import Descendant
from tleg_core.description import Measurement, Method, Provenance
from tleg_core.family import Family, Variation
from tleg_core.learngene import Learngene
from tleg_core.learngene_card import card
from tleg_core.path import Path as PoolPath
from tleg_core.recipe import Member
from tleg_core.selection import Selection

from .conftest import TEST_POOL, build_learngene, build_pool, build_scratch

SHIPPED = Path(tleg_core.__file__).parent / "shipped" / "tleg-ti-fashion-mnist.safetensors"


def front_matter(text: str) -> dict[str, object]:
    """Return the YAML between the two lines of dashes that begin a card."""
    _, head, _ = text.split("---\n", 2)
    value = yaml.safe_load(head)
    assert isinstance(value, dict)
    return value


def rows(text: str) -> list[list[str]]:
    """Return the cells of every table's rows."""
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines() if line.startswith("|")]


def test_the_shipped_learngenes_card_says_what_its_file_says() -> None:
    """Digest, licence, stored parameters, data, command, and costs and accuracy at each depth."""
    learngene = Learngene.open(SHIPPED)
    text = card(Family(learngene))
    description = learngene.description
    for fact in (learngene.digest, "923,530 stored parameters", "60,000 images", description.provenance.command, "Apache-2.0"):
        assert fact in text
    table = {cells[0]: cells[1:] for cells in rows(text) if len(cells) == 5}
    for entry in description.accuracy:
        price = cost(description.config, entry.depth)
        params, macs, _, top1 = table[str(entry.depth)]
        assert (params, macs) == (f"{price.params:,}", f"{price.macs:,}")
        assert top1.startswith(f"{entry.top1:.2%} (")
    assert "10,000 images" in text


def test_the_front_matter_is_the_hubs_yaml() -> None:
    """Library, licence, and the results that the Hub's widget reads."""
    head = front_matter(card(Family(Learngene.open(SHIPPED))))
    assert (head["library_name"], head["license"], head["pipeline_tag"]) == ("timm", "apache-2.0", "image-classification")
    (index,) = head["model-index"]  # type: ignore[misc]
    (result,) = index["results"]
    assert (index["name"], result["dataset"]["name"]) == ("tleg-ti-fashion-mnist", "fashion-mnist-test")
    assert [metric["value"] for metric in result["metrics"]][-1] == 0.8599


def test_a_licence_that_is_not_stated_is_said_not_to_be(learngene: Learngene) -> None:
    """The YAML has no such key, which the Hub reads as no licence."""
    text = card(Family(learngene.with_description(provenance=replace(learngene.description.provenance, licence=""))))
    assert "license" not in front_matter(text)
    assert "\n| licence | not stated |\n" in text


def test_what_was_never_measured_is_said_to_be_so(learngene: Learngene) -> None:
    """No empty results, and dashes only where one of several sets is lacking."""
    bare = learngene.with_description(accuracy=())
    text = card(Family(bare))
    assert "model-index" not in front_matter(text)
    assert "No accuracy was measured" in text
    some = (Measurement(depth=2, data_set="a", top1=0.5, images=10), Measurement(depth=3, data_set="b", top1=0.0, images=4))
    cells = {row[0]: row[4:] for row in rows(card(Family(bare.with_description(accuracy=some)))) if len(row) == 6}
    assert cells["2"] == ["50.00% (23.7 to 76.3)", "-"]
    assert cells["3"] == ["-", "0.00% (0.0 to 49.0)"]


def test_a_hostile_text_stays_in_its_place(learngene: Learngene) -> None:
    """Of a file that somebody else wrote: no HTML, no new rows, no end of the front matter or of the command's block."""
    nasty = '<script>alert(1)</script> | x |\n---\n```\n# Heading [link](javascript:alert(1)) "quoted": {'
    provenance = Provenance(data_set=nasty, ancestry=nasty, command=nasty, version="0", licence=nasty, notes=nasty)
    names = tuple(f"{nasty}{index}" for index in range(learngene.description.config.num_classes))
    accuracy = (Measurement(depth=2, data_set=nasty, top1=0.5, images=10),)
    text = card(Family(learngene.with_description(provenance=provenance, class_names=names, accuracy=accuracy)))
    head = front_matter(text)
    assert head["license"] == "other"
    assert head["model-index"][0]["results"][0]["dataset"]["name"] == nasty  # type: ignore[index]
    block = text[text.index("The command:") :]
    fence = re.search(r"^(`+)sh$", block, re.MULTILINE)
    assert fence is not None
    assert len(fence[1]) == 4  # longer than any run of them inside
    assert block.count(f"\n{fence[1]}") == 2
    body = text.split("---\n", 2)[2].replace(f"{fence[1]}sh\n{nasty}\n{fence[1]}", "")
    assert "<script>" not in body
    assert "[link](" not in body
    assert not re.search(r"^# Heading", body, re.MULTILINE)
    assert {len(row) for row in rows(body)} <= {2, 5}


def test_a_family_of_a_thousand_depths_has_a_table_one_can_read(learngene: Learngene) -> None:
    """Forty rows, from the first depth to the last."""
    text = card(Family(learngene.with_description(design=replace(learngene.description.basis, max_depth=1000), accuracy=())))
    depths = [int(row[0]) for row in rows(text) if len(row) == 4 and row[0].isdigit()]
    assert (len(depths), depths[0], depths[-1]) == (40, learngene.description.basis.min_depth, 1000)
    assert depths == sorted(set(depths))


@pytest.mark.parametrize("trained_depth", [None, 7])
def test_an_untrained_learngene_says_so(learngene: Learngene, trained_depth: int | None) -> None:
    """A random one is not to be taken for a trained one."""
    text = card(Family(learngene.with_description(design=replace(learngene.description.basis, trained_depth=trained_depth))))
    assert ("nothing was trained" in text) == (trained_depth is None)


def test_a_pools_card_shows_its_paths() -> None:
    """Anchors and stitches, a row for each path, results by path, and an example that runs along one."""
    measured = Measurement.of(Member.along(PoolPath.parse("0.0-1_1.3-3")), data_set="shapes", top1=0.5, images=100)
    learngene = build_pool(accuracy=(measured,), class_names=tuple(f"class {index}" for index in range(10)))
    text = card(Family(learngene))
    for part in (
        f"{learngene.num_params:,} stored parameters, 2 vision Transformers",
        "anchors narrow (width 32, depth 3), wide (width 48, depth 4)",
        "--path 0.0-0_1.1-3",
        '"budget": {"path": "0.0-0_1.1-3"}',
        "import tleg_core.training.stitched_vit",
        "needs one import",
    ):
        assert part in text
    table = {cells[0]: cells[1:] for cells in rows(text) if len(cells) == 5}
    for candidate in Family(learngene).candidates(Variation()):
        assert table[str(candidate.member.path)][0] == f"{candidate.cost.params:,}"
    assert table["0.0-1_1.3-3"][3].startswith("50.00% (")
    assert table["1.0-3"][3] == "-"
    assert "auxiliary model" not in text
    (index,) = front_matter(text)["model-index"]  # type: ignore[misc]
    assert index["results"][0]["metrics"][0]["name"] == "top-1, path 0.0-1_1.3-3"


@pytest.mark.parametrize("stitched", [True, False])
def test_a_pools_example_builds_the_network(stitched: bool, tmp_path: Path) -> None:
    """What the card says to paste loads the file that its command writes: along a path, or a whole anchor."""
    learngene = build_pool() if stitched else build_pool(replace(TEST_POOL, stitches=(), paths=()), Method.PRETRAINED)
    text = card(Family(learngene))
    family = Family(learngene)
    member = Member.along(PoolPath.parse(re.search(r"--path (\S+)", text)[1]))  # type: ignore[index]
    descendant = Descendant(family, family.recipe(member, Variation()))
    (tmp_path / "model.safetensors").write_bytes(descendant.read(0, descendant.size))
    example = text.split("```python", 1)[1].split("```", 1)[0]
    assert ("stitched_vit" in example) == stitched
    namespace: dict[str, object] = {}
    exec(example.replace("model.safetensors", str(tmp_path / "model.safetensors")), namespace)  # noqa: S102 (what a user pastes)
    assert len(namespace["model"].blocks) == member.depth  # type: ignore[attr-defined]


def test_a_choice_of_layers_is_shown_with_its_scores() -> None:
    """The rule as text that is no Markdown, a row for each layer, the chosen ones marked; no auxiliary model is spoken of."""
    choice = Selection(rule="most *stable* | first", scores=(0.5, 0.125, 3), chosen=(0, 2))
    text = card(Family(build_learngene(method=Method.LEARNGENE, selection=choice)))
    assert r"most \*stable\* &#124; first" in text
    table = [cells for cells in rows(text) if len(cells) == 3]
    assert table[-3:] == [["0", "0.5", "yes"], ["1", "0.125", ""], ["2", "3", "yes"]]
    assert "auxiliary model" not in text
    assert "2 layers of an\nancestry model" in text


def test_a_card_of_scratch_promises_nothing() -> None:
    """Nothing stored, nothing learned."""
    text = card(Family(build_scratch()))
    assert "nothing was learned" in text
    assert "--depth 6" in text
    assert "times what is stored" not in text
