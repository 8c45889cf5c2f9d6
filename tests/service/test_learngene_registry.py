"""Learngenes that join a running process: published once, seen by every process, and never half of anything."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis as blocking_redis
from redis.asyncio import Redis

from service.domain.catalogue import Catalogue, Source
from service.domain.errors import (
    LearngeneFixedError,
    LearngeneNotFoundError,
    LearngeneRefusedError,
    LearngeneTakenError,
    ObjectStoreError,
    StorageFullError,
    StoreUnavailableError,
)
from service.domain.model import Model
from service.domain.published_learngene import Outcome, Publication
from service.storage import keys, learngene_registry
from service.storage.embedded_redis import EmbeddedRedis
from service.storage.learngene_publisher import PublicationLimits
from service.storage.learngene_registry import LearngeneRegistry, load_catalogue
from service.storage.learngene_store import LearngeneStore
from service.storage.object_store import ObjectStore
from tests.service import tiny
from tleg_core.errors import ConfigError
from tleg_core.family import Variation
from tleg_core.learngene import Learngene

_NUMBERS = itertools.count(1)


@dataclass
class Site:
    """A Redis, an object store, and processes on them."""

    redis: Redis
    objects: ObjectStore
    own: Catalogue
    folder: Path

    def registry(self, *, own: Catalogue | None = None, limits: PublicationLimits | None = None) -> LearngeneRegistry:
        """Return the registry of another process."""
        return LearngeneRegistry(own or self.own, LearngeneStore(self.redis), self.objects, limits=limits)

    def file(self, learngene: Learngene) -> Path:
        """Return a new file of a learngene."""
        path = self.folder / f"{next(_NUMBERS)}.safetensors"
        learngene.write(path)
        return path

    async def publish(self, registry: LearngeneRegistry, learngene: Learngene, *, replace: bool = False) -> Publication:
        """Publish a learngene as an upload of its own."""
        return await registry.publish(self.file(learngene), publication=f"u{next(_NUMBERS)}", replace=replace)

    def files(self) -> list[Path]:
        """Return the published files that there are."""
        return sorted((self.folder / "objects" / "learngenes").glob("*"))


Scenario = Callable[[Site], Awaitable[None]]
OnSite = Callable[[Scenario], None]


@pytest.fixture(scope="module")
def own(learngene_files: list[Path]) -> Catalogue:
    """The tiny learngenes, as a server's own."""
    return load_catalogue(learngene_files, shipped=False)


@pytest.fixture
def on_site(redis_url: str, own: Catalogue, tmp_path: Path) -> OnSite:
    """A way to run a scenario on an empty database and object store."""

    async def run(scenario: Scenario) -> None:
        async with Redis.from_url(f"{redis_url}?db=9", decode_responses=True) as client:
            await client.flushdb()
            await scenario(Site(client, ObjectStore((tmp_path / "objects").as_uri()), own, tmp_path))

    return lambda scenario: asyncio.run(run(scenario))


def names(registry: LearngeneRegistry) -> set[str]:
    """Return the names of what a process serves beside its own."""
    return {family.name for family in registry.catalogue.families} - {"tiny-tleg", "tiny-polynomial", "tiny-stagewise"}


def measured(learngene: Learngene, top1: float) -> Learngene:
    """Return the same weights with an accuracy."""
    return learngene.with_description(accuracy=tiny.measured("shapes", {3: top1}))


def renamed(learngene: Learngene, name: str) -> Learngene:
    """Return the same weights under another name."""
    return learngene.with_description(name=name)


def test_a_published_learngene_is_served_by_every_process(on_site: OnSite) -> None:
    """At once by the one that published it, after a look by another; with its source, time and digest of the file."""

    async def scenario(site: Site) -> None:
        here, there = site.registry(), site.registry()
        item = tiny.learngene("newcomer")
        done = await site.publish(here, item)
        assert done.outcome is Outcome.ADDED
        assert names(here) == {"newcomer"}
        assert names(there) == set()
        assert await there.refresh()
        assert not await there.refresh()
        for registry in (here, there):
            family = registry.catalogue.family("newcomer")
            assert bytes(family.learngene.content) == bytes(item.content)
            origin = registry.catalogue.origin("newcomer")
            assert (origin.source, origin.sha256) == (Source.PUBLISHED, done.record.sha256)
            assert origin.published_at == done.record.published_at
            assert registry.catalogue.origin("tiny-tleg").source is Source.CONFIGURED
        assert len(site.files()) == 1

    on_site(scenario)


