"""Hypothesis strategies for the core."""

from __future__ import annotations

from hypothesis import strategies as st

from tleg_core.vit import VitConfig


@st.composite
def vit_configs(draw: st.DrawFn) -> VitConfig:
    """Draw a small valid configuration, with or without a class token, odd MLP ratios and any number of channels included."""
    num_heads = draw(st.integers(1, 5))
    embed_dim = num_heads * draw(st.integers(1, 24))
    patch_size = draw(st.integers(1, 9))
    class_token = draw(st.booleans())
    ratios = st.one_of(st.sampled_from([0.5, 1.0, 2.0, 3.5, 4.0, 8 / 3]), st.floats(1 / embed_dim, 8.0))
    return VitConfig(
        embed_dim=embed_dim,
        num_heads=num_heads,
        img_size=patch_size * draw(st.integers(1, 6)),
        patch_size=patch_size,
        in_chans=draw(st.integers(1, 5)),
        num_classes=draw(st.sampled_from([0, 1, 2, 10, 1000])),
        mlp_ratio=draw(ratios.filter(lambda ratio: int(embed_dim * ratio) >= 1)),
        class_token=class_token,
        global_pool=draw(st.sampled_from(["avg", "token"])) if class_token else "avg",
    )
