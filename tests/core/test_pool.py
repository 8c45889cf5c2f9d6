"""The pool: its members, and each tensor of a member's file against the tensors that the pool stores."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import safetensors.torch
import torch
from timm.layers import resample_abs_pos_embed

from tleg_core.budget import Budget, Objective, solve
from tleg_core.canonical import canonical_json
from tleg_core.descendant import Descendant
from tleg_core.description import Measurement, Method
from tleg_core.designs.pool import MAX_BLOCKS, MAX_STITCHES, Anchor, Pool, Stitch
from tleg_core.dtype import DType
from tleg_core.errors import BudgetInfeasibleError, ConfigError
from tleg_core.family import Family, Variation
from tleg_core.learngene import Learngene
from tleg_core.path import Path, Segment
from tleg_core.recipe import Head, Member
from tleg_core.tensorfile import MAX_HEADER_BYTES, encode_header
from tleg_core.training.network import Network
from tleg_core.vit import VIT_SIZES

from .conftest import TEST_POOL, build_pool

STITCHED = "0.0-1_1.3-3"
BACK = "0.0-0_1.1-1_0.2-2"


def along(path: str) -> Member:
    """Return the member of a path's text."""
    return Member.along(Path.parse(path))


@pytest.fixture(scope="module")
def pool() -> Learngene:
    """The tiny pool."""
    return build_pool()


@pytest.fixture(scope="module")
def family(pool: Learngene) -> Family:
    """Its family."""
    return Family(pool)


def file_of(family: Family, path: str, *, head: Head | None = None, **variation: object) -> Descendant:
    """Return a member's file."""
    changes = Variation(**variation)  # type: ignore[arg-type]
    return Descendant(family, family.recipe(along(path), changes, head=head, seed=5))


def test_members_are_the_anchors_and_then_the_paths(family: Family) -> None:
    """Each with its depth; a depth alone names none."""
    assert [str(member.path) for member in family.members] == ["0.0-2", "1.0-3", *map(str, TEST_POOL.paths)]
    assert [member.depth for member in family.members] == [3, 4, 4, 4, 3, 3, 3]
    with pytest.raises(ConfigError, match="does not name a member of a pool"):
        family.recipe(Member(depth=3), Variation())
    with pytest.raises(ConfigError, match="none of this pool's 7 members"):
        family.recipe(along("0.0-1_1.1-3"), Variation())


@pytest.mark.parametrize("path", ["0.0-2", "1.0-3", *map(str, TEST_POOL.paths)])
@pytest.mark.parametrize("dtype", DType)
def test_a_members_file_has_the_tensors_along_its_path(family: Family, pool: Learngene, path: str, dtype: DType) -> None:
    """The first anchor's embedding, blocks counted through, the stitch of each join, the last anchor's norm and head."""
    stored = {name: torch.from_numpy(array.copy()) for name, array in pool.tensors.items()}
    stitches = {((0, 0), (1, 1)): 0, ((0, 1), (1, 2)): 1, ((0, 1), (1, 3)): 1, ((1, 1), (0, 2)): 2}
    segments = Path.parse(path).segments
    blocks = [(item.anchor, block) for item in segments for block in range(item.first, item.last + 1)]
    expected: dict[str, torch.Tensor] = {}
    for name in ("pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"):
        expected[name] = stored[f"anchors.{segments[0].anchor}.{name}"]
    for layer, (anchor, block) in enumerate(blocks):
        prefix = f"anchors.{anchor}.blocks.{block}."
        expected |= {
            f"blocks.{layer}.{name.removeprefix(prefix)}": tensor for name, tensor in stored.items() if name.startswith(prefix)
        }
    for index, (before, after) in enumerate(pairwise(segments)):
        stitch = stitches[(before.anchor, before.last), (after.anchor, after.first)]
        expected |= {f"stitches.{index}.{part}": stored[f"stitches.{stitch}.{part}"] for part in ("weight", "bias")}
    for name in ("norm.weight", "norm.bias", "head.weight", "head.bias"):
        expected[name] = stored[f"anchors.{segments[-1].anchor}.{name}"]
    descendant = file_of(family, path, dtype=dtype)
    found = safetensors.torch.load(descendant.read(0, descendant.size))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor.to(getattr(torch, dtype.value))), name


