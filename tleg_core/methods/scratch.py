"""From scratch: timm's own initialisation, drawn with a seed. The one initialiser that needs torch and timm."""

from __future__ import annotations

from tleg_core.tensor_source import Array
from tleg_core.training.network import Network
from tleg_core.vit import VitConfig, timm_architecture, timm_model_args


def initialise(config: VitConfig, depth: int, *, seed: int) -> dict[str, Array]:
    """Return timm's fresh weights of the depth-`depth` network: linear weights normal with standard deviation 0.02, cut."""
    architecture, model_args = timm_architecture(config), timm_model_args(config, depth)
    network = Network(architecture=architecture, model_args=model_args, num_classes=config.num_classes)
    model = network.build(drop_path=0.0, seed=seed)
    return {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}