def test_the_watch_sees_a_publication_within_about_a_second(on_site: OnSite) -> None:
    """And a deletion."""

    async def scenario(site: Site) -> None:
        here, there = site.registry(), site.registry()
        watching = asyncio.create_task(there.watch())
        try:
            await site.publish(here, tiny.learngene("newcomer"))
            await asyncio.sleep(learngene_registry.WATCH_S + 0.5)
            assert names(there) == {"newcomer"}
            await here.delete("newcomer")
            await asyncio.sleep(learngene_registry.WATCH_S + 0.5)
            assert names(there) == set()
        finally:
            watching.cancel()

    on_site(scenario)


def test_publishing_the_same_file_again_changes_nothing(on_site: OnSite) -> None:
    """Not the record, nor the version that others look at; and no second object is left."""

    async def scenario(site: Site) -> None:
        here = site.registry()
        first = await site.publish(here, tiny.learngene("newcomer"))
        version = await LearngeneStore(site.redis).version()
        again = await site.publish(site.registry(), tiny.learngene("newcomer"))
        assert (again.outcome, again.record) == (Outcome.SAME, first.record)
        assert await LearngeneStore(site.redis).version() == version
        assert len(site.files()) == 1

    on_site(scenario)


def test_more_to_say_of_the_same_weights_takes_the_files_place(on_site: OnSite) -> None:
    """Without `replace`; models keep their ids, and the old file ends when nobody can be about to read it."""

    async def scenario(site: Site) -> None:
        here, there = site.registry(), site.registry()
        item = tiny.learngene("newcomer")
        old = (await site.publish(here, item)).record
        await there.refresh()
        new = await site.publish(here, measured(item, 0.75))
        assert new.outcome is Outcome.REPLACED
        assert new.record.digest == old.digest
        await there.refresh()
        for registry in (here, there):
            (entry,) = registry.catalogue.family("newcomer").learngene.description.accuracy
            assert entry.top1 == 0.75
        assert len(site.files()) == 2
        await here.clean()
        assert len(site.files()) == 2, "a process that has read the old record may be about to read the file"
        await site.redis.zadd(keys.LEARNGENES_ENDING, {old.object_key: 1})
        await here.clean()
        assert [path.name for path in site.files()] == [Path(new.record.object_key).name]
        assert not await site.redis.exists(keys.LEARNGENES_ENDING, keys.DOOMED_OBJECTS)

    on_site(scenario)


def test_a_name_goes_to_other_weights_on_demand_only(on_site: OnSite) -> None:
    """The digest of the old ones stays loadable, for models were made from it, in processes that never saw it too."""

    async def scenario(site: Site) -> None:
        here = site.registry()
        old = tiny.learngene("newcomer")
        other = renamed(tiny.learngene("other-weights"), "newcomer")
        await site.publish(here, old)
        with pytest.raises(LearngeneTakenError, match="replace=true"):
            await site.publish(here, other)
        assert len(site.files()) == 1
        done = await site.publish(here, other, replace=True)
        assert done.outcome is Outcome.REPLACED
        for registry in (here, site.registry()):
            await registry.provide(old.digest)
            assert registry.catalogue.family("newcomer").digest == other.digest
            superseded = registry.catalogue.family_by_digest(old.digest)
            assert superseded is not None
            assert bytes(superseded.learngene.content) == bytes(old.content)
            assert superseded not in registry.catalogue.families
        back = await site.publish(here, old, replace=True)
        assert back.outcome is Outcome.REPLACED
        assert here.catalogue.family("newcomer").digest == old.digest

    on_site(scenario)


def test_weights_have_one_name(on_site: OnSite) -> None:
    """A model's recipe names a digest, which must lead to one learngene; superseded, its weights are free again."""

    async def scenario(site: Site) -> None:
        here = site.registry()
        item = tiny.learngene("newcomer")
        await site.publish(here, item)
        for replace in (False, True):
            with pytest.raises(LearngeneTakenError, match="as learngene newcomer"):
                await site.publish(here, renamed(item, "alias"), replace=replace)
        await site.publish(here, renamed(tiny.learngene("bb"), "newcomer"), replace=True)
        await site.publish(here, renamed(item, "alias"))
        assert names(here) == {"newcomer", "alias"}

    on_site(scenario)


