"""The command line on members of every design: along paths, with inherited layers, from scratch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from service.cli.console import compact
from service.client import Client
from service.storage.learngene_registry import shipped_paths
from tests.service import tiny
from tests.service.commands import Tleg, assert_fits, assert_one_line_error
from tests.service.server import ServerProcess
from tleg_core.family import Family, Variation
from tleg_core.learngene import Learngene
from tleg_core.path import Path as PoolPath

STITCHED = "0.0-1_1.3-3"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of a pool, of inherited layers and of scratch."""
    return tiny.write_other_designs(tmp_path_factory.mktemp("designs"))


@pytest.fixture(scope="module")
def served(server: ServerProcess, files: list[Path]) -> Iterator[ServerProcess]:
    """The server, on which they are published meanwhile."""
    with Client(server.url) as client:
        published = [client.publish_learngene(path) for path in files]
        yield server
        for item in published:
            client.delete_learngene(item.id)


@pytest.mark.usefixtures("served")
def test_expand_writes_what_a_server_sends(online: Tleg, files: list[Path], tmp_path: Path) -> None:
    """A stitched member by its path, byte for byte, in another element type and with another head too."""
    for options in ((), ("--dtype", "bfloat16", "--num-classes", 3, "--head", "random", "--seed", 7)):
        local = online("expand", files[0], "--path", STITCHED, "-o", tmp_path / "here", *options)
        arguments = ("models", "create", "--learngene", "tiny-pool", "--path", STITCHED, "-o", tmp_path / "there")
        created = online(*arguments, *options)
        assert (local.code, created.code) == (0, 0), (local, created)
        assert_fits(created.out)
        assert STITCHED in created.out.replace("\n", "")
        assert (tmp_path / "here").read_bytes() == (tmp_path / "there").read_bytes()


@pytest.mark.usefixtures("served")
def test_a_stitched_model_is_shown_and_listed(online: Tleg) -> None:
    """With its path, and with the import that timm needs."""
    model = online("models", "create", "--learngene", "tiny-pool", "--path", STITCHED, "--json").json
    assert model["member"] == {"depth": 3, "path": STITCHED}
    shown = online("models", "get", model["id"])
    for text in (STITCHED, "import tleg_core.training.stitched_vit"):
        assert text in shown.out
    listed = online("models", "list", "--limit", 3)
    assert_fits(listed.out)
    assert f"tiny-pool {STITCHED}" in listed.out


@pytest.mark.usefixtures("served")
def test_learngenes_of_every_design_are_shown(online: Tleg) -> None:
    """A pool with anchors and paths, a choice of layers with its evidence; each fits a terminal."""
    pool = online("learngenes", "show", "tiny-pool").out
    for text in (
        "0 narrow (width 32, depth 3), 1 wide (width 48, depth 4)",
        "width 32, 48",
        "0.0-0_1.1-1_0.2-2",
        "70.00 % shapes",
    ):
        assert text in re.sub(r"\s+", " ", pool)
    chosen = online("learngenes", "show", "tiny-inherited").out
    assert "1, 3, chosen so: the two highest" in chosen
    assert "1: 0.7" in chosen
    listed = online("learngenes", "list")
    assert re.search(r"tiny-pool +pool +3-4 +45.2k-124k +80.00 % \[\d\] +published", listed.out)
    for output in (pool, chosen, listed.out, online("learngenes", "show", "tiny-scratch").out):
        assert_fits(output)


def test_a_budget_among_paths(tleg: Tleg, files: list[Path]) -> None:
    """Which members fit, which is chosen; with a path no other fits."""
    arguments = ("budget", "--learngene-file", files[0], "--learngene", "tiny-pool")
    table = tleg(*arguments, "--max-params", "100k", "--depth", 4)
    assert_fits(table.out + table.err)
    assert re.search(r"tiny-pool p0\.0-1_1\.2-3 .* chosen", table.out)
    rows = tleg(*arguments, "--path", STITCHED, "--json").json
    assert [row["member"]["path"] for row in rows if row["fits"]] == [STITCHED]
    assert [row["member"]["path"] for row in rows if row["chosen"]] == [STITCHED]


def test_long_paths_fit_a_terminal(tleg: Tleg, tmp_path: Path) -> None:
    """A path of many segments folds; the numbers stay on one line."""
    segments = [f"{index % 2}.{index}-{index}" for index in range(12)]
    anchors = tuple(replace(anchor, depth=12) for anchor in tiny.POOL.anchors)
    ways = [replace(tiny.POOL.stitches[0], joins=tuple((index, index + 1) for index in range(0, 11, 2)))]
    ways.append(replace(ways[0], source=1, target=0, joins=tuple((index, index + 1) for index in range(1, 11, 2))))
    path = PoolPath.parse("_".join(segments))
    design = replace(tiny.POOL, anchors=anchors, stitches=tuple(ways), paths=(path,))
    family = Family(tiny.pool("winding-pool", design))
    family.learngene.write(tmp_path / "pool.safetensors")
    for arguments in (
        ("inspect", tmp_path / "pool.safetensors"),
        ("budget", "--learngene-file", tmp_path / "pool.safetensors", "--method", "pool"),
    ):
        shown = tleg(*arguments)
        assert shown.code == 0, shown
        assert_fits(shown.out)
        assert compact(family.candidates(Variation())[-1].cost.macs) in shown.out


