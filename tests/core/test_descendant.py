"""The computed file against a plain torch computation, the safetensors library and a strict load in timm."""

from __future__ import annotations

import hashlib
import json
import random
import struct
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import resample_abs_pos_embed
from torch import nn

from tleg_core.descendant import BLOCK_BYTES, Descendant
from tleg_core.description import Method
from tleg_core.dtype import DType
from tleg_core.errors import RangeError
from tleg_core.family import Family, Variation
from tleg_core.fresh import draw
from tleg_core.learngene import Learngene
from tleg_core.recipe import Head, Member, Recipe
from tleg_core.vit import MAX_DEPTH, VIT_SIZES, VitConfig, timm_architecture, timm_model_args

from .conftest import METHOD_SCHEDULES, LearngeneFactory, build_learngene

TOKEN_CONFIG = VitConfig(
    embed_dim=24, num_heads=3, img_size=24, patch_size=8, num_classes=5, mlp_ratio=2.5, class_token=True, global_pool="token"
)

WIDE = VitConfig(embed_dim=320, num_heads=5, img_size=16, patch_size=8, num_classes=10)
"""Wide enough that a tensor spans several blocks of the file."""

HEADS: dict[Head, dict[str, Any]] = {
    Head.INHERIT: {},
    Head.ZERO: {"num_classes": 4},
    Head.RANDOM: {"num_classes": 7},
    Head.NONE: {"num_classes": 0},
}


def describe(family: Family, depth: int, head: Head = Head.INHERIT, **variation: Any) -> Descendant:
    """Return a member's file, a random head drawn with seed 11."""
    return Descendant(family, family.recipe(Member(depth=depth), Variation(**(HEADS[head] | variation)), head=head, seed=11))


def content_of(descendant: Descendant) -> bytes:
    """Return the whole file."""
    return b"".join(descendant.blocks())