def test_a_servers_own_learngenes_cannot_be_taken_or_deleted(on_site: OnSite, own: Catalogue) -> None:
    """Neither their names, nor their weights under another name, with `replace` or without."""

    async def scenario(site: Site) -> None:
        here = site.registry()
        for replace in (False, True):
            with pytest.raises(LearngeneTakenError, match="server's own"):
                await site.publish(here, renamed(tiny.learngene("x-y"), "tiny-tleg"), replace=replace)
            with pytest.raises(LearngeneTakenError, match="as learngene tiny-tleg"):
                await site.publish(here, renamed(own.family("tiny-tleg").learngene, "mine"), replace=replace)
        with pytest.raises(LearngeneTakenError, match="another resource"):
            await site.publish(here, tiny.learngene("trainings"))
        with pytest.raises(LearngeneFixedError):
            await here.delete("tiny-tleg")
        with pytest.raises(LearngeneNotFoundError):
            await here.delete("nobody")
        assert site.files() == []

    on_site(scenario)


def test_a_servers_own_file_hides_a_published_one(on_site: OnSite, caplog: pytest.LogCaptureFixture) -> None:
    """Where an operator names a file of that name or of those weights later; the log says so, and nothing fails."""

    async def scenario(site: Site) -> None:
        published = tiny.learngene("newcomer")
        alias = tiny.learngene("alias")
        await site.publish(site.registry(), published)
        await site.publish(site.registry(), alias)
        path = site.file(renamed(tiny.learngene("other"), "newcomer"))
        second = site.file(renamed(alias, "alias-of-mine"))
        here = site.registry(own=load_catalogue([path, second], shipped=False))
        await here.refresh()
        assert names(here) == {"newcomer", "alias-of-mine"}
        assert here.catalogue.family("newcomer").digest != published.digest
        assert [record.__dict__["action"] for record in caplog.records].count("learngene_shadowed") == 2
        await here.provide(published.digest)
        assert here.catalogue.family_by_digest(published.digest) is not None, "models made from it are served still"

    on_site(scenario)


def test_of_many_publications_of_a_name_at_once_one_wins(on_site: OnSite) -> None:
    """From eight processes, each with other weights: one is added, seven are refused, one object is left."""

    async def scenario(site: Site) -> None:
        items = [renamed(tiny.learngene(f"weights-{index}"), "newcomer") for index in range(8)]
        registries = [site.registry() for _ in items]
        done = await asyncio.gather(
            *(site.publish(registry, item) for registry, item in zip(registries, items, strict=True)), return_exceptions=True
        )
        added = [item for item in done if isinstance(item, Publication)]
        assert [item.outcome for item in added] == [Outcome.ADDED]
        assert sum(isinstance(item, LearngeneTakenError) for item in done) == 7
        assert len(site.files()) == 1
        for registry in registries:
            await registry.refresh()
            assert registry.catalogue.family("newcomer").digest == added[0].record.digest

    on_site(scenario)


def test_of_many_replacements_at_once_every_digest_stays_loadable(on_site: OnSite) -> None:
    """Whichever is the last, the others are superseded, with the objects that their records name."""

    async def scenario(site: Site) -> None:
        items = [renamed(tiny.learngene(f"weights-{index}"), "newcomer") for index in range(6)]
        await asyncio.gather(*(site.publish(site.registry(), item, replace=True) for item in items))
        here = site.registry()
        for item in items:
            await here.provide(item.digest)
            family = here.catalogue.family_by_digest(item.digest)
            assert family is not None
            assert bytes(family.learngene.content) == bytes(item.content)
        assert len(site.files()) == 6
        assert await site.redis.zcard(keys.LEARNGENES_ENDING) == 0

    on_site(scenario)


def test_a_deletion_takes_every_file_of_the_name(on_site: OnSite) -> None:
    """The superseded ones too; other learngenes keep theirs, and the name is free."""

    async def scenario(site: Site) -> None:
        here, there = site.registry(), site.registry()
        old = tiny.learngene("newcomer")
        await site.publish(here, old)
        await site.publish(here, renamed(tiny.learngene("bb"), "newcomer"), replace=True)
        kept = (await site.publish(here, tiny.learngene("kept"))).record
        await there.refresh()
        await here.delete("newcomer")
        assert names(here) == {"kept"}
        assert [path.name for path in site.files()] == [Path(kept.object_key).name]
        await there.refresh()
        await there.provide(old.digest)
        assert names(there) == {"kept"}
        assert there.catalogue.family_by_digest(old.digest) is None
        assert (await site.publish(there, renamed(tiny.learngene("cc"), "newcomer"))).outcome is Outcome.ADDED

    on_site(scenario)


