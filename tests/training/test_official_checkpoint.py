"""Import of the authors' checkpoints, against a plain computation of their rule."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tleg_core.description import Provenance
from tleg_core.errors import CheckpointError, ConfigError
from tleg_core.learngene import Learngene
from tleg_core.training.evaluate import auxiliary_of
from tleg_core.training.official_checkpoint import import_official

WIDTH, HEADS, CLASSES, PATCH, GRID = 24, 3, 5, 4, 3
MODULES = {
    "attn.qkv": (3 * WIDTH, WIDTH),
    "attn.proj": (WIDTH, WIDTH),
    "mlp.fc1": (4 * WIDTH, WIDTH),
    "mlp.fc2": (WIDTH, 4 * WIDTH),
    "norm1": (WIDTH,),
    "norm2": (WIDTH,),
}
PROVENANCE = Provenance(data_set="none", ancestry="none", command="test", version="0", licence="none")


@pytest.fixture
def official() -> dict[str, Tensor]:
    """A random auxiliary model in the authors' names, written out here by hand."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.3

    tensors = {"pos_embed": draw(1, GRID**2, WIDTH), "patch_embed.proj.weight": draw(WIDTH, 3, PATCH, PATCH)}
    tensors |= {"patch_embed.proj.bias": draw(WIDTH), "norm.weight": draw(WIDTH), "norm.bias": draw(WIDTH)}
    tensors |= {"head.weight": draw(CLASSES, WIDTH), "head.bias": draw(CLASSES)}
    for module, shape in MODULES.items():
        for which in ("base", "ilayer"):
            tensors[f"blocks.block.{module}.instances.0.weight_{which}"] = draw(*shape)
            tensors[f"blocks.block.{module}.instances.0.bias_{which}"] = draw(shape[0])
    return tensors


def read(path: Path, content: object, num_heads: int | None = HEADS) -> Learngene:
    """Save `content` as the authors would and import it."""
    torch.save(content, path)
    return import_official(path, name="imported", num_heads=num_heads, trained_depth=12, max_depth=12, provenance=PROVENANCE)


def plain_logits(tensors: dict[str, Tensor], images: Tensor, depth: int) -> Tensor:
    """Compute the authors' auxiliary model at `depth` from nothing but matrix products: no timm, none of our code."""

    def at(layer: int, module: str, kind: str) -> Tensor:
        name = f"blocks.block.{module}.instances.0.{kind}_"
        return tensors[f"{name}base"] + (layer / depth) * tensors[f"{name}ilayer"]

    def linear(layer: int, module: str, x: Tensor) -> Tensor:
        return x @ at(layer, module, "weight").T + at(layer, module, "bias")

    def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight + bias

    patches = images.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)  # (B, 3, G, G, P, P)
    patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(len(images), GRID**2, -1)  # (B, N, 3 P P)
    x = patches @ tensors["patch_embed.proj.weight"].flatten(1).T + tensors["patch_embed.proj.bias"] + tensors["pos_embed"]
    for layer in range(depth):
        normed = norm(x, at(layer, "norm1", "weight"), at(layer, "norm1", "bias"))
        q, k, v = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in linear(layer, "attn.qkv", normed).chunk(3, dim=-1)
        )  # (B, H, N, D / H) each
        scores = (q @ k.transpose(-1, -2) / (WIDTH / HEADS) ** 0.5).softmax(-1)
        x = x + linear(layer, "attn.proj", (scores @ v).transpose(1, 2).flatten(2))
        normed = norm(x, at(layer, "norm2", "weight"), at(layer, "norm2", "bias"))
        x = x + linear(layer, "mlp.fc2", nn.functional.gelu(linear(layer, "mlp.fc1", normed)))
    pooled = norm(x, tensors["norm.weight"], tensors["norm.bias"]).mean(1)
    return pooled @ tensors["head.weight"].T + tensors["head.bias"]


