"""The initialisers that descendants are compared to, against their papers' definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.core.conftest import METHOD_SCHEDULES, build_learngene, build_timm, exact_values
from tleg_core.description import Method
from tleg_core.errors import ConfigError
from tleg_core.methods import learngene as descendants
from tleg_core.methods import mimetic, scratch, truncation, weight_selection
from tleg_core.training.auxiliary import AuxiliaryModel
from tleg_core.vit import VitConfig, inventory

CONFIG = VitConfig(embed_dim=32, num_heads=2, img_size=16, patch_size=4, num_classes=5)
WIDE = VitConfig(embed_dim=96, num_heads=4, img_size=16, patch_size=4, num_classes=5)


def trained(config: VitConfig, depth: int) -> dict[str, np.ndarray]:
    """Return a stand-in for a trained network's weights: other numbers in each tensor."""
    return {spec.name: exact_values(spec.name, spec.shape) for spec in inventory(config, depth)}


@pytest.mark.parametrize("config", [CONFIG, WIDE])
def test_every_method_gives_exactly_timms_tensors(config: VitConfig) -> None:
    """Names, order, shapes and type are those of timm's state_dict, at each depth."""
    wide = VitConfig(embed_dim=192, num_heads=8, img_size=16, patch_size=4, num_classes=5)
    fresh = scratch.initialise(config, 3, seed=0)
    found = [
        fresh,
        mimetic.initialise(fresh, config, 3, seed=0),
        truncation.initialise(trained(config, 6), config, 3),
        weight_selection.initialise(trained(wide, 4), wide, config, 3),
        descendants.initialise(build_learngene(config), 3),
    ]
    expected = {name: tuple(tensor.shape) for name, tensor in build_timm(config, 3).state_dict().items()}
    for weights in found:
        assert list(weights) == list(expected)
        assert {name: array.shape for name, array in weights.items()} == expected
        assert {array.dtype for array in weights.values()} == {np.dtype(np.float32)}


def test_scratch_is_timms_own_draw() -> None:
    """The weights are those of timm's constructor under the same seed of torch, and another seed gives others."""
    torch.manual_seed(3)
    reference = build_timm(CONFIG, 2, device="cpu").state_dict()
    found = scratch.initialise(CONFIG, 2, seed=3)
    assert all(np.array_equal(found[name], tensor.numpy()) for name, tensor in reference.items())
    other = scratch.initialise(CONFIG, 2, seed=4)
    assert not np.array_equal(found["blocks.0.mlp.fc1.weight"], other["blocks.0.mlp.fc1.weight"])


def cosine_with_identity(product: np.ndarray) -> float:
    """Return the cosine of a square matrix with the identity, as vectors."""
    return float(np.trace(product) / (np.linalg.norm(product) * np.sqrt(len(product))))


def test_mimetic_attention_looks_like_a_trained_ones() -> None:
    """W_proj W_v is 0.4 Z - 0.4 I exactly, and W_q^T W_k of each head the best approximation of 0.7 Z + 0.7 I of its rank."""
    config = VitConfig(embed_dim=64, num_heads=4, img_size=16, patch_size=4, num_classes=5)
    weights = mimetic.initialise(scratch.initialise(config, 2, seed=0), config, 2, seed=0)
    for layer in range(2):
        query, key, value = np.split(weights[f"blocks.{layer}.attn.qkv.weight"].astype(np.float64), 3)
        mixed = weights[f"blocks.{layer}.attn.proj.weight"].astype(np.float64) @ value
        noise = (mixed + 0.4 * np.eye(64)) / 0.4
        # 4,096 normal numbers: the standard error of their deviation is 1.1 %, that of their mean 0.002.
        assert np.std(noise) == pytest.approx(1 / 8, rel=0.05)
        assert abs(noise.mean()) < 0.01
        # Noise and identity are equally large, so a cosine of -1/sqrt(2) is expected; a draw of timm's is near 0.
        assert cosine_with_identity(mixed) == pytest.approx(-(0.5**0.5), abs=0.05)
        for head in range(4):
            rows = slice(16 * head, 16 * (head + 1))
            product = query[rows].T @ key[rows]  # (64, 64)
            assert np.linalg.matrix_rank(product, tol=1e-4) == 16
            assert cosine_with_identity(product) > 0.3
            assert np.allclose(np.linalg.norm(query[rows], axis=1), np.linalg.norm(key[rows], axis=1), rtol=1e-4)
    fresh = scratch.initialise(config, 2, seed=0)
    query, key, value = np.split(fresh["blocks.0.attn.qkv.weight"].astype(np.float64), 3)
    assert abs(cosine_with_identity(fresh["blocks.0.attn.proj.weight"] @ value)) < 0.1