def test_an_object_deleted_behind_our_back_is_left_out_and_can_be_mended(
    on_site: OnSite, caplog: pytest.LogCaptureFixture
) -> None:
    """Who has it in memory serves on; who starts leaves it out, with a log line; publishing the file again mends it."""

    async def scenario(site: Site) -> None:
        here = site.registry()
        item = tiny.learngene("newcomer")
        await site.publish(here, item)
        await site.publish(here, tiny.learngene("sound"))
        site.objects.delete((await LearngeneStore(site.redis).get("newcomer")).object_key)  # type: ignore[union-attr]
        await here.refresh()
        assert names(here) == {"newcomer", "sound"}
        there = site.registry()
        await there.refresh()
        await there.provide(item.digest)
        assert names(there) == {"sound"}
        assert [entry.__dict__["action"] for entry in caplog.records if entry.levelno == logging.ERROR] == ["learngene_broken"]
        assert (await site.publish(here, item)).outcome is Outcome.REPLACED
        await there.refresh()
        assert names(there) == {"newcomer", "sound"}

    on_site(scenario)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: content[:-4], id="cut"),
        pytest.param(lambda content: content + b"\0", id="longer"),
        pytest.param(lambda content: content[:-1] + bytes([content[-1] ^ 1]), id="a flipped bit"),
        pytest.param(lambda content: b"\0" * len(content), id="zeros"),
    ],
)
def test_a_damaged_object_is_never_served(on_site: OnSite, damage: Callable[[bytes], bytes]) -> None:
    """It is left out of the catalogue, and the others are served."""

    async def scenario(site: Site) -> None:
        record = (await site.publish(site.registry(), tiny.learngene("newcomer"))).record
        await site.publish(site.registry(), tiny.learngene("sound"))
        path = site.folder / "objects" / record.object_key
        path.write_bytes(damage(path.read_bytes()))
        here = site.registry()
        await here.refresh()
        assert names(here) == {"sound"}

    on_site(scenario)


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"version": 99}', '{"version": 1, "name": "newcomer"}'])
def test_a_damaged_record_hides_no_other(on_site: OnSite, damage: str) -> None:
    """And its name can be published again."""

    async def scenario(site: Site) -> None:
        item = tiny.learngene("newcomer")
        await site.publish(site.registry(), item)
        await site.publish(site.registry(), tiny.learngene("sound"))
        await site.redis.hset(keys.LEARNGENE_FILES, item.digest, damage)
        here = site.registry()
        await here.refresh()
        assert names(here) == {"sound"}
        await site.publish(here, item)
        assert names(here) == {"newcomer", "sound"}
        await site.redis.hset(keys.LEARNGENE_FILES, item.digest, damage)
        await here.delete("newcomer")
        await site.publish(here, tiny.learngene("newcomer", min_depth=2))
        assert names(here) == {"newcomer", "sound"}

    on_site(scenario)


def test_a_store_that_is_away_changes_nothing(on_site: OnSite) -> None:
    """What is served is served on, and what could not be loaded is when the store is back."""

    async def scenario(site: Site) -> None:
        here, there = site.registry(), site.registry()
        first = tiny.learngene("first")
        await site.publish(here, first)
        await there.refresh()
        await site.publish(here, measured(first, 0.5))
        await site.publish(here, tiny.learngene("second"))
        folder, hidden = site.folder / "objects" / "learngenes", site.folder / "objects" / "hidden"
        folder.rename(hidden)
        folder.write_text("no folder")  # every read fails, and not for want of a file
        assert not await there.refresh()
        assert names(there) == {"first"}
        with pytest.raises(ObjectStoreError):
            await site.registry().provide(first.digest)
        with pytest.raises(ObjectStoreError):
            await site.publish(here, tiny.learngene("third"))
        folder.unlink()
        hidden.rename(folder)
        await asyncio.sleep(1.1)  # the first pause between tries
        assert await there.refresh()
        assert names(there) == {"first", "second"}
        assert len(there.catalogue.family("first").learngene.description.accuracy) == 1
        assert await site.redis.scard(keys.DOOMED_OBJECTS) == 1, "the failed publication's object, for a server's next start"

    on_site(scenario)


