"""`tleg evaluate`: what it measures, prints, writes and draws, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from service.cli import evaluate
from tests.service.commands import assert_fits
from tleg_core.description import MAX_DATA_SETS, Description, Measurement, Method, Provenance
from tleg_core.designs.basis import Basis, basis_shapes
from tleg_core.errors import TlegError
from tleg_core.images import ImageSet, save_parquet
from tleg_core.interval import wilson
from tleg_core.learngene import Learngene
from tleg_core.schedule import Polynomial
from tleg_core.vit import VitConfig

app = typer.Typer()
app.command()(evaluate.evaluate)


def run(*words: object) -> Result:
    """Run the command in this process; a traceback other than ours fails the test."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit | TlegError):
        raise result.exception
    return result


@pytest.fixture
def bench(bars: ImageSet, tmp_path: Path) -> Path:
    """A folder with a random learngene of three depths, which has an accuracy already, and two sets of images."""
    config = VitConfig(embed_dim=32, num_heads=2, img_size=16, patch_size=8, num_classes=3)
    schedule = Polynomial(num_components=2)
    rng = np.random.default_rng(1)
    tensors = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in basis_shapes(config, 2).items()}
    description = Description(
        name="bars-gene",
        method=Method.TLEG,
        design=Basis(schedule=schedule, config=config, max_depth=3, trained_depth=3),
        provenance=Provenance(data_set="bars", ancestry="none", command="test", version="0", licence="none"),
        class_names=bars.class_names,
        accuracy=tuple(Measurement(depth=depth, data_set=name, top1=0.125, images=8) for name in "ab" for depth in (1, 3)),
    )
    Learngene.create(description, tensors).write(tmp_path / "gene.safetensors")
    save_parquet(bars, tmp_path / "a.parquet")
    save_parquet(bars.head(21), tmp_path / "c.parquet")
    return tmp_path


def test_several_sets_are_measured_and_written_beside_what_was_there(bench: Path) -> None:
    """Of the same member and set the new figure counts, all others stay, and the digest does not change."""
    before = Learngene.open(bench / "gene.safetensors")
    result = run(
        bench / "gene.safetensors", "--data", bench / "a.parquet", "--data", bench / "c.parquet", "--depths", "2-3", "--json"
    )
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    after = Learngene.open(bench / "gene.safetensors")
    assert (printed["learngene"], printed["digest"], printed["precision"]) == ("bars-gene", before.digest, "float32")
    assert after.digest == before.digest
    told = {(entry.data_set, entry.depth): (entry.top1, entry.images) for entry in after.description.accuracy}
    measured = {(entry["data_set"], entry["depth"]): (entry["top1"], entry["images"]) for entry in printed["data"]}
    assert measured.keys() == {("a", 2), ("a", 3), ("c", 2), ("c", 3)}
    assert told == {("a", 1): (0.125, 8), ("b", 1): (0.125, 8), ("b", 3): (0.125, 8)} | measured
    for entry in printed["data"]:
        assert (entry["top1"] * entry["images"]) == pytest.approx(round(entry["top1"] * entry["images"]))
        assert entry["interval"] == pytest.approx(wilson(entry["top1"], entry["images"]))


def test_the_table_has_costs_and_intervals_in_eighty_columns(bench: Path) -> None:
    """One table for each data set, one row for each depth."""
    result = run(bench / "gene.safetensors", "--data", bench / "a.parquet", "--data", bench / "c.parquet")
    assert_fits(result.stdout)
    assert_fits(result.stderr.replace(str(bench), ""))
    gene = Learngene.open(bench / "gene.safetensors")
    for name, images in (("a", 48), ("c", 21)):
        assert f"bars-gene on {name}, {images} images, 16 px, no fine-tuning" in result.stdout
    for entry in gene.description.accuracy:
        if entry.data_set != "b":
            low, high = wilson(entry.top1, entry.images)
            assert f"{100 * entry.top1:.2f} %  {100 * low:.2f} to {100 * high:.2f}" in result.stdout
    assert "accuracy written" in result.stderr


def test_bfloat16_is_for_the_asking_and_never_written(bench: Path) -> None:
    """The file's figures are float32's."""
    before = (bench / "gene.safetensors").read_bytes()
    result = run(bench / "gene.safetensors", "--data", bench / "a.parquet", "--bf16", "--json")
    assert json.loads(result.stdout)["precision"] == "bfloat16"
    assert "not written" in result.stderr
    assert (bench / "gene.safetensors").read_bytes() == before
    assert "write: is for float32 only" in str(
        run(bench / "gene.safetensors", "--data", bench / "a.parquet", "--bf16", "--write").exception
    )


