"""The vision Transformers of this project: their configuration and the exact inventory of their tensors.

A `VitConfig` describes a family's network without its depth, in the argument names of timm's `VisionTransformer`. The final
LayerNorm always comes *before* pooling (`fc_norm=False`), in descendants as in the auxiliary model: the authors' code puts
them on opposite sides, which makes two different functions of the same weights. Nothing here computes; costs are in `cost`.

Shape legend: C in_chans, P patch_size, T tokens, D embed_dim, M MLP width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Self, TypeAlias

from tleg_core.errors import ConfigError

Shape: TypeAlias = tuple[int, ...]

MAX_DEPTH = 1000
"""Upper limit of a descendant's depth: far past any trained plain ViT, and small enough to bound a file's header."""

_LIMITS: Mapping[str, tuple[int, int]] = {
    "embed_dim": (1, 16384),
    "num_heads": (1, 1024),
    "img_size": (1, 4096),
    "patch_size": (1, 1024),
    "in_chans": (1, 64),
    "num_classes": (0, 65_536),
}


def check_limit(field: str, value: object) -> None:
    """Raise `ConfigError` unless `value` is an integer within the limits of the configuration's `field`."""
    low, high = _LIMITS[field]
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(field, f"must be a whole number from {low} to {high}, not {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class VitConfig:
    """A plain ViT without its depth.

    Args:
        embed_dim: Width D of a token.
        num_heads: Attention heads; must divide `embed_dim`.
        img_size: Side of the square input image, in pixels; a multiple of `patch_size`.
        patch_size: Side P of a patch, in pixels.
        in_chans: Channels C of the image.
        num_classes: Outputs of the head; 0 for no head.
        mlp_ratio: Width of the MLP over `embed_dim`.
        class_token: Whether a class token is prepended.
        global_pool: How tokens become one vector: their mean after the norm, or the class token.

    Raises:
        ConfigError: A value is outside its limits, or two contradict each other.
    """

    embed_dim: int
    num_heads: int
    img_size: int = 224
    patch_size: int = 16
    in_chans: int = 3
    num_classes: int = 1000
    mlp_ratio: float = 4.0
    class_token: bool = False
    global_pool: Literal["avg", "token"] = "avg"

    def __post_init__(self) -> None:
        for field in _LIMITS:
            check_limit(field, getattr(self, field))
        if self.embed_dim % self.num_heads:
            raise ConfigError("num_heads", f"{self.num_heads} does not divide embed_dim {self.embed_dim}")
        if self.img_size % self.patch_size:
            raise ConfigError("img_size", f"{self.img_size} is not a multiple of patch_size {self.patch_size}")
        if (
            isinstance(self.mlp_ratio, bool)
            or not isinstance(self.mlp_ratio, int | float)
            or not 0 < self.mlp_ratio <= 16
            or self.mlp_width < 1
        ):
            raise ConfigError("mlp_ratio", f"must be above 0 and at most 16, not {self.mlp_ratio!r}")
        # 4 and 4.0 are one network, and must be one in the canonical JSON that digests are taken of
        object.__setattr__(self, "mlp_ratio", float(self.mlp_ratio))
        if not isinstance(self.class_token, bool):
            raise ConfigError("class_token", f"must be true or false, not {self.class_token!r}")
        if self.global_pool not in ("avg", "token"):
            raise ConfigError("global_pool", f"must be 'avg' or 'token', not {self.global_pool!r}")
        if self.global_pool == "token" and not self.class_token:
            raise ConfigError("global_pool", "'token' needs class_token")

    @property
    def grid_size(self) -> int:
        """Patches along one side of the image."""
        return self.img_size // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Tokens T that a block sees, the class token included."""
        return self.grid_size**2 + self.class_token

    @property
    def mlp_width(self) -> int:
        """Hidden width M of the MLP, rounded down as timm does."""
        return int(self.embed_dim * self.mlp_ratio)

    def with_changes(self, *, num_classes: int | None = None, img_size: int | None = None) -> VitConfig:
        """Return this configuration with another head or image size (None keeps it)."""
        if num_classes is None and img_size is None:
            return self
        return replace(
            self,
            num_classes=self.num_classes if num_classes is None else num_classes,
            img_size=self.img_size if img_size is None else img_size,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as a JSON object in timm's names."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read `to_json`'s object; unknown or missing names raise `ConfigError`."""
        if not isinstance(value, Mapping):
            raise ConfigError("config", "must be an object")
        names = {field.name for field in fields(cls)}
        for name in value.keys() ^ names:
            raise ConfigError(str(name), "is missing" if name in names else "is not a known field")
        return cls(**value)


VIT_SIZES: Mapping[str, VitConfig] = {
    # Ti, S, B: DeiT (arXiv 2012.12877, table 1); L: ViT (arXiv 2010.11929, table 1). "test" is ours, for tests.
    "test": VitConfig(embed_dim=32, num_heads=2, img_size=32, patch_size=8, num_classes=10),
    "tiny": VitConfig(embed_dim=192, num_heads=3),
    "small": VitConfig(embed_dim=384, num_heads=6),
    "base": VitConfig(embed_dim=768, num_heads=12),
    "large": VitConfig(embed_dim=1024, num_heads=16),
}
"""The named sizes, without a class token, as TLEG uses them."""

TIMM_ARCHITECTURES: Mapping[int, str] = {
    192: "vit_tiny_patch16_224",
    384: "vit_small_patch16_224",
    768: "vit_base_patch16_224",
    1024: "vit_large_patch16_224",
}
"""timm's entry point by width; `timm_model_args` overrides whatever differs."""

_DEFAULT_ARCHITECTURE = "vit_tiny_patch16_224"


def timm_architecture(config: VitConfig) -> str:
    """Return the timm model name that `timm_model_args` is to be passed to."""
    return TIMM_ARCHITECTURES.get(config.embed_dim, _DEFAULT_ARCHITECTURE)


def timm_model_args(config: VitConfig, depth: int) -> dict[str, Any]:
    """Return the keyword arguments with which `timm.create_model(timm_architecture(config), ...)` builds the network."""
    return {
        "img_size": config.img_size,
        "patch_size": config.patch_size,
        "in_chans": config.in_chans,
        "embed_dim": config.embed_dim,
        "depth": depth,
        "num_heads": config.num_heads,
        "mlp_ratio": config.mlp_ratio,
        "class_token": config.class_token,
        "global_pool": config.global_pool,
        "fc_norm": False,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One tensor of a network: timm's name, its shape, and where in the network it sits.

    `layer` is the index of its block (None outside the blocks) and `part` its name within the block, or `name` itself.
    """

    name: str
    shape: Shape
    layer: int | None
    part: str

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def block_shapes(config: VitConfig) -> dict[str, Shape]:
    """Return the tensors of one block, by name within the block, in timm's order."""
    d, m = config.embed_dim, config.mlp_width
    return {
        "norm1.weight": (d,),
        "norm1.bias": (d,),
        "attn.qkv.weight": (3 * d, d),
        "attn.qkv.bias": (3 * d,),
        "attn.proj.weight": (d, d),
        "attn.proj.bias": (d,),
        "norm2.weight": (d,),
        "norm2.bias": (d,),
        "mlp.fc1.weight": (m, d),
        "mlp.fc1.bias": (m,),
        "mlp.fc2.weight": (d, m),
        "mlp.fc2.bias": (d,),
    }


def stem_shapes(config: VitConfig) -> dict[str, Shape]:
    """Return the tensors that come before the blocks, in timm's order."""
    d, p, c = config.embed_dim, config.patch_size, config.in_chans
    stem: dict[str, Shape] = {"cls_token": (1, 1, d)} if config.class_token else {}
    return stem | {
        "pos_embed": (1, config.num_tokens, d),
        "patch_embed.proj.weight": (d, c, p, p),
        "patch_embed.proj.bias": (d,),
    }


def tail_shapes(config: VitConfig) -> dict[str, Shape]:
    """Return the tensors that come after the blocks, in timm's order: the final norm and the head, if there is one."""
    d, classes = config.embed_dim, config.num_classes
    tail: dict[str, Shape] = {"norm.weight": (d,), "norm.bias": (d,)}
    return tail | {"head.weight": (classes, d), "head.bias": (classes,)} if classes else tail


def num_elements(shapes: Mapping[str, Shape]) -> int:
    """Return the elements of all these tensors together."""
    return sum(math.prod(shape) for shape in shapes.values())


def check_depth(depth: int) -> None:
    """Raise `ConfigError` unless `depth` is from 1 to `MAX_DEPTH`."""
    if not 1 <= depth <= MAX_DEPTH:
        raise ConfigError("depth", f"must be from 1 to {MAX_DEPTH}, not {depth}")


def inventory(config: VitConfig, depth: int) -> tuple[TensorSpec, ...]:
    """Return every tensor of the depth-`depth` network in the order of timm's `state_dict()`.

    Raises:
        ConfigError: `depth` is outside 1..`MAX_DEPTH`.
    """
    check_depth(depth)

    def outside(shapes: dict[str, Shape]) -> list[TensorSpec]:
        return [TensorSpec(name=name, shape=shape, layer=None, part=name) for name, shape in shapes.items()]

    blocks = [
        TensorSpec(name=f"blocks.{layer}.{part}", shape=shape, layer=layer, part=part)
        for layer in range(depth)
        for part, shape in block_shapes(config).items()
    ]
    return (*outside(stem_shapes(config)), *blocks, *outside(tail_shapes(config)))
