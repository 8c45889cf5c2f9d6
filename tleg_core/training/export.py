"""Networks as files that run without this package: a `torch.export` program (`.pt2`), or ONNX.

Either computes logits (B, C) of normalised images (B, in_chans, img_size, img_size), float32, for any B from 1; no file comes
into being whose logits are not those of the network itself. Half-precision descendants are exported in float32, with the
weights that their dtype rounded: the numbers are theirs, and every runtime can run them. The same weights give the same bytes
with the same versions of torch and onnxscript, on any machine: the form of attention is fixed, and what names this machine's
folders is left out.

A program is a zip of JSON (the graph, the weights' names and shapes) and raw bytes (the weights). Nothing in it is pickled:
torch would pickle the example inputs, so there are none. In ONNX the initialisers are inside the file, which protobuf limits to
2 GB.

Shape legend: B images, C classes.
"""

from __future__ import annotations

import copy
import json
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from tleg_core.atomic_file import atomic_file
from tleg_core.canonical import canonical_json
from tleg_core.description import Preprocessing
from tleg_core.stack import Stack
from tleg_core.training.errors import ExportError, ExportTooLargeError

OPSET = 18
"""Version of ONNX's operators: the first that torch's exporter writes without converting, and old enough for any runtime."""

TOLERANCE = 1e-4
"""Largest deviation from the network's logits, as a share of the largest logit or of 1: float32 sums in another order."""

METADATA_FILE = "metadata.json"
"""Where a program's metadata stand, as one of `torch.export.load`'s extra files."""

_PROTOBUF_LIMIT_BYTES = 2**31 - 1
_GRAPH_BYTES = 2**24  # of an ONNX file beside its weights: 5 kB a block, so far more than any of ours has
_BATCH_SIZES = (1, 3)  # what exports are verified with; they are made with another one
_TRACED_BATCH_SIZE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportMetadata:
    """What a file says of itself, so that its network can be used by the file alone.

    Args:
        name: The model's id or name.
        preprocessing: How images become the network's input; None where nobody knows.
        class_names: The outputs' names, in their order, or none.
        recipe: The digest of the recipe that the weights follow, or None.
        licence: Of the weights; None or empty where none is stated.
    """

    name: str = ""
    preprocessing: Preprocessing | None = None
    class_names: tuple[str, ...] = ()
    recipe: str | None = None
    licence: str | None = None

    def to_json(self, stack: Stack) -> dict[str, Any]:
        """Return what is known as a JSON object, in timm's names."""
        config, preprocessing = stack.config, self.preprocessing
        values: dict[str, Any] = {
            "name": self.name or None,
            "architecture": stack.architecture,
            "model_args": stack.model_args,
            "input_size": [config.in_chans, config.img_size, config.img_size],
            "num_classes": config.num_classes,
            "class_names": list(self.class_names) or None,
            "recipe": self.recipe,
            "license": self.licence or None,
        }
        if preprocessing is not None:
            values |= asdict(preprocessing)
        return {name: value for name, value in values.items() if value is not None}


def export_program(network: nn.Module, stack: Stack, path: Path, metadata: ExportMetadata | None = None) -> float:
    """Write a `torch.export` program and return the largest deviation of its logits.

    `torch.export.load(path).module()(images)` gives the logits, as in evaluation, without any code but torch.

    Args:
        network: A network of `stack`, with its weights, on any device and in any mode; it stays as it is.
        stack: What it is.
        path: The file, `.pt2`; it is there whole or not at all.
        metadata: What it says of itself, as the extra file `METADATA_FILE`.

    Raises:
        ExportError: torch cannot export it, or the file computes something else.
        OSError: The file cannot be written.
    """
    model = _frozen(network, fused=True)
    program = _trace("program", model, stack)
    program.example_inputs = None
    content = canonical_json((metadata or ExportMetadata()).to_json(stack)).decode()
    with atomic_file(path) as file:
        # a stream, since torch would write the name of a path into the file
        with Path(file.name).open("r+b") as stream:
            torch.export.save(program, stream, extra_files={METADATA_FILE: content})
        _refuse_pickles(Path(file.name))
        with Path(file.name).open("rb") as stream:
            loaded = torch.export.load(stream)
        deviation = _verify("program", model, stack, loaded.module())
        for name, tensor in model.state_dict().items():
            if not torch.equal(loaded.state_dict[name], tensor):
                raise ExportError("program", f"the tensor {name} is not the network's")
        return deviation