def test_without_redis_every_method_says_so_and_all_is_served_on(own: Catalogue, tmp_path: Path) -> None:
    """Our own error; nothing that was served goes; nothing is stored."""

    async def scenario() -> None:
        with EmbeddedRedis(tmp_path / "redis") as embedded:
            redis = Redis.from_url(embedded.url, decode_responses=True)
            site = Site(redis, ObjectStore((tmp_path / "objects").as_uri()), own, tmp_path)
            here = site.registry()
            await site.publish(here, tiny.learngene("newcomer"))
        before = site.files()
        for attempt in (
            here.refresh(),
            here.look_for("unknown"),
            here.provide("0" * 64),
            here.record_of("0" * 64),
            here.check_name("x-y"),
            here.delete("newcomer"),
            here.clean(),
            site.publish(here, tiny.learngene("another")),
        ):
            with pytest.raises(StoreUnavailableError):
                await attempt
        await here.look_for("newcomer")
        await here.provide(tiny.learngene("newcomer").digest)
        assert names(here) == {"newcomer"}
        assert site.files() == before
        await redis.aclose()

    (tmp_path / "redis").mkdir()
    asyncio.run(scenario())


def test_an_object_without_a_record_is_deleted_in_the_end(on_site: OnSite) -> None:
    """Of a process that was killed between storing and recording; and it could not be recorded any more."""

    async def scenario(site: Site) -> None:
        store = LearngeneStore(site.redis)
        here = site.registry()
        record = (await site.publish(here, tiny.learngene("sample"))).record
        orphan = f"learngenes/{record.sha256}-killed.safetensors"
        await store.announce(orphan)
        site.objects.put_file(orphan, site.file(tiny.learngene("orphan")))
        await here.clean()
        assert len(site.files()) == 2, "it may be about to be recorded"
        await site.redis.zadd(keys.LEARNGENES_ENDING, {orphan: 1, record.object_key: 1})
        await here.clean()
        assert [path.name for path in site.files()] == [Path(record.object_key).name], "what a record names is never deleted"
        late = type(record)(
            name="late", digest="1" * 64, sha256="2" * 64, size_bytes=1, object_key=orphan, published_at=record.published_at
        )
        with pytest.raises(StoreUnavailableError, match="again"):
            await store.publish(late, replace=False, max_total_bytes=10**12)

    on_site(scenario)


def test_a_job_that_publishes_again_publishes_the_same(on_site: OnSite) -> None:
    """A second attempt has the same publication id, so it writes the object that is recorded, and nothing is lost."""

    async def scenario(site: Site) -> None:
        here = site.registry()
        item = tiny.learngene("trained")
        first = await here.publish(site.file(item), publication="job-1")
        again = await here.publish(site.file(item), publication="job-1")
        assert (first.outcome, again.outcome) == (Outcome.ADDED, Outcome.SAME)
        site.objects.delete(first.record.object_key)
        mended = await here.publish(site.file(item), publication="job-1")
        assert mended.outcome is Outcome.REPLACED
        await here.clean()
        assert [path.name for path in site.files()] == [Path(first.record.object_key).name]

    on_site(scenario)


def test_limits_are_named(on_site: OnSite) -> None:
    """Of one file, and of all; a replacement needs room for what it adds only; nothing is left of what was refused."""

    async def scenario(site: Site) -> None:
        item = tiny.learngene("newcomer")
        size = len(item.content)
        with pytest.raises(LearngeneRefusedError, match=f"{size - 1:,}.*TLEG_MAX_LEARNGENE_BYTES"):
            await site.publish(site.registry(limits=PublicationLimits(max_bytes=size - 1)), item)
        here = site.registry(limits=PublicationLimits(max_total_bytes=2 * size))
        await site.publish(here, item)
        await site.publish(here, renamed(tiny.learngene("bb"), "newcomer"), replace=True)
        with pytest.raises(StorageFullError, match="TLEG_MAX_PUBLISHED_BYTES"):
            await site.publish(here, tiny.learngene("larger", accuracy=tiny.measured("shapes", {3: 0.5}), max_depth=64))
        await site.publish(here, tiny.learngene("second", max_depth=9))
        assert names(here) == {"newcomer", "second"}
        assert len(site.files()) == 3
        with pytest.raises(ConfigError, match="publication"):
            await here.publish(site.file(item), publication="../x")

    on_site(scenario)