def test_mimetic_heads_are_the_leading_part_of_one_product() -> None:
    """With a single head nothing is cut off: W_q^T W_k - 0.7 I is noise of deviation 0.7 / sqrt(D)."""
    config = VitConfig(embed_dim=64, num_heads=1, img_size=16, patch_size=4, num_classes=5)
    weights = mimetic.initialise(scratch.initialise(config, 1, seed=0), config, 1, seed=1)
    query, key, _ = np.split(weights["blocks.0.attn.qkv.weight"].astype(np.float64), 3)
    noise = (query.T @ key - 0.7 * np.eye(64)) / 0.7
    assert np.std(noise) == pytest.approx(1 / 8, rel=0.05)


def test_mimetic_leaves_the_rest_as_it_was_drawn() -> None:
    """Only qkv, proj and the position embedding change; the class token's position is zero, patches' all differ."""
    config = VitConfig(embed_dim=32, num_heads=2, img_size=16, patch_size=4, num_classes=5, class_token=True)
    fresh = scratch.initialise(config, 2, seed=0)
    weights = mimetic.initialise(fresh, config, 2, seed=0)
    changed = {name for name in fresh if not np.array_equal(fresh[name], weights[name])}
    attention = {f"blocks.{layer}.attn.{part}.weight" for layer in range(2) for part in ("qkv", "proj")}
    assert changed == attention | {"pos_embed"}
    positions = weights["pos_embed"][0]
    assert not positions[0].any()
    assert len(np.unique(positions.round(5), axis=0)) == 17
    assert np.allclose((positions[1:] ** 2).sum(axis=1), 16)  # D/4 pairs of sine and cosine for each of two axes


def test_truncation_takes_the_first_blocks() -> None:
    """The first L blocks and everything outside the blocks are the source's; at its own depth all is."""
    source = trained(CONFIG, 6)
    weights = truncation.initialise(source, CONFIG, 4)
    assert all(np.array_equal(weights[name], source[name]) for name in weights)
    assert max(int(name.split(".")[1]) for name in weights if name.startswith("blocks.")) == 3
    assert truncation.initialise(source, CONFIG, 6).keys() == source.keys()
    with pytest.raises(ConfigError, match="shallower than 7"):
        truncation.initialise(source, CONFIG, 7)
    with pytest.raises(ConfigError, match=r"pos_embed is \(1, 16, 32\), not \(1, 16, 96\)"):
        truncation.initialise(source, WIDE, 2)


@pytest.mark.parametrize(
    ("source", "wanted", "expected"),
    [
        (12, 4, [0, 3, 6, 9]),
        (8, 8, list(range(8))),
        (10, 4, [0, 3, 6, 9]),
        (384, 3, [0, 128, 256]),
        (7, 3, [0, 3, 6]),
        (9, 4, [0, 3, 5, 8]),
    ],
)
def test_elements_are_evenly_spaced(source: int, wanted: int, expected: list[int]) -> None:
    """Multiples of the quotient where it is whole, else rounded equal steps from the first to the last."""
    assert weight_selection.evenly_spaced(source, wanted).tolist() == expected


def test_more_than_there_is_cannot_be_selected() -> None:
    """A narrower source, and a shallower one, are named."""
    with pytest.raises(ConfigError, match="the source has 32 of what 96"):
        weight_selection.initialise(trained(CONFIG, 2), CONFIG, WIDE, 2)
    with pytest.raises(ConfigError, match="shallower than 3"):
        weight_selection.initialise(trained(WIDE, 2), WIDE, CONFIG, 3)
    other = VitConfig(embed_dim=96, num_heads=4, img_size=32, patch_size=4, num_classes=5)
    with pytest.raises(ConfigError, match="the source's img_size is 32"):
        weight_selection.initialise(trained(other, 2), other, CONFIG, 2)


