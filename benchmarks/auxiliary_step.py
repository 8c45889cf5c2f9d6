"""The auxiliary model's step against that of a plain timm ViT of the same shape; what expansion costs of it; elastic steps.

    python -m benchmarks.auxiliary_step [--sizes tiny,small] [--img-size 28 --patch-size 7] [--precision bfloat16] [--compile]

A step is forward, cross-entropy, backward, and AdamW's update as the trainer makes it. The sides take turns, in an order that
alternates, and the ratios are medians over the turns. The expansion is timed alone, forward and backward, with gradients ready.
Achieved FLOP/s count the network's products only (three times the forward pass's MACs, by two), and stand beside the rate of a
large matrix product in the same precision, measured in the same turns. On a GPU every time is between two synchronisations.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import timm
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from tleg_core.cost import cost
from tleg_core.schedule import Polynomial
from tleg_core.training.auxiliary import AuxiliaryModel
from tleg_core.training.loop import autocast
from tleg_core.training.processes import Processes
from tleg_core.training.stateless import INDUCTOR
from tleg_core.training.updates import Updates
from tleg_core.training_config import Precision, TrainingConfig
from tleg_core.vit import VIT_SIZES, VitConfig, timm_architecture, timm_model_args

_CLASSES = 100
_DTYPES = {Precision.FLOAT32: torch.float32, Precision.BFLOAT16: torch.bfloat16, Precision.FLOAT16: torch.float16}


@dataclass(frozen=True)
class Setting:
    """What is measured, on what."""

    batch_size: int
    depth: int
    precision: Precision
    compile: bool
    device: torch.device

    def seconds(self, work: Callable[[], object]) -> float:
        """Return how long `work` takes."""
        self.wait()
        begun_s = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - begun_s

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class Stepper:
    """A module's training steps on one batch that lies on the device."""

    def __init__(self, model: nn.Module, forward: Callable[..., Tensor], config: VitConfig, setting: Setting) -> None:
        self._model, self._forward, self._setting = model.train(), forward, setting
        training = TrainingConfig(epochs=1000, precision=setting.precision, batch_size=setting.batch_size)
        self._updates = Updates(model, training, steps_per_epoch=1000, device=setting.device, processes=Processes())
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(setting.batch_size, config.in_chans, config.img_size, config.img_size, generator=generator)
        self._images = images.to(setting.device)
        self._labels = torch.randint(config.num_classes, (setting.batch_size,), generator=generator).to(setting.device)
        self._step = 0

    def step(self, depth: int | None = None) -> None:
        """Take one, at a depth that an auxiliary model is told."""
        self._updates.forget()
        with autocast(self._setting.device, self._setting.precision):
            logits = self._forward(self._images) if depth is None else self._forward(self._images, depth)
        self._updates.backward(nn.functional.cross_entropy(logits.float(), self._labels))
        self._step += 1
        self._updates.apply(self._step)


class Expansion:
    """The expansion of all layers and its backward pass, without a network."""

    def __init__(self, model: AuxiliaryModel, depth: int) -> None:
        self._model, self._depth = model, depth
        self._gradients = [torch.ones_like(tensor) for layer in model.layers(depth) for tensor in layer.values()]

    def run(self) -> None:
        """Do both once."""
        outputs = [tensor for layer in self._model.layers(self._depth) for tensor in layer.values()]
        inputs = list(self._model.basis.parameters())
        torch.autograd.grad(outputs, inputs, self._gradients)


class MatrixProduct:
    """A square product, large enough that a device reaches its rate."""

    def __init__(self, setting: Setting) -> None:
        self._side = 8192 if setting.device.type == "cuda" else 1024
        dtype = _DTYPES[setting.precision]
        self._factors = [torch.randn(self._side, self._side, device=setting.device, dtype=dtype) for _ in range(2)]

    @property
    def flops(self) -> float:
        """Of one product: a multiplication and an addition for each MAC."""
        return 2.0 * self._side**3

    def run(self) -> None:
        """Compute it once."""
        torch.mm(*self._factors)


