"""Loading that whoever asked first may give up on without hurting those who still wait.

Knows neither models nor Serve.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Loaded = TypeVar("Loaded")


class SharedLoading(Generic[Loaded]):
    """Calls `load` for a name once, however many ask for it meanwhile, and to its end, whoever hangs up.

    A load that is cancelled with its request goes on in its thread all the same: the next request would start another
    one beside it.
    """

    def __init__(self, load: Callable[[str], Awaitable[Loaded]]) -> None:
        self.load = load
        self._tasks: dict[str, asyncio.Task[Loaded]] = {}

    async def __call__(self, name: str) -> Loaded:
        """What `load` gives; its errors come to everybody who waits."""
        task = self._tasks.get(name)
        if task is None or task.done():
            task = self._tasks[name] = asyncio.create_task(self._load(name))
        return await asyncio.shield(task)

    async def _load(self, name: str) -> Loaded:
        return await self.load(name)
