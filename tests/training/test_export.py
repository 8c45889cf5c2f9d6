"""Exported networks: files that run without this package, and compute what the network computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import onnx
import onnxruntime
import pytest
import timm
import torch
from torch import Tensor, nn

from tests.training.test_stitched_vit import build, images, stack
from tleg_core.description import Preprocessing
from tleg_core.stack import Stack, Stage
from tleg_core.training import export
from tleg_core.training.errors import ExportError
from tleg_core.training.export import METADATA_FILE, OPSET, ExportMetadata, export_onnx, export_program

METADATA = ExportMetadata(
    name="m-1", preprocessing=Preprocessing(), class_names=("a", "b", "c", "d", "ü"), recipe="12ab", licence="Apache-2.0"
)
FORMATS: dict[str, Callable[..., float]] = {".pt2": export_program, ".onnx": export_onnx}
Exported: TypeAlias = dict[tuple[str, str], tuple[Path, float]]

pytestmark = pytest.mark.filterwarnings("default")  # the exporters' own, of other packages


STITCHED = Stack(tuple(Stage(config=stage.config, depth=1) for stage in stack(class_token=True).stages))
PLAIN = Stack.plain(stack().config, 1)


def fresh(of: Stack) -> nn.Module:
    """Return a network, its head's bias not zero, in training mode and with drop path."""
    model: nn.Module = build(of, drop_path_rate=0.5).train()
    nn.init.constant_(model.get_parameter("head.bias"), 0.25)
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Each kind of network in each format, and the deviation that was found."""
    folder = tmp_path_factory.mktemp("exported")
    files: Exported = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters' own, of other packages
        for kind, of in (("plain", PLAIN), ("stitched", STITCHED)):
            for suffix, function in FORMATS.items():
                path = folder / f"{kind}{suffix}"
                files[kind, suffix] = path, function(fresh(of), of, path, METADATA)
    return files


def logits_of(path: Path, batch: Tensor) -> Tensor:
    """Return a file's logits, by torch or ONNX Runtime alone."""
    if path.suffix == ".pt2":
        with path.open("rb") as stream:
            out: Tensor = torch.export.load(stream).module()(batch)
        return out
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"images": batch.numpy()})[0])


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(("kind", "of"), [("plain", PLAIN), ("stitched", STITCHED)])
def test_a_file_computes_what_the_network_computes(exported: Exported, suffix: str, kind: str, of: Stack) -> None:
    """For any number of images, as in evaluation."""
    path, deviation = exported[kind, suffix]
    assert 0.0 <= deviation < 1e-5
    model = fresh(of).eval()
    for count in (1, 2, 5):
        with torch.no_grad():
            torch.testing.assert_close(logits_of(path, images(count)), model(images(count)), atol=1e-5, rtol=1e-4)


def test_the_network_stays_as_it_was(tmp_path: Path) -> None:
    """In training mode, with its gradients, its attention and its weights."""
    model: Any = fresh(STITCHED)
    model.blocks[0].attn.fused_attn = False
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export_program(model, STITCHED, tmp_path / "model.pt2")
    assert model.training
    assert not model.blocks[0].attn.fused_attn
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_half_precision_network_is_exported_with_its_rounded_weights(tmp_path: Path) -> None:
    """In float32, to the numbers that its dtype has."""
    model = fresh(STITCHED).to(torch.bfloat16)
    export_program(model, STITCHED, tmp_path / "model.pt2")
    with (tmp_path / "model.pt2").open("rb") as stream:
        weights = torch.export.load(stream).state_dict
    assert all(torch.equal(weights[name], tensor.float()) for name, tensor in model.state_dict().items())


def test_a_program_holds_no_pickle_and_no_folder_of_this_machine(exported: Exported) -> None:
    """JSON and raw bytes; the one entry that torch would pickle, the example inputs, is empty."""
    path, _ = exported["stitched", ".pt2"]
    with zipfile.ZipFile(path) as archive:
        content = {name.removeprefix("archive/"): archive.read(name) for name in archive.namelist()}
    pickles = [name for name, data in content.items() if name.endswith((".pt", ".pkl")) and data]
    assert pickles == []
    assert content["data/sample_inputs/model.pt"] == b""
    weights = json.loads(content["data/weights/model_weights_config.json"])["config"]
    assert not any(entry["use_pickle"] for entry in weights.values())
    own = fresh(STITCHED).state_dict()
    assert content[f"data/weights/{weights['stitches.0.weight']['path_name']}"] == own["stitches.0.weight"].numpy().tobytes()
    root = str(Path(__file__).parents[2]).encode()
    assert not any(root in data for data in content.values())
    assert json.loads(content["models/model.json"])["range_constraints"].popitem()[1] == {"min_val": 1, "max_val": None}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("archive/data/sample_inputs/model.pt", b"pickled"),
        ("archive/data/weights/model_weights_config.json", b'{"config": {"norm.weight": {"use_pickle": true}}}'),
    ],
)
def test_a_program_with_a_pickle_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    """As older versions of torch write them."""
    with zipfile.ZipFile(tmp_path / "model.pt2", "w") as archive:
        archive.writestr(name, content)
    with pytest.raises(ExportError, match="would pickle"):
        export._refuse_pickles(tmp_path / "model.pt2")