def measure(config: VitConfig, setting: Setting, turns: int) -> dict[str, list[float]]:
    """Return the seconds of each turn, by what was done."""
    compiler = INDUCTOR if setting.compile else None
    auxiliary = AuxiliaryModel(config, Polynomial(), depth=setting.depth, compiler=compiler).to(setting.device)
    architecture, arguments = timm_architecture(config), timm_model_args(config, setting.depth)
    plain = timm.create_model(architecture, num_classes=config.num_classes, **arguments).to(setting.device)
    if setting.compile:  # block by block, as ours, so that both sides have the same kernels
        for block in plain.get_submodule("blocks").children():
            block.compile()
    ours = Stepper(auxiliary, auxiliary, config, setting)
    elastic = Stepper(auxiliary, auxiliary, config, setting)
    theirs = Stepper(plain, plain, config, setting)
    expansion, product = Expansion(auxiliary, setting.depth), MatrixProduct(setting)
    works: dict[str, Callable[[], object]] = {
        "auxiliary": ours.step,
        "plain": theirs.step,
        "expansion": expansion.run,
        "half depth": lambda: elastic.step(setting.depth // 2),
        "product": product.run,
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(-2, turns):  # two to warm up: kernels are chosen, memory is reserved, the block is compiled
        for name in works if turn % 2 else reversed(works):
            taken_s = setting.seconds(works[name])
            if turn >= 0:
                times[name].append(taken_s)
    times["product flops/s"] = [product.flops / taken_s for taken_s in times["product"]]
    return times


def main() -> None:
    """Measure, and print the table."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.auxiliary_step", description=__doc__)
    parser.add_argument("--sizes", default="tiny,small,base" if cuda else "tiny", help=f"of {', '.join(VIT_SIZES)}")
    parser.add_argument("--img-size", type=int, default=224 if cuda else 28)
    parser.add_argument("--patch-size", type=int, default=16 if cuda else 7)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--precision", choices=list(Precision), default=Precision.BFLOAT16 if cuda else Precision.FLOAT32)
    parser.add_argument("--compile", action="store_true", help="both sides, block by block")
    parser.add_argument("--turns", type=int, default=50 if cuda else 7)
    args = parser.parse_args()
    device = torch.device("cuda" if cuda else "cpu")
    setting = Setting(args.batch_size, args.depth, Precision(args.precision), args.compile, device)
    name = torch.cuda.get_device_name(device) if cuda else f"cpu, {torch.get_num_threads()} threads"
    table = Table(
        title=f"depth {args.depth}, {args.img_size} px in patches of {args.patch_size}, batch {args.batch_size}, "
        f"{setting.precision}{', compiled' if args.compile else ''}; {name}; medians of {args.turns} turns"
    )
    for column in (
        "width",
        "images/s",
        "rate against plain timm (target 0.95)",
        "expansion's share (target 5 %)",
        "half the depth, of a step",
        "TFLOP/s",
        "of the matrix rate (GPU target 0.5)",
    ):
        table.add_column(column)
    for size in args.sizes.split(","):
        named = VIT_SIZES[size]
        config = VitConfig(
            embed_dim=named.embed_dim,
            num_heads=named.num_heads,
            img_size=args.img_size,
            patch_size=args.patch_size,
            num_classes=_CLASSES,
        )
        table.add_row(size, *_row(measure(config, setting, args.turns), config, setting))
    Console(width=160).print(table)


def _row(times: dict[str, list[float]], config: VitConfig, setting: Setting) -> list[str]:
    def ratio(above: str, below: str) -> float:
        return statistics.median(a / b for a, b in zip(times[above], times[below], strict=True))

    step_s = statistics.median(times["auxiliary"])
    flops_s = 2 * 3 * cost(config, setting.depth).macs * setting.batch_size / step_s
    return [
        f"{setting.batch_size / step_s:.0f}",
        f"{ratio('plain', 'auxiliary'):.3f}",
        f"{ratio('expansion', 'auxiliary'):.1%}",
        f"{ratio('half depth', 'auxiliary'):.2f}",
        f"{flops_s / 1e12:.3g}",
        f"{flops_s / statistics.median(times['product flops/s']):.2f}",
    ]


if __name__ == "__main__":
    main()