def fresh(recipe: Recipe, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return how timm begins: norms as ones, biases as zeros, weights drawn with a standard deviation of 0.02."""
    if name.endswith("bias"):
        return torch.zeros(shape)
    if "norm" in name:
        return torch.ones(shape)
    assert recipe.seed is not None
    return torch.from_numpy(draw(recipe.seed, name, 0, torch.Size(shape).numel()).reshape(shape))


def plain_torch(learngene: Learngene, recipe: Recipe) -> dict[str, torch.Tensor]:
    """Return the descendant by plain torch: theta_i = sum_k (i / L)^k theta_k, knots or stages; copies, timm's resampling."""
    config, depth, description = learngene.description.config, recipe.member.depth, learngene.description
    stored = {name: torch.from_numpy(tensor.copy()) for name, tensor in learngene.tensors.items()}
    state: dict[str, torch.Tensor] = {}
    for name in ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"):
        if name in stored:
            state[name] = stored[name]
    new_grid = recipe.img_size // config.patch_size
    state["pos_embed"] = resample_abs_pos_embed(
        stored["pos_embed"], [new_grid] * 2, [config.grid_size] * 2, num_prefix_tokens=int(config.class_token)
    )
    authors_stages = {5: [0, 1, 2, 3, 4], 7: [0, 0, 1, 1, 2, 3, 4], 12: [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4]}
    for layer in range(depth):
        for name, basis in stored.items():
            if not name.startswith("basis."):
                continue
            if description.method is Method.LEARNGENE:  # the first and the last of three layers, at both ends
                inherited = {0: basis[0], depth - 1: basis[1]}
                tensor = inherited.get(layer, fresh(recipe, f"blocks.{layer}.{name.removeprefix('basis.')}", basis[0].shape))
            elif description.method is Method.STAGEWISE:
                tensor = basis[authors_stages[depth][layer]]
            elif description.method is Method.SPLINE:
                place = Fraction(layer * (len(basis) - 1), depth - 1)
                knot = int(place)
                tensor = basis[knot]
                if place != knot:
                    left, right = (
                        torch.tensor(float(part), dtype=torch.float64).float() for part in (knot + 1 - place, place - knot)
                    )
                    tensor = left * basis[knot] + right * basis[knot + 1]
            else:
                t = layer / depth
                tensor = basis[0]
                for k in range(1, len(basis)):
                    power = torch.tensor(t**k if k < 2 else t * t, dtype=torch.float64).float()
                    tensor = tensor + power * basis[k]
            state[f"blocks.{layer}.{name.removeprefix('basis.')}"] = tensor
    state |= {name: stored[name] for name in ("norm.weight", "norm.bias")}
    if recipe.head is Head.INHERIT:
        state |= {name: stored[name] for name in ("head.weight", "head.bias")}
    elif recipe.head is not Head.NONE:
        shape = (recipe.num_classes, config.embed_dim)
        state |= {"head.weight": torch.zeros(shape), "head.bias": torch.zeros(recipe.num_classes)}
    if recipe.head is Head.RANDOM:
        assert recipe.seed is not None
        state["head.weight"] = torch.from_numpy(draw(recipe.seed, "head.weight", 0, shape[0] * shape[1]).reshape(shape))
    return {name: tensor.to(getattr(torch, recipe.dtype.value)) for name, tensor in state.items()}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], *, resampled: bool) -> None:
    """Assert equal bits of every tensor; a resampled position embedding is timm's to 1e-6 before its cast."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        if name == "pos_embed" and resampled:
            ulp = {torch.float32: 0.0, torch.float16: 2**-10, torch.bfloat16: 2**-7}[tensor.dtype]  # a cast may fall either way
            assert torch.allclose(found[name].float(), tensor.float(), rtol=ulp, atol=1e-6)
        else:
            assert found[name].shape == tensor.shape
            assert found[name].contiguous().view(torch.uint8).equal(tensor.contiguous().view(torch.uint8)), name


@pytest.fixture(scope="module", params=["plain", "class token"])
def any_family(request: pytest.FixtureRequest) -> Family:
    """A TLEG family without a class token, and one with."""
    return Family(build_learngene(VIT_SIZES["test"] if request.param == "plain" else TOKEN_CONFIG))


@pytest.mark.parametrize("img_size", [None, 16, 48])
@pytest.mark.parametrize("dtype", DType)
@pytest.mark.parametrize("head", Head)
def test_the_file_is_what_plain_torch_computes(any_family: Family, head: Head, dtype: DType, img_size: int | None) -> None:
    """Read by safetensors, it has the formula's tensors bit for bit, float16 and bfloat16 by torch's own cast."""
    descendant = describe(any_family, 3, head, dtype=dtype, img_size=img_size)
    found = safetensors.torch.load(content_of(descendant))
    resampled = descendant.recipe.img_size != any_family.learngene.description.config.img_size
    assert_same(found, plain_torch(any_family.learngene, descendant.recipe), resampled=resampled)


@pytest.mark.parametrize("dtype", DType)
@pytest.mark.parametrize("method", METHOD_SCHEDULES)
@pytest.mark.parametrize("depth", [5, 7, 12])
def test_every_method_is_what_plain_torch_computes(
    method: Method, depth: int, dtype: DType, make_learngene: LearngeneFactory
) -> None:
    """Linear, quadratic, spline, stage-wise and inherited rows alike, at several depths."""
    learngene = make_learngene(method=method)
    descendant = describe(Family(learngene), depth, dtype=dtype)
    found = safetensors.torch.load(content_of(descendant))
    assert_same(found, plain_torch(learngene, descendant.recipe), resampled=False)


@pytest.mark.parametrize("img_size", [None, 48])
@pytest.mark.parametrize("dtype", DType)
@pytest.mark.parametrize("head", Head)
def test_timm_loads_it_strictly(any_family: Family, head: Head, dtype: DType, img_size: int | None) -> None:
    """The model that timm builds of the given arguments takes the file with strict=True, and works."""
    descendant = describe(any_family, 2, head, dtype=dtype, img_size=img_size)
    recipe = descendant.recipe
    config = any_family.config(num_classes=recipe.num_classes, img_size=recipe.img_size)
    model = timm.create_model(timm_architecture(config), **timm_model_args(config, 2), num_classes=config.num_classes).eval()
    model.load_state_dict(safetensors.torch.load(content_of(descendant)), strict=True)
    with torch.inference_mode():
        output = model(torch.randn(2, config.in_chans, config.img_size, config.img_size))
    assert output.shape == (2, config.num_classes or config.embed_dim)
    assert torch.isfinite(output).all()
    assert (output == 0).all().item() == (head is Head.ZERO)


def header_of(content: bytes) -> dict[str, Any]:
    """Return the JSON header, its names in the file's order."""
    (length,) = struct.unpack("<Q", content[:8])
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    return header


