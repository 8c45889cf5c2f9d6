"""`tleg publish` and `tleg learngenes`, and the client behind them, against a running server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from service.client import AsyncClient, Client, ClientError
from tests.service import tiny
from tests.service.commands import Tleg, assert_fits, assert_one_line_error
from tests.service.server import ServerProcess
from tleg_core.learngene import Learngene


@pytest.fixture
def newcomer(tmp_path: Path, server: ServerProcess) -> Iterator[Path]:
    """The file of a learngene that the server does not have; afterwards it has it no more."""
    path = tmp_path / "newcomer.safetensors"
    tiny.learngene("newcomer", accuracy=tiny.measured("shapes", {3: 0.75}), trained_depth=9, max_depth=9).write(path)
    yield path
    with Client(server.url) as client:
        if any(item.id == "newcomer" for item in client.list_learngenes(limit=100).data):
            client.delete_learngene("newcomer")


def test_a_learngene_is_published_shown_listed_downloaded_and_deleted(online: Tleg, newcomer: Path, tmp_path: Path) -> None:
    """Every output fits a terminal, and the file comes back as it was."""
    published = online("publish", newcomer)
    assert published.code == 0, published
    assert_fits(published.out)
    digest = Learngene.open(newcomer).digest
    for text in ("newcomer", "tleg, trained at depth 9", digest, "published 2", "75.00 % shapes", "on shapes (1,000 images)"):
        assert text in published.out
    shown = online("learngenes", "show", "newcomer")
    assert shown.out == published.out
    assert online("learngenes", "get", "newcomer").out == shown.out
    listed = online("learngenes", "list")
    assert_fits(listed.out)
    assert re.search(r"newcomer +tleg +1-9 +\S+ +75.00 % \[1\] +published", listed.out)
    assert re.search(r"tiny-tleg .* configured", listed.out)
    assert online("learngenes").out == listed.out
    target = tmp_path / "back.safetensors"
    assert online("learngenes", "download", "newcomer", "-o", target).code == 0
    assert target.read_bytes() == newcomer.read_bytes()
    assert online("publish", newcomer, "--json").json == online("learngenes", "show", "newcomer", "--json").json
    deleted = online("learngenes", "delete", "newcomer")
    assert (deleted.code, deleted.out, deleted.err) == (0, "", "newcomer is deleted\n")
    assert_one_line_error(online("learngenes", "delete", "newcomer"), "there is no learngene 'newcomer'")


def test_a_learngene_is_published_under_another_name(online: Tleg, newcomer: Path) -> None:
    """Where its own is taken: the same weights, the file as it was, and a name that cannot be one is refused first."""
    taken = newcomer.with_name("taken.safetensors")
    Learngene.open(newcomer).with_description(name="tiny-tleg").write(taken)
    before = taken.read_bytes()
    assert_one_line_error(online("publish", taken, "--name", "No Name"), "name: must be 2 to 63 lower-case letters")
    published = online("publish", taken, "--name", "newcomer", "--json")
    assert published.code == 0, published
    assert (published.json["id"], published.json["digest"]) == ("newcomer", Learngene.open(taken).digest)
    assert taken.read_bytes() == before
    assert sorted(path.name for path in newcomer.parent.iterdir()) == ["newcomer.safetensors", "taken.safetensors"]
    assert_one_line_error(online("publish", newcomer.with_name("nothing"), "--name", "x-1"), "nothing", "No such file")


def test_pages_of_learngenes_say_how_to_go_on(online: Tleg) -> None:
    """One a page; the line on the error stream names the last."""
    first = online("learngenes", "list", "--limit", 1)
    assert "--after large-tleg" in first.err
    second = online("learngenes", "list", "--limit", 1, "--after", "large-tleg")
    assert "tiny-polynomial" in second.out


def test_what_is_refused_is_one_line(online: Tleg, newcomer: Path, tmp_path: Path, learngene_files: list[Path]) -> None:
    """A file that is not there, one that is none, one that is damaged, names that are taken."""
    assert_one_line_error(online("publish", tmp_path / "nothing"), "nothing", "No such file")
    text = tmp_path / "text.safetensors"
    text.write_text("this is no learngene")
    assert_one_line_error(online("publish", text), "no safetensors file by its first bytes")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(newcomer.read_bytes()[:-4])
    assert_one_line_error(online("publish", cut), "bytes of data where its header describes")
    taken = tmp_path / "taken.safetensors"
    tiny.learngene("other").with_description(name="tiny-tleg").write(taken)
    assert_one_line_error(online("publish", taken, "--replace"), "server's own files", "under another name (--name)")
    assert_one_line_error(online("publish", learngene_files[0]), "server's own files")
    assert_one_line_error(online("learngenes", "delete", "tiny-tleg"), "server's own files")
    assert online("publish", newcomer).code == 0
    tiny.learngene("other").with_description(name="newcomer").write(taken)
    assert_one_line_error(online("publish", taken), "replace=true")
    assert online("publish", taken, "--replace").code == 0
    assert_one_line_error(online("learngenes", "show", "../x"), "there is no")


def test_a_best_accuracy_says_what_it_was_measured_on(online: Tleg, newcomer: Path) -> None:
    """Each learngene's number refers to a line; one of many images stands before a higher one of few."""
    few = tuple(replace(entry, images=50) for entry in tiny.measured("few", {2: 0.99}))
    many = tiny.measured("many", {3: 0.25, 4: 0.5})
    newcomer.write_bytes(Learngene.open(newcomer).with_description(accuracy=few + many).content)
    assert online("publish", newcomer).code == 0
    listed = online("learngenes").out
    assert_fits(listed)
    found = re.search(r"newcomer .* 50.00 % (\[\d\]) ", listed)
    assert found is not None, listed
    assert f"\n{found[1]} the best member's on many (1,000 images), no fine-tuning\n" in listed
    other = re.search(r"tiny-tleg .* 83.00 % (\[\d\]) ", listed)
    assert other is not None, listed
    assert f"\n{other[1]} the best member's on shapes" in listed
    assert "few" not in listed