def test_a_program_says_what_it_is(exported: Exported) -> None:
    """In an extra file that torch reads."""
    extra = {METADATA_FILE: ""}
    with exported["stitched", ".pt2"][0].open("rb") as stream:
        torch.export.load(stream, extra_files=extra)
    found = json.loads(extra[METADATA_FILE])
    assert found["class_names"] == ["a", "b", "c", "d", "ü"]
    assert (found["mean"], found["input_size"], found["recipe"]) == ([0.5, 0.5, 0.5], [3, 16, 16], "12ab")


@pytest.mark.slow
def test_a_program_runs_where_neither_this_package_nor_timm_is(exported: Exported, tmp_path: Path) -> None:
    """In a process whose imports of them fail."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('tleg_core', 'timm', 'service')))\n"
        "import torch; print(torch.export.load(sys.argv[1]).module()(torch.ones(3, 3, 16, 16)).tolist())"
    )
    path, _ = exported["stitched", ".pt2"]
    done = subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True, text=True, cwd=tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), fresh(STITCHED).eval()(torch.ones(3, 3, 16, 16)))


def test_an_onnx_file_is_whole_and_says_what_it_is(exported: Exported) -> None:
    """One input and one output of any batch size, the stated operators, the initialisers inside, metadata for its use."""
    path, _ = exported["stitched", ".onnx"]
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    shapes = {
        end.name: [dim.dim_param or dim.dim_value for dim in end.type.tensor_type.shape.dim]
        for end in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"images": ["batch", 3, 16, 16], "logits": ["batch", 5]}
    assert not any(onnx.external_data_helper.uses_external_data(tensor) for tensor in model.graph.initializer)
    assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()
    facts = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).get_modelmeta().custom_metadata_map
    assert (facts["name"], facts["recipe"], facts["license"]) == ("m-1", "12ab", "Apache-2.0")
    assert "license" not in replace(METADATA, licence="").to_json(STITCHED)  # not stated
    assert json.loads(facts["class_names"])[-1] == "ü"
    assert json.loads(facts["std"]) == [0.5, 0.5, 0.5]
    assert json.loads(facts["model_args"]) == STITCHED.model_args


def test_what_is_not_known_is_not_said() -> None:
    """No name, no preprocessing, no recipe; the shape of the input always."""
    assert ExportMetadata().to_json(PLAIN).keys() == {"architecture", "model_args", "input_size", "num_classes"}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FORMATS)
def test_the_same_weights_give_the_same_file(exported: Exported, tmp_path: Path, suffix: str) -> None:
    """In another process, under another name, with another seed of Python's hashes and another kind of attention."""
    code = (
        "import sys; from pathlib import Path; from tests.training.test_export import *\n"
        "FORMATS[sys.argv[2]](fresh(STITCHED), STITCHED, Path(sys.argv[1]), METADATA)"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "TIMM_FUSED_ATTN": "0"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", code, tmp_path / "other", suffix], check=True, env=environment)
    assert (tmp_path / "other").read_bytes() == exported["stitched", suffix][0].read_bytes()


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_that_computes_something_else_does_not_come_into_being(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has the deviation; what stood under the name before stays."""
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"before")
    real = export._trace

    def wrong(kind: str, network: nn.Module, of: Stack) -> Any:
        program = real(kind, network, of)
        program.state_dict["head.bias"] = nn.Parameter(program.state_dict["head.bias"] + 1.0, requires_grad=False)
        return program

    monkeypatch.setattr(export, "_trace", wrong)
    with pytest.raises(ExportError) as error:
        FORMATS[suffix](fresh(STITCHED), STITCHED, path)
    assert error.value.deviation == pytest.approx(1.0, abs=1e-3)
    assert error.value.kind == ("program" if suffix == ".pt2" else "onnx")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_logits_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    """Of a network that was destroyed, nothing is exported."""
    model = fresh(STITCHED)
    nn.init.constant_(model.get_parameter("norm.weight"), float("nan"))
    with pytest.raises(ExportError, match="not finite"):
        export_program(model, STITCHED, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_network_beyond_protobufs_limit_is_refused_at_once(tmp_path: Path) -> None:
    """Before anything is computed: the weights stand on no device."""
    with torch.device("meta"):
        model = timm.create_model("vit_huge_patch14_224", num_classes=1000)
    with pytest.raises(ExportError, match="2 GB"):
        export_onnx(model, PLAIN, tmp_path / "model.onnx")


def test_a_network_that_torch_cannot_export_is_named(tmp_path: Path) -> None:
    """One whose computation depends on the data."""

    class Choosy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :5] if float(x.sum()) > 0 else x.flatten(1)[:, 5:10]

    for suffix, function in FORMATS.items():
        with pytest.raises(ExportError, match="torch cannot export"):
            function(Choosy(), PLAIN, tmp_path / f"model{suffix}")