def test_a_worker_holds_what_it_needs_and_no_more(on_site: OnSite) -> None:
    """It publishes and is provided for, and never loads the others."""

    async def scenario(site: Site) -> None:
        worker = LearngeneRegistry(site.own, LearngeneStore(site.redis), site.objects, serving=False)
        first, second = tiny.learngene("first"), tiny.learngene("second")
        await site.publish(worker, first)
        await site.publish(site.registry(), second)
        assert not await worker.refresh()
        await worker.provide(second.digest)
        assert names(worker) == set()
        assert worker.catalogue.family_by_digest(first.digest) is None
        found = worker.catalogue.family_by_digest(second.digest)
        assert found is not None
        model = Model.of(found, found.recipe(found.members[0], Variation()))
        record = await LearngeneStore(site.redis).get("second")
        assert record is not None
        assert await worker.object_key(model) == record.object_key
        own = site.own.family("tiny-tleg")
        assert await worker.object_key(Model.of(own, own.recipe(own.members[0], Variation()))) is None

    on_site(scenario)


def test_what_is_not_served_takes_bounded_memory(on_site: OnSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Superseded learngenes are let go of, the longest unused first, and come back when they are needed."""

    async def scenario(site: Site) -> None:
        items = [renamed(tiny.learngene(f"weights-{index}"), "newcomer") for index in range(4)]
        here = site.registry()
        for item in items:
            await site.publish(here, item, replace=True)
        monkeypatch.setattr(learngene_registry, "SPARE_BYTES", 2 * len(items[0].content))
        fresh = site.registry()
        await fresh.refresh()
        generations = []
        for index in (0, 1, 0, 2, 1):
            await fresh.provide(items[index].digest)
            generations.append(fresh.generation)
            held = [number for number in range(3) if fresh.catalogue.family_by_digest(items[number].digest) is not None]
            assert index in held
            assert len(held) <= 2
        assert held == [1, 2]
        assert generations[0] == generations[2] < generations[3] < generations[4]

    on_site(scenario)


def test_a_redis_that_lost_everything_loses_the_published_ones(on_site: OnSite) -> None:
    """Its word counts when it answers; the process's own learngenes stay."""

    async def scenario(site: Site) -> None:
        here = site.registry()
        await site.publish(here, tiny.learngene("newcomer"))
        await site.redis.flushdb()
        await here.refresh()
        assert names(here) == set()
        assert "tiny-tleg" in here.catalogue

    on_site(scenario)


def test_redis_holds_documented_keys_for_ever(on_site: OnSite, redis_url: str) -> None:
    """Four keys, of the types that keys.py says, without an end."""

    async def scenario(site: Site) -> None:
        here = site.registry()
        item = tiny.learngene("newcomer")
        await site.publish(here, item)
        await site.publish(here, measured(item, 0.5))

    on_site(scenario)
    with blocking_redis.Redis.from_url(f"{redis_url}?db=9", decode_responses=True) as client:
        assert {key: client.type(key) for key in client.scan_iter()} == {
            keys.LEARNGENES: "hash",
            keys.LEARNGENE_FILES: "hash",
            keys.LEARNGENES_VERSION: "string",
            keys.LEARNGENES_ENDING: "zset",
        }
        assert all(client.ttl(key) == -1 for key in client.scan_iter())


def test_the_watch_ends_even_where_its_cancellation_is_lost(on_site: OnSite) -> None:
    """redis-py may give a cancelled call's caller a time-out instead; a server that is told to stop must not wait for ever."""

    class Swallowing(LearngeneStore):
        asked = 0

        async def version(self) -> str | None:
            Swallowing.asked += 1
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                raise StoreUnavailableError("Redis does not answer") from None
            return None

    async def scenario(site: Site) -> None:
        registry = LearngeneRegistry(site.own, Swallowing(site.redis), site.objects)
        watching = asyncio.create_task(registry.watch())
        await asyncio.sleep(learngene_registry.WATCH_S + 0.2)
        assert Swallowing.asked == 1
        watching.cancel()
        done, _ = await asyncio.wait([watching], timeout=5)
        assert done

    on_site(scenario)