def test_options_before_the_command_are_not_lost_in_silence(tleg: Tleg) -> None:
    """`tleg learngenes --url … show` would ask another server than the one that was named."""
    outcome = tleg("learngenes", "--url", "http://127.0.0.1:1", "show", "tiny-tleg")
    assert outcome.code == 2
    assert "come after it" in outcome.err


def test_the_clients_publish_alike(server: ServerProcess, newcomer: Path, tmp_path: Path) -> None:
    """Blocking and awaiting: published with progress, found, downloaded, deleted; and a refusal has its problem."""
    seen: list[tuple[int, int]] = []
    with Client(server.url) as client:
        first = client.publish_learngene(newcomer, progress=lambda sent, size: seen.append((sent, size)))
        assert first.source.value == "published"
        assert client.get_learngene("newcomer") == first
    size = newcomer.stat().st_size
    assert seen[-1] == (size, size)

    async def use() -> None:
        async with AsyncClient(server.url) as client:
            assert await client.publish_learngene(newcomer) == first
            target = tmp_path / "back.safetensors"
            assert await client.download_learngene("newcomer", target) == first
            assert target.read_bytes() == newcomer.read_bytes()
            other = tmp_path / "other.safetensors"
            tiny.learngene("other").with_description(name="newcomer").write(other)
            with pytest.raises(ClientError) as refused:
                await client.publish_learngene(other)
            assert refused.value.problem is not None
            assert (refused.value.problem.status, refused.value.problem.code) == (409, "learngene_taken")
            replaced = await client.publish_learngene(other, replace=True)
            assert replaced.digest != first.digest
            await client.delete_learngene("newcomer")
            with pytest.raises(ClientError, match="there is no learngene"):
                await client.get_learngene("newcomer")

    asyncio.run(use())


def test_a_large_learngene_goes_through(server: ServerProcess, large_learngene_file: Path, tmp_path: Path) -> None:
    """Nineteen megabytes, over HTTP and back, while the server answers others."""
    path = tmp_path / "large.safetensors"
    large = Learngene.open(large_learngene_file)
    changed = Learngene.create(large.description, {name: tensor * 2 for name, tensor in large.tensors.items()})
    changed.with_description(name="large-newcomer").write(path)
    with Client(server.url) as client:
        published = client.publish_learngene(path)
        assert published.size_bytes == path.stat().st_size
        client.download_learngene("large-newcomer", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == path.read_bytes()
        client.delete_learngene("large-newcomer")
