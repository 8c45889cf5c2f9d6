"""Unmodified clients of the Hub, run as `python -m tests.service.hub_clients NAME ARGUMENT...` in a process of their own.

They read `HF_ENDPOINT` when they are imported, so it must be set before; each is imported only where it is used. A function
prints one JSON value.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def huggingface_hub(repo: str) -> dict[str, Any]:
    """Use every call of huggingface_hub that HUB.md lists."""
    import huggingface_hub as hub  # noqa: PLC0415
    from huggingface_hub import errors  # noqa: PLC0415

    def error(call: Any) -> str:
        try:
            call()
        except Exception as raised:  # its type is the result
            return next(name for name in expected if isinstance(raised, getattr(errors, name)))
        return "none"

    expected = ("EntryNotFoundError", "RevisionNotFoundError", "RepositoryNotFoundError", "HfHubHTTPError")

    path = Path(hub.hf_hub_download(repo, "model.safetensors"))
    snapshot = Path(hub.snapshot_download(repo))
    info = hub.model_info(repo)
    pinned = Path(hub.snapshot_download(repo, revision=info.sha))
    metadata = hub.get_safetensors_metadata(repo)
    entries = {entry.path: entry for entry in hub.HfApi().list_repo_tree(repo)}
    unknown = repo.split("/", maxsplit=1)[0] + "/m-" + "0" * 32
    return {
        "path": str(path),
        "snapshot": sorted(file.name for file in snapshot.iterdir()),
        "pinned": str(pinned) == str(snapshot),
        "sha": info.sha,
        "siblings": sorted(sibling.rfilename for sibling in info.siblings),
        "parameters": sum(metadata.parameter_count.values()),
        "exists": [hub.repo_exists(repo), hub.repo_exists(unknown), hub.file_exists(repo, "config.json")],
        "lfs_sha256": entries["model.safetensors"].lfs.sha256,
        "sizes": {name: entry.size for name, entry in entries.items()},
        "errors": [
            error(lambda: hub.hf_hub_download(repo, "pytorch_model.bin")),
            error(lambda: hub.hf_hub_download(repo, "config.json", revision="nothing")),
            error(lambda: hub.hf_hub_download(repo, "config.json", revision="0" * 40)),
            error(lambda: hub.model_info(unknown)),
            error(lambda: hub.snapshot_download(unknown)),
            error(lambda: hub.hf_hub_download("somebody/else", "config.json")),
            error(lambda: hub.model_info(repo, revision="nothing")),
        ],
    }


def download(repo: str) -> str:
    """Download the weights and return where they lie."""
    import huggingface_hub as hub  # noqa: PLC0415

    return hub.hf_hub_download(repo, "model.safetensors")


def model_libraries(repo: str, readable: str, commit: str, by_hand: str) -> dict[str, Any]:
    """Load a model with timm and transformers; return what they make of the same images."""
    import timm  # noqa: PLC0415
    import torch  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415
    from transformers import AutoModelForImageClassification  # noqa: PLC0415

    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def logits(network: torch.nn.Module, images: torch.Tensor = images) -> list[list[float]]:
        with torch.inference_mode():
            output = network.eval()(images)
        tensor: torch.Tensor = getattr(output, "logits", output)
        return [[float(number) for number in row] for row in tensor]

    loaded = timm.create_model(f"hf-hub:{repo}", pretrained=True)
    config = timm.create_model(f"hf-hub:{repo}", pretrained=False).pretrained_cfg
    manual = timm.create_model(
        "vit_tiny_patch16_224",
        num_classes=10,
        img_size=32,
        patch_size=8,
        embed_dim=32,
        num_heads=2,
        depth=len(loaded.blocks),
        class_token=False,
        global_pool="avg",
        fc_norm=False,
    )
    manual.load_state_dict(load_file(by_hand), strict=True)
    transformed = AutoModelForImageClassification.from_pretrained(repo)
    larger = timm.create_model(f"hf-hub:{repo}", pretrained=True, img_size=64)
    other_head = timm.create_model(f"hf-hub:{repo}", pretrained=True, num_classes=3)
    return {
        "by hand": logits(manual),
        "timm": logits(loaded),
        "timm, pinned": logits(timm.create_model(f"hf-hub:{repo}@{commit}", pretrained=True)),
        "timm, by its readable name": logits(timm.create_model(f"hf-hub:{readable}", pretrained=True)),
        "transformers": logits(transformed),
        "labels": list(transformed.config.id2label.values()),
        "mean": list(config["mean"]),
        "other head": list(other_head.head.weight.shape),
        "other head's blocks": bool(torch.equal(other_head.blocks[1].mlp.fc1.weight, loaded.blocks[1].mlp.fc1.weight)),
        "larger": len(logits(larger, torch.rand(1, 3, 64, 64))[0]),
    }


def stitched(*repos_and_files: str) -> dict[str, Any]:
    """Load networks of changing width: refused by timm alone, and after the card's import equal to the files."""
    import huggingface_hub as hub  # noqa: PLC0415
    import timm  # noqa: PLC0415
    import torch  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415
    from transformers import AutoModelForImageClassification  # noqa: PLC0415

    def without_the_import(repo: str) -> str:
        try:
            timm.create_model(f"hf-hub:{repo}", pretrained=True)
        except RuntimeError as error:
            return str(error)
        return "loaded"

    refusal = without_the_import(repos_and_files[0])
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    loaded = []
    for repo, by_hand in zip(repos_and_files[::2], repos_and_files[1::2], strict=True):
        example = hub.ModelCard.load(repo).text.split("```python", 1)[1].split("```", 1)[0]
        names: dict[str, Any] = {}
        exec(example.split("transform =")[0], names)  # noqa: S102 (what a user would paste)
        model, stored = names["model"], load_file(by_hand)
        state = model.state_dict()
        wrapped = AutoModelForImageClassification.from_pretrained(repo)
        with torch.inference_mode():
            outputs = model.eval()(images), wrapped.eval()(images).logits
        loaded.append(
            {
                "equal": state.keys() == stored.keys() and all(torch.equal(state[name], stored[name]) for name in stored),
                "difference": float((outputs[0] - outputs[1]).abs().max()),
                "shape": list(outputs[0].shape),
                "pretrained": model.pretrained_cfg["input_size"],
            }
        )
    return {"refusal": refusal, "loaded": loaded}