def test_a_plot_is_drawn_and_no_write_leaves_the_file(bench: Path) -> None:
    """Both data sets stand in it."""
    before = (bench / "gene.safetensors").read_bytes()
    words = ("--data", bench / "a.parquet", "--data", bench / "c.parquet", "--limit", 20, "--no-write")
    result = run(bench / "gene.safetensors", *words, "--plot", bench / "depths.svg")
    assert result.exit_code == 0, result.output
    text = (bench / "depths.svg").read_text()
    assert all(f">{word}</text>" in text for word in ("a", "c", "bars-gene", "depth, blocks"))
    assert (bench / "gene.safetensors").read_bytes() == before


def test_a_file_without_room_for_more_data_sets_is_told_first(bench: Path) -> None:
    """Before anything is measured; a set that it has is measured again, and --no-write measures any."""
    path = bench / "gene.safetensors"
    names = ("a", *(f"set-{index}" for index in range(MAX_DATA_SETS - 1)))
    accuracy = tuple(Measurement(depth=1, data_set=name, top1=0.125, images=8) for name in names)
    Learngene.open(path).with_description(accuracy=accuracy).write(path)
    refused = run(path, "--data", bench / "c.parquet")
    assert "on 65 data sets, more than 64; --no-write" in str(refused.exception)
    assert refused.stdout == ""
    assert "bars-gene on c" in run(path, "--data", bench / "c.parquet", "--no-write").stdout
    assert "accuracy written" in run(path, "--data", bench / "a.parquet").stderr


def test_images_of_several_sizes_are_brought_to_the_networks(bench: Path, bars: ImageSet) -> None:
    """A folder of class folders, not kept in memory; the first few only where that is asked for."""
    for index, (image, label) in enumerate(zip(bars.images[:6], bars.labels[:6], strict=True)):
        folder = bench / "pictures" / f"{label}-{bars.class_names[label]}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).resize((16 + index, 16 + index)).save(folder / f"{index}.png")
    gene = Learngene.open(bench / "gene.safetensors")
    gene.with_description(class_names=("0-top", "1-middle", "2-bottom")).write(bench / "folders.safetensors")
    words = (bench / "folders.safetensors", "--data", bench / "pictures", "--json")
    assert [entry["images"] for entry in json.loads(run(*words).stdout)["data"]] == [6, 6, 6]
    assert [entry["images"] for entry in json.loads(run(*words, "--limit", 4).stdout)["data"]] == [4, 4, 4]


def test_a_shipped_learngene_is_measured_and_left_as_it_is(bench: Path, bars: ImageSet) -> None:
    """By its name; writing needs a path."""
    words = ("tleg-ti-fashion-mnist", "--data", bench / "clothes.parquet", "--depths", "1")
    clothes = replace(bars, class_names=tuple(f"{index}" for index in range(10)))
    save_parquet(clothes, bench / "clothes.parquet")
    assert "the classes of clothes are not those" in str(run(*words).exception)
    names = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
    save_parquet(replace(bars, class_names=names), bench / "clothes.parquet")
    assert "not written" in run(*words).stderr
    assert "is a shipped learngene: give the path" in str(run(*words, "--write").exception)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--depths", "4"), "depths: must lie within 1 to 3"),
        (("--limit", "0"), "limit: must be at least 1"),
        (("--batch-size", "0"), "batch_size: must be at least 1"),
        (("--plot", "depths.pdf"), "plot: must end in .png or .svg"),
        (("--data", "A/a.parquet"), "are both called 'a'"),
        (("--data", "other.parquet"), "the classes of other are not those"),
        (("--data", "four.parquet"), "four has 4 classes, the learngene 3"),
        (("--data", "nowhere.parquet"), "does not exist"),
        (("--device", "abacus"), "device: must be auto, cpu, cuda or one of several as cuda:1, not 'abacus'"),
    ],
)
def test_what_means_nothing_is_refused_before_anything_is_measured(
    bench: Path, bars: ImageSet, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    """One clear error; the file stays as it was, and nothing is printed."""
    monkeypatch.chdir(bench)
    (bench / "A").mkdir()
    save_parquet(bars, bench / "A" / "a.parquet")
    save_parquet(replace(bars, class_names=("bottom", "middle", "top")), bench / "other.parquet")
    save_parquet(replace(bars, class_names=("a", "b", "c", "d")), bench / "four.parquet")
    before = (bench / "gene.safetensors").read_bytes()
    result = run("gene.safetensors", "--data", "a.parquet", *words)
    assert isinstance(result.exception, TlegError)
    assert message in str(result.exception)
    assert (bench / "gene.safetensors").read_bytes() == before
    assert result.stdout == ""