@pytest.mark.parametrize("path", ["1.0-3", STITCHED, BACK])
@pytest.mark.parametrize(
    ("head", "num_classes"), [(None, None), (Head.ZERO, 3), (Head.RANDOM, 5), (Head.NONE, 0), (Head.NONE, None)]
)
def test_a_strict_load_takes_the_file(family: Family, path: str, head: Head | None, num_classes: int | None) -> None:
    """The network that its arguments build, with any head, computes on it."""
    descendant = file_of(family, path, head=head, num_classes=num_classes)
    recipe = descendant.recipe
    stack = family.stack(recipe.member, num_classes=recipe.num_classes)
    network = Network(architecture=stack.architecture, model_args=stack.model_args, num_classes=recipe.num_classes)
    weights = safetensors.torch.load(descendant.read(0, descendant.size))
    model = network.load(weights, drop_path=0.0, device=torch.device("cpu")).eval()
    with torch.inference_mode():
        output = model(torch.zeros(2, 3, 32, 32))
    assert output.shape == (2, recipe.num_classes or stack.config.embed_dim)
    assert output.isfinite().all()


def test_another_image_size_resamples_the_first_anchors_position(family: Family, pool: Learngene) -> None:
    """timm's own resampling, of the embedding where the path begins."""
    descendant = file_of(family, STITCHED, img_size=48)
    found = safetensors.torch.load(descendant.read(0, descendant.size))["pos_embed"]
    stored = torch.from_numpy(pool.tensors["anchors.0.pos_embed"].copy())
    assert torch.allclose(found, resample_abs_pos_embed(stored, [6, 6], [4, 4], num_prefix_tokens=0), atol=1e-6)


@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.BFLOAT16])
def test_any_range_is_a_slice_of_the_whole(family: Family, dtype: DType) -> None:
    """Of a file with stitches, in whatever pieces it is read."""
    descendant = file_of(family, BACK, dtype=dtype)
    whole = descendant.read(0, descendant.size)
    assert b"".join(descendant.blocks()) == whole
    rng = random.Random(0)
    for _ in range(1000):
        start = rng.randrange(descendant.size)
        stop = min(descendant.size, start + rng.choice([1, 7, 100, 5000, descendant.size]))
        assert descendant.read(start, stop - start) == whole[start:stop]


def test_only_a_stitched_member_meets_some_budgets(family: Family) -> None:
    """Between both anchors in size; of an anchor's depth and less than it; along a path; or the nearest is named."""
    candidates = family.candidates(Variation())
    cost = {str(item.member.path): item.cost for item in candidates}
    assert cost["0.0-2"].params < cost[STITCHED].params < cost["1.0-3"].params
    choice = solve(Budget(max_params=cost[STITCHED].params), candidates, Objective.LARGEST)
    assert choice.candidate.member == along(STITCHED)
    choice = solve(Budget(depth=4, max_params=cost["1.0-3"].params - 1), candidates)
    assert choice.candidate.member.path is not None
    assert len(choice.candidate.member.path.segments) == 2
    assert solve(Budget(path=Path.parse(BACK)), candidates).candidate.member == along(BACK)
    with pytest.raises(ConfigError, match="no member's"):
        solve(Budget(path=Path.parse("0.0-1")), candidates)
    with pytest.raises(BudgetInfeasibleError) as caught:
        solve(Budget(path=Path.parse(BACK), max_params=cost[BACK].params - 1), candidates)
    assert caught.value.nearest.member == along(BACK)


def test_an_unmeasured_member_is_never_preferred_to_a_measured_one() -> None:
    """The smallest, measured badly, is chosen before larger ones that nobody measured."""
    measured = Measurement.of(along("1.0-1_0.2-2"), data_set="shapes", top1=0.01, images=10)
    candidates = Family(build_pool(accuracy=(measured,))).candidates(Variation())
    assert solve(Budget(), candidates).candidate.member == along("1.0-1_0.2-2")
    assert solve(Budget(), candidates, Objective.LARGEST).candidate.member == along("1.0-3")


