"""The whole life of jobs: whatever owners, workers and crashes do, in whatever order, the store follows the rules."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule, run_state_machine_as_test
from redis.asyncio import Redis

from service.domain.errors import FencedError, JobStateError
from service.domain.job import TRANSITIONS, JobStatus, Lane
from service.storage import keys
from service.storage.job_store import Claim, Demand
from tests.service.jobs import DATASET, START, WRITES, ResultT, Store


class JobLife(RuleBasedStateMachine):
    """Owners, workers, zombies and sweeps in any order, against a plain model of the same rules."""

    jobs: Bundle[str] = Bundle("jobs")
    claims: Bundle[Claim] = Bundle("claims")
    url: str

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        with redis.Redis.from_url(self.url) as client:
            client.flushdb()
            client.hset(keys.dataset(DATASET), "record", "{}")
        self.client = Redis.from_url(self.url, decode_responses=True)
        self.store = Store(self.client, max_deaths=2)
        self.expected: dict[str, dict[str, Any]] = {}

    def teardown(self) -> None:
        """Close the client."""
        self.runner.run(self.client.aclose())
        self.runner.close()

    def do(self, asked: Awaitable[ResultT]) -> ResultT:
        """Wait for what a store was asked."""

        async def awaited() -> ResultT:
            return await asked

        return self.runner.run(awaited())

    @rule(target=jobs)
    def create(self) -> str:
        """A user makes a job."""
        job = self.do(self.store.created())
        self.expected[job.id] = {"status": "queued", "attempt": 0, "deaths": 0, "pause": False, "top": -1, "worker": None}
        return job.id

    @rule(job=jobs, order=st.sampled_from(["cancel", "pause", "resume"]))
    def order(self, job: str, order: str) -> None:
        """A user orders something; twice is no error."""
        known = self.expected[job]
        status = known["status"]
        allowed = {
            "cancel": {
                "queued": "cancelled",
                "paused": "cancelled",
                "running": "cancelling",
                "cancelling": "cancelling",
                "cancelled": "cancelled",
            },
            "pause": {"queued": "paused", "paused": "paused", "running": "running"},
            "resume": {"paused": "queued", "queued": "queued", "running": "running"},
        }[order]
        if status not in allowed:
            with pytest.raises(JobStateError):
                self.do(getattr(self.store, order)(job))
            return
        self.do(getattr(self.store, order)(job))
        known["status"] = allowed[status]
        if order == "resume" and status == "paused":
            known["deaths"] = 0
        known["pause"] = known["status"] == "running" and (order == "pause" or (known["pause"] and order != "resume"))

    @rule(target=claims, job=jobs, worker=st.sampled_from(["w1", "w2"]))
    def claim(self, job: str, worker: str) -> Any:
        """A worker asks for a job."""
        known = self.expected[job]
        claim = self.do(self.store.claim(job, worker))
        assert (claim is not None) == (known["status"] == "queued")
        if claim is None:
            return multiple()
        known |= {"status": "running", "attempt": known["attempt"] + 1, "worker": worker}
        assert (claim.attempt, claim.job.deaths) == (known["attempt"], known["deaths"])
        return claim

    def holds(self, claim: Claim) -> bool:
        """Whether a claim stands."""
        known = self.expected[claim.job.id]
        held = known["status"] in ("running", "cancelling")
        return held and (known["attempt"], known["worker"]) == (claim.attempt, claim.worker)

    def let_go(self, job: str, status: str) -> None:
        """Expect a job to be nobody's."""
        self.expected[job] |= {"status": status, "pause": False, "worker": None}

    @rule(claim=claims, step=st.integers(0, 5))
    def report(self, claim: Claim, step: int) -> None:
        """A worker says how far it is."""
        if not self.holds(claim):
            with pytest.raises(FencedError):
                self.do(self.store.report(claim, replace(START, step=step)))
            return
        self.do(self.store.report(claim, replace(START, step=step), event=("epoch", {"step": step})))
        known = self.expected[claim.job.id]
        if step > known["top"]:
            known |= {"top": step, "deaths": 0}

    @rule(claim=claims)
    def beat(self, claim: Claim) -> None:
        """A worker hears what is wanted."""
        if not self.holds(claim):
            with pytest.raises(FencedError):
                self.do(self.store.beat(claim))
            return
        known = self.expected[claim.job.id]
        wanted = Demand.CANCEL if known["status"] == "cancelling" else Demand.PAUSE if known["pause"] else Demand.GO_ON
        assert self.do(self.store.beat(claim)) is wanted

    @rule(claim=claims, how=st.sampled_from(["succeed", "fail", "release"]))
    def end(self, claim: Claim, how: str) -> None:
        """A worker ends its attempt; that it sends its result once more is no error."""
        known = self.expected[claim.job.id]
        if how == "succeed" and (known["status"], known["attempt"]) == ("succeeded", claim.attempt):
            self.do(WRITES[how](self.store, claim))
            return
        if not self.holds(claim):
            with pytest.raises(FencedError):
                self.do(WRITES[how](self.store, claim))
            return
        self.do(WRITES[how](self.store, claim))
        left = "cancelled" if known["status"] == "cancelling" else "paused" if known["pause"] else "queued"
        self.let_go(claim.job.id, {"succeed": "succeeded", "fail": "failed", "release": left}[how])

    @rule(claim=consumes(claims), how=st.sampled_from(["died", "silent"]))
    def die(self, claim: Claim, how: str) -> None:
        """A worker ends by accident; its claim is forgotten with it."""
        if not self.holds(claim):
            return
        known = self.expected[claim.job.id]
        if how == "died":
            self.do(self.store.died(claim, "signal 9"))
        else:
            self.do(self.store.silence(claim))
            assert self.do(self.store.sweep()) == [claim.job.id]
        if known["status"] == "cancelling":
            self.let_go(claim.job.id, "cancelled")
            return
        known["deaths"] += 1
        self.let_go(claim.job.id, "failed" if known["deaths"] >= 2 else "paused" if known["pause"] else "queued")

    @invariant()
    def store_and_model_agree(self) -> None:
        """Every key says the same, and nothing is left for a sweep."""
        snapshot: dict[str, Any] = self.do(self.store.snapshot())
        by_status = {status: dict(snapshot.get(keys.jobs_of_status(status), [])) for status in TRANSITIONS}
        alive = set()
        for job_id, known in self.expected.items():
            job = self.do(self.store.get(job_id))
            found = (job.status, job.attempt, job.deaths, job.pause_requested, job.worker)
            assert found == tuple(known[name] for name in ("status", "attempt", "deaths", "pause", "worker"))
            assert [status for status, ids in by_status.items() if job_id in ids] == [job.status]
            if not job.status.is_terminal:
                alive.add(job_id)
            assert (job.finished_at is not None) == job.status.is_terminal
            events = snapshot[keys.job_events(job_id)]
            assert [number for number, _ in events] == [f"{index}-0" for index in range(1, len(events) + 1)]
            statuses = [json.loads(fields["facts"])["status"] for _, fields in events if fields["kind"] == "status"]
            assert statuses[-1] == job.status
            for before, after in pairwise(statuses):
                assert JobStatus(after) in TRANSITIONS[JobStatus(before)]
            if job.status is JobStatus.QUEUED:
                message = snapshot[keys.job(job_id)]["message"]
                assert message in snapshot[keys.queue_list(Lane.TRAININGS)]
                assert json.loads(snapshot[keys.queue_messages(Lane.TRAININGS)][message])["args"] == [job_id]
        assert snapshot.get(keys.dataset_jobs(DATASET), set()) == alive
        assert self.do(self.store.sweep()) == []


def test_every_life_of_a_job_follows_the_rules(redis_url: str) -> None:
    """Whatever owners, workers and crashes do, in whatever order."""
    JobLife.url = f"{redis_url}?db=5"
    run_state_machine_as_test(
        JobLife,
        settings=settings(max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)),
    )