def test_the_header_has_timms_order_and_the_recipe(family: Family, make_timm: Callable[..., nn.Module]) -> None:
    """Tensors stand in the order of timm's state_dict, one after the other, aligned; metadata says pt, recipe and digest."""
    descendant = describe(family, 4)
    content = content_of(descendant)
    header = header_of(content)
    metadata = header.pop("__metadata__")
    assert list(header) == list(make_timm(VIT_SIZES["test"], 4).state_dict())
    ends = [0, *(value["data_offsets"][1] for value in header.values())]
    assert [value["data_offsets"][0] for value in header.values()] == ends[:-1]
    assert len(descendant.header) % 8 == 0
    assert len(descendant.header) + ends[-1] == descendant.size == len(content)
    assert metadata["format"] == "pt"
    assert metadata["tleg.learngene"] == family.digest
    assert Recipe.from_json(json.loads(metadata["tleg.recipe"])) == descendant.recipe


@pytest.mark.parametrize("dtype", DType)
def test_ten_thousand_ranges_are_slices_of_the_whole(family: Family, dtype: DType) -> None:
    """Any byte range, odd offsets within an element included, equals the slice of the whole file."""
    descendant = describe(family, 3, Head.RANDOM, dtype=dtype, img_size=48)
    content = content_of(descendant)
    generator = random.Random(dtype.value)
    borders = [0, len(descendant.header), descendant.size] + [
        len(descendant.header) + value["data_offsets"][0]
        for name, value in header_of(content).items()
        if name != "__metadata__"
    ]
    for _ in range(10_000):
        if generator.random() < 0.3:  # around the ends of header and tensors
            offset = min(max(generator.choice(borders) + generator.randint(-5, 5), 0), descendant.size)
        else:
            offset = generator.randint(0, descendant.size)
        longest = generator.choice([1, 7, 1000, descendant.size])
        length = min(generator.randint(0, longest), descendant.size - offset)
        assert descendant.read(offset, length) == content[offset : offset + length], (offset, length)


@pytest.mark.parametrize("dtype", DType)
def test_ranges_of_tensors_longer_than_a_block_are_slices_of_the_whole(dtype: DType, make_learngene: LearngeneFactory) -> None:
    """Across the blocks' seams too, at odd offsets, by `read` and by `blocks`."""
    descendant = describe(Family(make_learngene(WIDE)), 2, dtype=dtype)
    content = content_of(descendant)
    assert len(content) > 4 * BLOCK_BYTES
    generator = random.Random(dtype.value)
    for _ in range(40):
        start, stop = sorted(generator.randint(0, descendant.size) for _ in range(2))
        expected = content[start:stop]
        assert descendant.read(start, stop - start) == expected
        assert b"".join(descendant.blocks(start, stop)) == expected


@given(data=st.data())
def test_blocks_join_to_the_slice(family: Family, data: st.DataObject) -> None:
    """Any start and stop."""
    descendant = describe(family, 2, dtype=data.draw(st.sampled_from(list(DType))))
    start = data.draw(st.integers(0, descendant.size))
    stop = data.draw(st.integers(start, descendant.size))
    assert b"".join(descendant.blocks(start, stop)) == descendant.read(start, stop - start)


@pytest.mark.parametrize(("config", "depth"), [(VIT_SIZES["test"], 12), (WIDE, 3), (VIT_SIZES["test"], MAX_DEPTH)])
def test_blocks_are_about_a_megabyte(config: VitConfig, depth: int, make_learngene: LearngeneFactory) -> None:
    """None is above the limit, none is empty, small tensors are gathered, and the header of a thousand layers is cut too."""
    descendant = describe(Family(make_learngene(config, max_depth=MAX_DEPTH)), depth)
    sizes = [len(block) for block in descendant.blocks()]
    assert sum(sizes) == descendant.size
    assert max(sizes) <= BLOCK_BYTES
    assert min(sizes) > 0
    assert len(sizes) <= 2 + 4 * descendant.size / BLOCK_BYTES + 4 * depth * (config.embed_dim > 200)


