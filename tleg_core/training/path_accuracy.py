"""The accuracy of a pool's members: of each path, as it stands and without any fine-tuning.

Shape legend: B images, H height, W width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch

from tleg_core.description import Measurement
from tleg_core.image_source import ImageSource
from tleg_core.learngene import Learngene
from tleg_core.path import Path
from tleg_core.recipe import Member
from tleg_core.training.evaluate import check_classes, measure_members
from tleg_core.training.pool_model import PoolModel


def pool_model_of(learngene: Learngene) -> PoolModel:
    """Return the network that a pool's learngene is the parameters of, in evaluation mode.

    Raises:
        ConfigError: It is no pool.
    """
    model = PoolModel(learngene.description.pool)
    model.load_pool_tensors({name: torch.from_numpy(array.copy()) for name, array in learngene.tensors.items()})
    return model.eval()


def measure_paths(
    learngene: Learngene,
    data: ImageSource,
    *,
    paths: Iterable[Path] | None = None,
    device: torch.device,
    batch_size: int = 500,
    autocast: bool = False,
    progressed: Callable[[int], None] = lambda _count: None,
) -> Iterator[Measurement]:
    """Yield the accuracy on `data` along each path.

    Args:
        learngene: A pool.
        data: Held-out images; those that are not in memory are brought to the network's size as timm's evaluation does.
        paths: The members; None for all of them.
        device: Where it computes.
        batch_size: Images at once.
        autocast: Compute in bfloat16 where PyTorch thinks it safe; without it everything is float32.
        progressed: Is told after each batch how many images it had.

    Raises:
        ConfigError: It is no pool, has no such member, or `data` has other classes.
    """
    check_classes(learngene, data)
    pool = learngene.description.pool
    members = pool.members if paths is None else tuple(Member.along(path) for path in paths)
    for member in members:
        pool.check(member)
    model = pool_model_of(learngene).to(device)
    yield from measure_members(
        learngene,
        data,
        members,
        lambda images, member: model(images, member.path),
        device=device,
        batch_size=batch_size,
        autocast=autocast,
        progressed=progressed,
    )