def fine_tuned(*repos_and_files: str) -> list[dict[str, Any]]:
    """Load fine-tuned models with timm and transformers, and use each as its card says; the files are what they must equal."""
    import huggingface_hub as hub  # noqa: PLC0415
    import timm  # noqa: PLC0415
    import torch  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415
    from transformers import AutoModelForImageClassification  # noqa: PLC0415

    os.chdir(os.environ["HF_HOME"])
    Image.new("RGB", (40, 30), (200, 30, 90)).save("image.jpg")
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def used(repo: str, by_hand: str) -> dict[str, Any]:
        stored = load_file(by_hand)
        model = timm.create_model(f"hf-hub:{repo}", pretrained=True)
        transformed = AutoModelForImageClassification.from_pretrained(repo)
        card = hub.ModelCard.load(repo)
        example = card.text.split("```python", 1)[1].split("```", 1)[0]
        shown: list[Any] = []
        exec(example, {"print": lambda *values: shown.extend(values)})  # noqa: S102 (what a user would paste)
        state = model.state_dict()
        with torch.inference_mode():
            outputs = model.eval()(images), transformed.eval()(images).logits
        return {
            "equal": state.keys() == stored.keys() and all(torch.equal(state[name], stored[name]) for name in stored),
            "difference": float((outputs[0] - outputs[1]).abs().max()),
            "labels": list(model.pretrained_cfg["label_names"]),
            "transformers' labels": [transformed.config.id2label[index] for index in range(len(transformed.config.id2label))],
            "shown": shown,
            "snapshot": sorted(file.name for file in Path(hub.snapshot_download(repo)).iterdir()),
            "downloaded": hub.hf_hub_download(repo, "model.safetensors"),
            "base": card.data.base_model,
            "results": [[result.dataset_name, result.metric_type, result.metric_value] for result in card.data.eval_results],
            "lfs": next(entry.lfs.sha256 for entry in hub.HfApi().list_repo_tree(repo) if entry.path == "model.safetensors"),
            "tags": hub.model_info(repo).tags,
        }

    return [used(*pair) for pair in zip(repos_and_files[::2], repos_and_files[1::2], strict=True)]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])) + "\n")