def test_inspect_shows_every_design(tleg: Tleg, files: list[Path]) -> None:
    """Anchors, inherited layers and their scores, or that nothing is stored."""
    for path, text in zip(files, ("stitched paths", "the two highest", "nothing stored"), strict=True):
        shown = tleg("inspect", path)
        assert shown.code == 0
        assert text in re.sub(r"\s+", " ", shown.out)
        assert_fits(shown.out)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "give one of them"),
        (("--depth", 3, "--path", STITCHED), "give one of them"),
        (("--depth", 3), "a path does"),
        (("--path", "0.0-9"), "none of this pool's"),
        (("--path", "../x"), "must be like"),
    ],
)
def test_expand_says_what_is_wrong_with_a_member(
    tleg: Tleg, files: list[Path], tmp_path: Path, options: tuple[object, ...], says: str
) -> None:
    """One line, and no file."""
    assert_one_line_error(tleg("expand", files[0], "-o", tmp_path / "x", *options), says)
    assert not (tmp_path / "x").exists()


@pytest.mark.usefixtures("served")
def test_a_wrong_path_in_a_budget_names_the_option(online: Tleg) -> None:
    """Before a server is asked, where its form is wrong; by the server, where there is no such member."""
    assert_one_line_error(online("models", "create", "--path", "x"), "--path", "must be like")
    assert_one_line_error(
        online("models", "create", "--path", "0.0-9"), "budget.path", "no member's", "`tleg learngenes show NAME`"
    )
    assert_one_line_error(online("fine-tunes", "create", "--dataset", "ds-1", "--path", "x"), "path", "must be like")


def test_scratch_writes_a_learngene_like_another(tleg: Tleg, files: list[Path], tmp_path: Path) -> None:
    """With its networks, preprocessing and classes; of a pool its widest, up to its deepest."""
    out = tmp_path / "plain-start.safetensors"
    assert tleg("scratch", "--out", out, "--like", files[0]).code == 0
    found, pool = Learngene.open(out), Learngene.open(files[0])
    assert (found.name, found.num_params) == ("plain-start", 0)
    assert found.description.config == pool.description.config
    assert found.description.class_names == pool.description.class_names
    assert [member.depth for member in found.description.design.members] == [1, 2, 3, 4]
    other = tleg("scratch", "--out", out, "--like", files[0], "--num-classes", 3, "--max-depth", 20, "--name", "xx")
    assert other.code == 0
    changed = Learngene.open(out).description
    assert (changed.name, changed.config.num_classes, changed.class_names) == ("xx", 3, ())
    assert changed.design.members[-1].depth == 20


def test_scratch_writes_a_learngene_of_a_named_size(tleg: Tleg, tmp_path: Path) -> None:
    """And says which option is wrong."""
    out = tmp_path / "start.safetensors"
    size = ("--size", "tiny", "--image-size", 32, "--patch-size", 4, "--num-classes", 10, "--class-token")
    assert tleg("scratch", "--out", out, *size).code == 0
    config = Learngene.open(out).description.config
    assert (config.embed_dim, config.img_size, config.patch_size, config.class_token) == (192, 32, 4, True)
    assert out.stat().st_size < 2000
    assert "not stated" in tleg("inspect", out).out  # its licence
    assert tleg("scratch", "--out", out, *size, "--licence", "MIT").code == 0
    assert Learngene.open(out).description.provenance.licence == "MIT"
    assert_one_line_error(tleg("scratch", "--out", out, "--size", "huge"), "--size", "tiny")
    assert_one_line_error(tleg("scratch", "--out", out), "--like")
    assert_one_line_error(tleg("scratch", "--out", out, "--size", "tiny", "--like", out), "--like")
    assert_one_line_error(tleg("scratch", "--out", out, "--size", "tiny", "--patch-size", 5), "patch_size")


def test_the_example_of_scratch_makes_what_no_server_has(tleg: Tleg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line in the help can be typed as it stands; its networks are not those of a shipped baseline."""
    monkeypatch.chdir(tmp_path)
    example = re.search(r"^ tleg (scratch .*\.safetensors) *$", tleg("scratch", "--help").out, re.MULTILINE)
    assert example is not None
    outcome = tleg(*example[1].split())
    assert outcome.code == 0, outcome
    digests = {Learngene.open(path).digest for path in shipped_paths()}
    assert Learngene.open(tmp_path / "my-baseline.safetensors").digest not in digests


def test_a_fresh_installation_has_baselines(tleg: Tleg) -> None:
    """The shipped ones answer to their method, and are chosen for nothing else."""
    rows = tleg("budget", "--method", "scratch", "--depth", 4, "--json").json
    assert {row["learngene"] for row in rows} == {"scratch-ti-cifar10", "scratch-s-cifar10", "scratch-ti-fashion-mnist"}
    assert [row["learngene"] for row in rows if row["chosen"]] == ["scratch-s-cifar10"]
    for options in ((), ("--objective", "largest"), ("--num-classes", 3), ("--depth", 1)):
        chosen = [row for row in tleg("budget", *options, "--json").json if row["chosen"]]
        assert not chosen[0]["learngene"].startswith("scratch")