@pytest.mark.parametrize("heads", [(4, 2), (6, 2), (3, 2), (2, 2), (12, 4)])
def test_selection_mixes_neither_heads_nor_queries_keys_and_values(heads: tuple[int, int]) -> None:
    """Each row of a student's head comes from one head of the source, and from the same one of q, k, v and proj's input."""
    of_source, of_student = heads
    source = VitConfig(embed_dim=24 * of_source, num_heads=of_source, img_size=16, patch_size=4, num_classes=5)
    config = VitConfig(embed_dim=16 * of_student, num_heads=of_student, img_size=16, patch_size=4, num_classes=5)
    weights = trained(source, 2)
    width = source.embed_dim
    # Let every row of qkv, and every column of proj, say where it stands.
    weights["blocks.1.attn.qkv.bias"] = np.arange(3 * width, dtype=np.float32)
    weights["blocks.1.attn.qkv.weight"] = np.repeat(np.arange(3 * width, dtype=np.float32)[:, None], width, axis=1)
    weights["blocks.1.attn.proj.weight"] = np.repeat(np.arange(width, dtype=np.float32)[None], width, axis=0)
    found = weight_selection.initialise(weights, source, config, 2)
    rows = found["blocks.1.attn.qkv.bias"].reshape(3, of_student, 16).astype(int)
    assert np.array_equal(found["blocks.1.attn.qkv.weight"][:, 0].astype(int), rows.reshape(-1))
    for part in range(3):
        assert (rows[part] // width == part).all()
        assert np.array_equal(rows[part] % width, rows[0])
    of_heads = rows[0] // 24
    assert all(len(set(head)) == 1 for head in of_heads.tolist())
    assert len(set(of_heads[:, 0].tolist())) == of_student
    assert np.array_equal(found["blocks.1.attn.proj.weight"][0].astype(int), rows[0].reshape(-1))


def test_selection_takes_the_same_channels_everywhere() -> None:
    """The residual stream's channels are one choice for all tensors, the MLP's another; the head is zero."""
    source, found = trained(WIDE, 3), weight_selection.initialise(trained(WIDE, 3), WIDE, CONFIG, 2)
    channels, hidden = np.arange(32) * 3, np.arange(128) * 3
    assert np.array_equal(found["pos_embed"], source["pos_embed"][..., channels])
    assert np.array_equal(found["patch_embed.proj.weight"], source["patch_embed.proj.weight"][channels])
    assert np.array_equal(found["norm.bias"], source["norm.bias"][channels])
    assert np.array_equal(found["blocks.1.norm2.weight"], source["blocks.1.norm2.weight"][channels])
    assert np.array_equal(found["blocks.1.mlp.fc1.weight"], source["blocks.1.mlp.fc1.weight"][hidden][:, channels])
    assert np.array_equal(found["blocks.1.mlp.fc2.weight"], source["blocks.1.mlp.fc2.weight"][channels][:, hidden])
    assert np.array_equal(found["blocks.1.attn.proj.bias"], source["blocks.1.attn.proj.bias"][channels])
    assert not found["head.weight"].any()
    assert not found["head.bias"].any()


@pytest.mark.parametrize("method", [method for method in METHOD_SCHEDULES if method is not Method.LEARNGENE])
def test_a_descendant_is_what_the_auxiliary_model_expands(method: Method) -> None:
    """The same weights as those that were trained, at another depth than the trained one."""
    gene = build_learngene(CONFIG, method)
    model = AuxiliaryModel(CONFIG, gene.description.basis.schedule, depth=12)
    model.load_learngene_tensors({name: torch.from_numpy(array.copy()) for name, array in gene.tensors.items()})
    expected = model.expand(7)
    found = descendants.initialise(gene, 7)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], tensor.detach().numpy()) for name, tensor in expected.items())


def test_a_stagewise_descendant_needs_a_layer_for_each_stage() -> None:
    """Depth 4 of five stages is refused."""
    with pytest.raises(ConfigError, match="at least 5"):
        descendants.initialise(build_learngene(CONFIG, Method.STAGEWISE), 4)