def test_streaming_takes_memory_of_some_blocks_whatever_the_size(make_learngene: LearngeneFactory) -> None:
    """A file of 29 MB goes by in less than 8 MB beside the learngene."""
    family = Family(make_learngene(WIDE))
    describe(family, 12)  # what is built once for the family
    tracemalloc.start()
    try:
        descendant = describe(family, 12, dtype=DType.BFLOAT16)
        total = sum(len(block) for block in descendant.blocks())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total == descendant.size > 29_000_000
    assert peak < 8_000_000


def test_blocks_are_computed_when_asked_for(make_learngene: LearngeneFactory) -> None:
    """The first block of a large file is there without the others: less than a tenth of the file's memory."""
    family = Family(make_learngene(WIDE))
    descendant = describe(family, 12)
    tracemalloc.start()
    try:
        first = next(descendant.blocks())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert bytes(first[:8]) == descendant.header[:8]
    assert peak < descendant.size / 10


@pytest.mark.parametrize(("offset", "length"), [(-1, 2), (0, -1), (0, 10**9), (10**9, 0), (10**9, 1)])
def test_a_range_outside_the_file_is_refused(family: Family, offset: int, length: int) -> None:
    """`read` and `blocks` raise RangeError, `blocks` as soon as it is iterated."""
    descendant = describe(family, 2)
    with pytest.raises(RangeError):
        descendant.read(offset, length)
    with pytest.raises(RangeError):
        list(descendant.blocks(offset, offset + length))


def test_an_empty_range_is_empty(family: Family) -> None:
    """Anywhere, both ends of the file included."""
    descendant = describe(family, 2)
    for offset in (0, 3, len(descendant.header), descendant.size - 1, descendant.size):
        assert descendant.read(offset, 0) == b""
        assert b"".join(descendant.blocks(offset, offset)) == b""


@pytest.mark.parametrize("head", Head)
@pytest.mark.parametrize("dtype", DType)
def test_the_same_recipe_is_the_same_bytes(dtype: DType, head: Head) -> None:
    """A learngene built again, read again and expanded again gives the same file and the same id."""
    first = describe(Family(build_learngene()), 3, head, dtype=dtype, img_size=40)
    again_family = Family(Learngene.from_bytes("again", bytes(build_learngene().content)))
    again = Descendant(again_family, Recipe.from_json(json.loads(json.dumps(first.recipe.to_json()))))
    assert first.recipe.model_id == again.recipe.model_id
    assert content_of(first) == content_of(again)
    assert first.sha256() == hashlib.sha256(content_of(again)).hexdigest()


def test_seeds_draw_different_heads_and_nothing_else(family: Family) -> None:
    """Two seeds differ in head.weight alone; its deviation is 0.02 and its bias zero."""
    states = []
    for seed in (1, 2):
        recipe = family.recipe(Member(depth=2), Variation(num_classes=500), head=Head.RANDOM, seed=seed)
        states.append(safetensors.torch.load(content_of(Descendant(family, recipe))))
    assert [name for name in states[0] if not torch.equal(states[0][name], states[1][name])] == ["head.weight"]
    assert abs(states[0]["head.weight"].std().item() - 0.02) < 0.02 * 5 / np.sqrt(2 * 500 * 32)  # five standard errors
    assert (states[0]["head.bias"] == 0).all()


def test_layer_0_of_every_depth_is_theta_b(family: Family) -> None:
    """The first block is the learngene's first component, whatever the depth (METHODS.md section 10, oracle 1)."""
    for depth in (1, 2, 5, 12):
        state = safetensors.torch.load(content_of(describe(family, depth)))
        for name, basis in family.learngene.tensors.items():
            if name.startswith("basis."):
                found = state[f"blocks.0.{name.removeprefix('basis.')}"].numpy()
                assert found.tobytes() == basis[0].tobytes()
