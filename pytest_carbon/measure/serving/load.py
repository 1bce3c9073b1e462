"""Keep a constant number of requests in flight: tasks of an event loop, or threads."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from pytest_carbon.host.stdlib import threading, time
from pytest_carbon.measure.serving.requests import Request

if TYPE_CHECKING:
    import asyncio

WATCH_S = 0.05
"""How often threads are looked after."""


class Pace(Protocol):
    """Decides whether another request begins."""

    def answered(self, now_s: float) -> None:
        """A request has sent its first token, or ended without one."""

    def ended(self, now_s: float) -> bool:
        """A request has ended; return whether another one is to begin."""


class Warming:
    """Lets requests begin until a moment, one for each slot at least."""

    def __init__(self, until_s: float) -> None:
        self._until_s = until_s

    def answered(self, now_s: float) -> None:
        pass

    def ended(self, now_s: float) -> bool:
        return now_s < self._until_s


class Slots:
    """A fixed number of requests in flight, begun by ``send``, which is sync or async, and may stream tokens.

    Use it as a context: it has an event loop. The first request is sent alone, and tells which kind ``send`` is.
    """

    def __init__(self, send: Callable[[], Any], concurrency: int, timeout_s: float) -> None:
        self._send = send
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._runner: asyncio.Runner | None = None
        self._stopped = False
        self._lazy: Any = None
        """What an async ``send`` returned for the first request."""
        self._pace: Pace = Warming(0.0)
        self.requests: list[Request] = []
        """Those of the last run."""
        self.answer: Any = None
        """The latest answer; of a stream its parts."""
        self.error: BaseException | None = None
        """What ended the last run early."""

    def __enter__(self) -> Slots:
        return self

    def __exit__(self, *_: object) -> None:
        if self._runner is not None:
            self._runner.close()

    def first(self) -> None:
        """Send one request alone."""
        self._begin(Warming(0.0))
        self._threads(1)
        if self._lazy is not None:
            import asyncio

            (request,) = self.requests
            self._runner = asyncio.Runner()
            try:
                self._runner.run(self._within(request, self._receive(request, self._lazy)))
            except BaseException as error:
                self._fail(request, error)
            self._end(request)
        self._raise_other()

    def run(self, pace: Pace) -> None:
        """Keep all slots taken until ``pace`` says otherwise, or a request fails; then let the others end."""
        self._begin(pace)
        if self._runner is not None:
            self._runner.run(self._tasks())
        else:
            self._threads(self._concurrency)
        self._raise_other()

    @property
    def failed(self) -> list[Request]:
        return [request for request in self.requests if request.failure is not None]

    # --- both

    def _begin(self, pace: Pace) -> None:
        self._pace, self._stopped, self.error, self.requests = pace, False, None, []

    def _new(self) -> Request:
        request = Request(time.perf_counter())
        with self._lock:
            self.requests.append(request)
        return request

    def _take(self, request: Request, part: Any) -> None:
        now_s = time.perf_counter()
        if request.take(part, now_s):
            with self._lock:
                self._pace.answered(now_s)

    def _end(self, request: Request) -> bool:
        """End a request; return whether its slot sends another one."""
        with self._lock:
            request.end_s = time.perf_counter()
            if not request.chunks_s:
                self._pace.answered(request.end_s)
            return self._pace.ended(request.end_s) and not self._stopped

    def _fail(self, request: Request, error: BaseException) -> None:
        with self._lock:
            if request.failure is None:
                request.failure = f"{type(error).__name__}: {error}".rstrip(": ")
            if self.error is None or not isinstance(error, Exception):
                self.error = error
            self._stopped = True

    def _raise_other(self) -> None:
        """Raise what is no failure of a request: Ctrl-C, a skip, the end of pytest."""
        if self.error is not None and not isinstance(self.error, Exception):
            raise self.error

    def _parts(self, request: Request, answer: Any) -> None:
        """Take a whole answer, or the parts of a stream."""
        if not isinstance(answer, Iterator):
            request.account(answer)
            self.answer = answer
            return
        parts = []
        for part in answer:
            self._take(request, part)
            parts.append(part)
        self.answer = parts

    # --- tasks

    async def _tasks(self) -> None:
        import asyncio

        await asyncio.gather(*(self._slot() for _ in range(self._concurrency)))

    async def _slot(self) -> None:
        while True:
            request = self._new()
            try:
                await self._within(request, self._receive(request, self._send()))
            except Exception as error:
                self._fail(request, error)
            if not self._end(request):
                return

    async def _within(self, request: Request, receiving: Any) -> None:
        import asyncio

        limit = asyncio.timeout(self._timeout_s)
        try:
            async with limit:
                await receiving
        except TimeoutError:
            if not limit.expired():
                raise
            raise TimeoutError(_NO_ANSWER.format(self._timeout_s)) from None

    async def _receive(self, request: Request, answer: Any) -> None:
        if inspect.isawaitable(answer):
            answer = await answer
        if not hasattr(answer, "__aiter__"):
            self._parts(request, answer)
            return
        parts = []
        async for part in answer:
            self._take(request, part)
            parts.append(part)
        self.answer = parts

    # --- threads

    def _threads(self, count: int) -> None:
        """Run the slots in threads; one whose request does not end in time is left behind."""
        running: dict[int, Request] = {}
        threads = [threading.Thread(target=self._in_thread, args=(slot, running), daemon=True) for slot in range(count)]
        try:
            for thread in threads:
                thread.start()
            while left := [slot for slot, thread in enumerate(threads) if thread.is_alive()]:
                threads[left[0]].join(WATCH_S)
                for slot in left:
                    self._look_after(slot, running, threads)
        except BaseException:  # Ctrl-C
            self._stopped = True
            raise

    def _look_after(self, slot: int, running: dict[int, Request], threads: list[Any]) -> None:
        request = running.get(slot)
        now_s = time.perf_counter()
        if request is None or now_s - request.start_s <= self._timeout_s:
            return
        self._fail(request, TimeoutError(_NO_ANSWER.format(self._timeout_s)))
        request.end_s = now_s
        threads[slot] = threading.Thread()  # nobody waits for it any more

    def _in_thread(self, slot: int, running: dict[int, Request]) -> None:
        again = True
        while again:
            request = running[slot] = self._new()
            try:
                answer = self._send()
                if inspect.isawaitable(answer) or hasattr(answer, "__aiter__"):  # of the first request
                    self._lazy = answer
                    return
                self._parts(request, answer)
            except BaseException as error:
                self._fail(request, error)
            again = self._end(request)
            running.pop(slot, None)


_NO_ANSWER = "a request was not answered in full within {:g} s (timeout=)"
