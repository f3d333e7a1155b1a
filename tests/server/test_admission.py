"""The queue, and what it tells those whom it does not let in."""

import asyncio

import pytest

from edgephi.runtime.options import Options
from edgephi.server.admission import Job, Queue
from edgephi.server.engine.messages import Ask, End, Piece, Prompt
from edgephi.server.refusal import Refusal


def job(number: int = 1) -> Job:
    return Job(Ask(number, Options(max_tokens=10), prompts=(Prompt("x"),)))


def refused(queue: Queue) -> Refusal:
    with pytest.raises(Refusal) as caught:
        queue.enter(job())
    return caught.value


async def busy(limit: int) -> Queue:
    """A queue with a job in hand and as many waiting as may."""
    queue = Queue(limit)
    for number in range(limit + 1):
        queue.enter(job(number))
        if number == 0:
            await queue.take()
    return queue


def test_first_come_first_served() -> None:
    async def order() -> list[int]:
        queue = Queue(3)
        for number in (1, 2, 3):
            queue.enter(job(number))
        return [(await queue.take()).ask.id for _ in range(3)]

    assert asyncio.run(order()) == [1, 2, 3]


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_so_many_wait_beside_the_one_in_the_engine(limit: int) -> None:
    queue = asyncio.run(busy(limit))
    assert len(queue) == limit
    assert refused(queue).status == 429
    queue.finish()
    queue.enter(job())


def test_one_that_was_put_back_is_the_next() -> None:
    async def taken_after() -> int:
        queue = Queue(2)
        queue.enter(job(1))
        queue.enter(job(2))
        await queue.take()
        queue.put_back()
        return (await queue.take()).ask.id

    assert asyncio.run(taken_after()) == 1


def test_when_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("edgephi.server.admission.time.monotonic", lambda: now)
    queue = asyncio.run(busy(10))
    for _ in range(4):  # each takes 8 seconds
        now += 8
        queue.finish()
        asyncio.run(queue.take())
        queue.enter(job())
    assert refused(queue).headers == {"retry-after": "40"}  # until half of them have had their turn


def test_a_job_ends_once() -> None:
    async def events() -> list[object]:
        each = job()
        each.put(Piece(1, "a", at=5.0))
        each.put(Refusal(504, "late"))
        each.put(Piece(1, "b", at=6.0))
        each.put(End(1, "stop", 1.0, 5, 0, 2, 0.1, 50.0, 20.0))
        assert each.end is not None and each.end.generated_tokens == 2  # still counted
        assert each.first_piece == 5.0
        return [type(event) for event in await each.events()]

    assert asyncio.run(events()) == [Piece, Refusal]


def test_all_are_told_the_same() -> None:
    async def told() -> list[object]:
        queue = Queue(5)
        jobs = [job(number) for number in range(3)]
        for each in jobs:
            queue.enter(each)
        await queue.take()
        queue.refuse_all(Refusal(503, "bye"))
        assert len(queue) == 0
        return [event for each in jobs for event in await each.events()]

    assert [str(event) for event in asyncio.run(told())] == ["bye"] * 3
