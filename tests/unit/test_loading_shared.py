"""Loading a further model while requests come and go."""

import asyncio

import pytest

from raycap.serve.captioning.loading import SharedLoading


class Slow:
    """Loads when it is allowed to."""

    def __init__(self) -> None:
        self.allowed = asyncio.Event()
        self.calls = 0
        self.error: Exception | None = None

    async def __call__(self, name: str) -> str:
        self.calls += 1
        await self.allowed.wait()
        if self.error:
            raise self.error
        return f"{name} {self.calls}"


def test_a_request_that_gives_up_leaves_the_loading_to_the_others() -> None:
    """Each of five requests that ran into their deadline started a load of its own, and none was kept."""

    async def run() -> list[str]:
        slow = Slow()
        loading = SharedLoading(slow)
        gave_up = asyncio.create_task(loading("second"))
        await asyncio.sleep(0)
        gave_up.cancel()
        waiting = [asyncio.create_task(loading("second")) for _ in range(4)]
        await asyncio.sleep(0.01)
        slow.allowed.set()
        with pytest.raises(asyncio.CancelledError):
            await gave_up
        found = await asyncio.gather(*waiting)
        assert slow.calls == 1
        return [*found, await loading("second")]  # asked again: the least recently used one is to be known

    assert asyncio.run(run()) == ["second 1"] * 4 + ["second 2"]


def test_a_failure_comes_to_everybody_and_is_not_kept() -> None:
    async def run() -> None:
        slow = Slow()
        slow.error = ValueError("damaged")
        slow.allowed.set()
        loading = SharedLoading(slow)
        found = await asyncio.gather(loading("a"), loading("a"), return_exceptions=True)
        assert [str(error) for error in found] == ["damaged"] * 2
        slow.error = None
        assert await loading("a") == "a 2"

    asyncio.run(run())