def export_onnx(network: nn.Module, stack: Stack, path: Path, metadata: ExportMetadata | None = None) -> float:
    """Write an ONNX file with the input `images`, the output `logits`, and return the largest deviation of its logits.

    The logits are those that ONNX Runtime computes on the CPU.

    Args:
        network: A network of `stack`, with its weights, on any device and in any mode; it stays as it is.
        stack: What it is.
        path: The file, `.onnx`; it is there whole or not at all.
        metadata: What it says of itself, as the model's metadata properties: texts, or JSON.

    Raises:
        ExportTooLargeError: It is too large for one file.
        ExportError: It cannot be exported, or the file computes something else.
        OSError: The file cannot be written.
    """
    import onnxruntime  # noqa: PLC0415 - loaded where it is needed: it takes a second, and training does without

    size_bytes = sum(tensor.numel() * 4 for tensor in network.state_dict().values())
    if size_bytes > _PROTOBUF_LIMIT_BYTES - _GRAPH_BYTES:
        raise ExportTooLargeError(
            "onnx", f"the weights take {size_bytes:,} bytes, and one file holds less than 2 GB; a program has no limit"
        )
    model = _frozen(network, fused=False)
    content = _onnx_bytes(_trace("onnx", model, stack), (metadata or ExportMetadata()).to_json(stack))
    with atomic_file(path) as file:
        file.write(content)
        file.flush()
        del content  # as large as the weights, and so is what is loaded next
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            session = onnxruntime.InferenceSession(file.name, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ExportError("onnx", f"ONNX Runtime does not load it: {_first_line(error)}") from error

        def run(images: Tensor) -> Tensor:
            return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

        return _verify("onnx", _frozen(network, fused=True), stack, run)


def _frozen(network: nn.Module, *, fused: bool) -> nn.Module:
    """Return the network for evaluation on the CPU in float32, sharing the weights that are so already.

    Args:
        network: What is exported.
        fused: Whether attention is one operator, whose kernel the machine that runs it chooses, or plain products.
    """
    own: dict[int, Any] = {}
    for parameter in network.parameters():
        own[id(parameter)] = nn.Parameter(parameter.detach().to("cpu", torch.float32), requires_grad=False)
    for buffer in network.buffers():
        own[id(buffer)] = buffer.detach().to("cpu", torch.float32 if buffer.is_floating_point() else buffer.dtype)
    model: Any = copy.deepcopy(network, own).eval()
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    return model  # type: ignore[no-any-return]


def _trace(kind: str, model: nn.Module, stack: Stack) -> ExportedProgram:
    """Return the network's program for any number of images, without the folders of this machine."""
    config = stack.config
    example = torch.zeros(_TRACED_BATCH_SIZE, config.in_chans, config.img_size, config.img_size)
    try:
        program = torch.export.export(model, (example,), dynamic_shapes=({0: Dim("batch", min=1)},), strict=False)
    except RuntimeError as error:
        raise ExportError(kind, f"torch cannot export it: {_first_line(error)}") from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _refuse_pickles(path: Path) -> None:
    """Raise `ExportError` where the archive holds a pickle, as those of older versions of torch do."""
    with zipfile.ZipFile(path) as archive:
        pickled = [entry.filename for entry in archive.infolist() if entry.filename.endswith(".pt") and entry.file_size]
        for name in archive.namelist():
            if name.endswith("_config.json"):
                entries = json.loads(archive.read(name))["config"]
                pickled += [tensor for tensor, entry in entries.items() if entry["use_pickle"]]
    if pickled:
        raise ExportError("program", f"torch {torch.__version__} would pickle {pickled[0]}, which newer versions do not")


def _onnx_bytes(program: ExportedProgram, metadata: dict[str, Any]) -> bytes:
    """Return the program as ONNX, its initialisers included; metadata that are no text become JSON."""
    try:
        translated = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["logits"],
            opset_version=OPSET,
        )
    except RuntimeError as error:
        raise ExportError("onnx", f"torch cannot export it: {_first_line(error)}") from error
    assert translated is not None  # noqa: S101 - it is for the other exporter alone
    proto = translated.model_proto
    del translated
    for end in (*proto.graph.input, *proto.graph.output):
        end.type.tensor_type.shape.dim[0].dim_param = "batch"
    del proto.graph.value_info[:]  # shapes in between, in torch's symbols: a runtime derives them
    for item in (proto, proto.graph, *proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del item.metadata_props[:]  # names of our own modules, and lines of code
    for name, value in metadata.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


@torch.no_grad()
def _verify(kind: str, network: nn.Module, stack: Stack, run: Callable[[Tensor], Tensor]) -> float:
    """Return the largest deviation of `run`'s logits from the network's on noise.

    Raises:
        ExportError: It is above `TOLERANCE`, or logits are not finite.
    """
    config, generator = stack.config, torch.Generator().manual_seed(0)
    worst = 0.0
    for count in _BATCH_SIZES:
        images = torch.randn(count, config.in_chans, config.img_size, config.img_size, generator=generator)
        expected: Tensor = network(images)
        if not expected.isfinite().all():
            raise ExportError(kind, "the network's own logits are not finite")
        found = run(images)
        if found.shape != expected.shape:
            raise ExportError(kind, f"gives {tuple(found.shape)} for {count} images, not {tuple(expected.shape)}")
        deviation = float((found - expected).abs().max())
        if not deviation <= TOLERANCE * max(1.0, float(expected.abs().max())):
            raise ExportError(kind, f"its logits deviate by {deviation:.3g} from the network's", deviation=deviation)
        worst = max(worst, deviation)
    return worst


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