def test_equal_members_are_told_apart_by_their_paths() -> None:
    """Ties of size and accuracy end alike in whatever order the members come."""
    path = ("0.0-0_1.1-1", "0.0-0_1.1-1")
    config = VIT_SIZES["test"]
    anchors = tuple(Anchor(name=name, config=config, depth=2) for name in ("a", "b"))
    stitches = (Stitch(source=0, target=1, joins=((0, 1),)), Stitch(source=1, target=0, joins=((0, 1),)))
    pool = Pool(anchors=anchors, stitches=stitches, paths=(Path.parse(path[0]), Path.parse("1.0-0_0.1-1")))
    candidates = Family(build_pool(pool)).candidates(Variation())
    for order in (candidates, candidates[::-1]):
        assert solve(Budget(), order).candidate.member == along("1.0-0_0.1-1")


def test_a_pool_without_stitches_is_its_anchors() -> None:
    """Pre-trained networks, each a plain one."""
    family = Family(build_pool(replace(TEST_POOL, stitches=(), paths=()), Method.PRETRAINED))
    assert [member.label for member in family.members] == ["p0.0-2", "p1.0-3"]
    assert all(family.stack(member).is_plain for member in family.members)


def test_the_seed_is_only_of_the_head(family: Family) -> None:
    """Nothing of a pool is drawn, so without a random head a seed leaves the id alone."""
    assert file_of(family, STITCHED).recipe.seed is None
    assert file_of(family, STITCHED, head=Head.RANDOM, num_classes=3).recipe.seed == 5


def test_every_anchor_is_stored_whole(pool: Learngene) -> None:
    """Under timm's names behind the anchor's; then the stitches, target width by source width."""
    names = list(pool.tensors)
    assert names[0] == "anchors.0.pos_embed"
    assert names[-1] == "stitches.2.bias"
    assert pool.tensors["stitches.0.weight"].shape == (48, 32)
    assert pool.tensors["stitches.2.weight"].shape == (32, 48)
    assert pool.tensors["stitches.2.bias"].shape == (32,)
    assert pool.num_params == sum(int(np.prod(shape)) for shape in TEST_POOL.tensor_shapes().values())


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"anchors": ()}, "1 to 64"),
        (
            {"anchors": tuple(replace(TEST_POOL.anchors[0], name=f"a{n}", depth=1000) for n in range(3))},
            "at most 2,000 blocks together, not 3,000",
        ),
        ({"paths": (Path.parse("0.0-0_1.1-2"),)}, "end with an anchor's last"),
        ({"paths": (Path.parse("0.0-1_1.1-3"),)}, "no stitch joins block 1 of anchor 0 to block 1 of anchor 1"),
        ({"stitches": (*TEST_POOL.stitches, TEST_POOL.stitches[0])}, "join two blocks twice"),
    ],
)
def test_a_pool_must_hold_together(fields: dict[str, object], says: str) -> None:
    """What it names must be there, once."""
    with pytest.raises(ConfigError, match=says):
        replace(TEST_POOL, **fields)  # type: ignore[arg-type]


def test_the_header_of_the_largest_pool_is_below_the_readers_limit() -> None:
    """As many blocks, stitches and paths as there may be: what is trained can be read again."""
    wide = VIT_SIZES["large"].with_changes(num_classes=1000)
    stitches, paths = [], []
    for number in range(MAX_STITCHES):
        join = (number // 900, number % 900 + 10)
        stitches.append(Stitch(source=0, target=1, joins=(join,)))
        paths.append(Path((Segment(0, 0, join[0]), Segment(1, join[1], MAX_BLOCKS // 2 - 1))))
    anchors = tuple(Anchor(name="x" * 31 + str(n), config=wide, depth=MAX_BLOCKS // 2) for n in range(2))
    largest = Pool(anchors=anchors, stitches=tuple(stitches), paths=tuple(paths))
    accuracy = tuple(Measurement.of(member, data_set="imagenet-1k", top1=0.81234, images=50_000) for member in largest.members)
    described = build_pool().description
    description = replace(described, design=largest, class_names=(), accuracy=accuracy)
    text = canonical_json(description.to_json("0" * 64)).decode()
    header = encode_header(largest.tensor_shapes().items(), DType.FLOAT32, {"tleg.learngene": text})
    assert len(header) < MAX_HEADER_BYTES
