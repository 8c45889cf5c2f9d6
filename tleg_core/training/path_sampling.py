"""Which path of a pool an update of the joint training runs: a function of seed and step.

All processes of a run take the same path, and all parts of a batch: their gradients are of the same parameters. (SN-Net's code
draws one for each process.) Sources: SN-Net (arXiv 2302.06586, algorithm 1); by cost, SN-Netv2 (arXiv 2307.00154, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tleg_core.cost import stack_cost
from tleg_core.designs.pool import Pool
from tleg_core.path import Path
from tleg_core.pool_config import JointTraining, Sampling
from tleg_core.training.draws import generator_of

_RANGES = 10  # of costs, where nobody says how wide one is


class PathSampler:
    """Draws a path for each update.

    Args:
        groups: Paths of like cost, the cheapest group first; each draw takes a group and then a path of it.
        weights: How often each group is drawn, in proportion.
        seed: Of the draws.
    """

    def __init__(self, groups: Sequence[Sequence[Path]], weights: Sequence[float], seed: int) -> None:
        self.groups = tuple(tuple(group) for group in groups)
        self._weights = torch.tensor(weights, dtype=torch.float64)
        self._seed = seed

    @classmethod
    def of(cls, pool: Pool, joint: JointTraining, seed: int) -> PathSampler:
        """Return the sampler of all of a pool's members, whole anchors among them, as the joint training wants it."""
        paths = [member.path for member in pool.members if member.path is not None]
        if joint.sampling is Sampling.UNIFORM:
            return cls([paths], [1.0], seed)
        macs = [stack_cost(pool.stack(member)).macs for member in pool.members]
        groups = cost_groups(paths, macs, joint.group_macs)
        rising = joint.sampling is Sampling.BY_COST_RISING
        return cls(groups, [1.0 + number if rising else 1.0 for number in range(len(groups))], seed)

    def path(self, step: int) -> Path:
        """Return the path of the update after `step` updates."""
        generator = generator_of(self._seed, "path", step)
        group = self.groups[int(torch.multinomial(self._weights, 1, generator=generator))]
        return group[int(torch.randint(len(group), (), generator=generator))]


def cost_groups(paths: Sequence[Path], macs: Sequence[int], width: int | None = None) -> list[list[Path]]:
    """Return the paths in ranges of cost, cheapest first, each so many MACs wide; None for a tenth of them all.

    Ranges begin at the cheapest path; those without a path are left out.
    """
    lowest, highest = min(macs), max(macs)
    each = -(-(highest - lowest + 1) // _RANGES) if width is None else width
    groups: dict[int, list[Path]] = {}
    for _, place in sorted((cost, place) for place, cost in enumerate(macs)):
        groups.setdefault((macs[place] - lowest) // each, []).append(paths[place])
    return [groups[number] for number in sorted(groups)]


def measured_paths(pool: Pool) -> tuple[Path, ...]:
    """Return the paths that are measured after each epoch: the last anchor, the first, and the one of middling cost."""
    paths = [member.path for member in pool.members if member.path is not None]
    by_cost = sorted(range(len(paths)), key=lambda place: stack_cost(pool.stack(pool.members[place])).macs)
    middle = paths[by_cost[len(by_cost) // 2]]
    return tuple(dict.fromkeys((pool.whole(len(pool.anchors) - 1), pool.whole(0), middle)))