def test_an_imported_model_computes_what_the_authors_rule_gives_at_every_depth(
    official: dict[str, Tensor], tmp_path: Path
) -> None:
    """Depths 1 to 12, against an independent computation."""
    gene = read(tmp_path / "aux.pth", {"model": official})
    model = auxiliary_of(gene)
    images = torch.randn(3, 3, GRID * PATCH, GRID * PATCH, generator=torch.Generator().manual_seed(1))
    for depth in range(1, 13):
        with torch.no_grad():
            expected, found = plain_logits(official, images, depth), model(images, depth)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)  # float32, other order of sums, 12 layers deep


def test_components_are_the_authors_tensors_bit_for_bit(official: dict[str, Tensor], tmp_path: Path) -> None:
    """`*_base` is component 0, `*_ilayer` component 1; half precision is widened exactly; a bare dict is read too."""
    gene = read(tmp_path / "bare.pth", {name: tensor.half() for name, tensor in official.items()})
    qkv = gene.basis("attn.qkv.weight")
    for component, which in enumerate(("base", "ilayer")):
        expected = official[f"blocks.block.attn.qkv.instances.0.weight_{which}"].half().float().numpy()
        np.testing.assert_array_equal(qkv[component], expected)


def test_a_whole_training_checkpoint_is_read(official: dict[str, Tensor], tmp_path: Path) -> None:
    """The authors save optimiser state and the parsed options beside the model."""
    content = {"model": official, "optimizer": {"state": {}}, "epoch": 149, "args": argparse.Namespace(lr=5e-4, data="x")}
    assert read(tmp_path / "checkpoint.pth", content).digest == read(tmp_path / "bare.pth", official).digest


def test_the_network_is_read_from_the_shapes(official: dict[str, Tensor], tmp_path: Path) -> None:
    """Everything but the number of heads is in the tensors, and a model without a head has none."""
    config = read(tmp_path / "aux.pth", official).description.config
    assert (config.embed_dim, config.num_heads, config.num_classes) == (WIDTH, HEADS, CLASSES)
    assert (config.img_size, config.patch_size, config.mlp_ratio, config.class_token) == (12, 4, 4.0, False)
    headless = {name: tensor for name, tensor in official.items() if not name.startswith("head.")}
    assert read(tmp_path / "headless.pth", headless).description.config.num_classes == 0
    with pytest.raises(ConfigError, match="num_heads: is needed"):
        read(tmp_path / "aux.pth", official, num_heads=None)


def test_every_name_that_does_not_fit_is_reported(official: dict[str, Tensor], tmp_path: Path) -> None:
    """Missing, unexpected and misshapen tensors stand in one error."""
    official["fc_norm.weight"] = official.pop("norm.weight")
    official["blocks.block.norm1.instances.0.bias_base"] = torch.zeros(7)
    with pytest.raises(CheckpointError) as error:
        read(tmp_path / "aux.pth", official)
    for words in ("missing ['norm.weight']", "unexpected ['fc_norm.weight']", "bias_base is (7,), not (24,)"):
        assert words in str(error.value)


def test_files_of_another_kind_are_refused(official: dict[str, Tensor], tmp_path: Path) -> None:
    """Not a checkpoint, a descendant's weights, a class token, and entries that are no tensors."""
    path = tmp_path / "aux.pth"
    path.write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match="cannot be read"):
        import_official(path, name="imported", num_heads=3, trained_depth=12, max_depth=12, provenance=PROVENANCE)
    with pytest.raises(CheckpointError, match="no auxiliary model"):
        read(path, {"blocks.0.attn.qkv.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="class token"):
        read(path, official | {"pos_embed": torch.zeros(1, 10, WIDTH)})
    with pytest.raises(CheckpointError, match="no tensors"):
        read(path, official | {"epoch": 3})
    with pytest.raises(CheckpointError, match="not tensors by name"):
        read(path, [1, 2])


class Trap:
    """Unpickling this would run code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        """Ask the reader to leave a mark."""
        return (open, ("trap-was-sprung", "w"))


def test_a_pickle_that_runs_code_is_refused_unrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The import reads plain tensors only."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read(tmp_path / "trap.pth", {"model": Trap()})
    (tmp_path / "old.pth").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match="cannot be read"):
        import_official(tmp_path / "old.pth", name="x1", num_heads=3, trained_depth=12, max_depth=12, provenance=PROVENANCE)
    assert not (tmp_path / "trap-was-sprung").exists()
