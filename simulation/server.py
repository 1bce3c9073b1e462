"""A model server over the simulated driver: its power depends on how many requests it answers at a moment.

    python -m simulation.server --port 8000 --watts 70,160,250,340

It speaks HTTP/1.1 and streams: each request is answered by ``--tokens`` lines, one each ``--token-s`` seconds. With n
requests in flight GPU 0 draws the n-th of the ``--watts`` (from 0; the last one for more), so that the power of a full
batch, and with it the energy of a request and of a token, are exactly known.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
from collections.abc import Sequence
from typing import IO

from simulation import Control, attach


class Server:
    """Answers requests, ``tokens`` lines each, and holds GPU 0 at the power of as many as are in flight."""

    def __init__(self, control: Control, watts: Sequence[float], tokens: int, token_s: float, log: IO[str]) -> None:
        self._control = control
        self._watts = watts
        self._tokens = tokens
        self._token_s = token_s
        self._log = log
        self._in_flight = 0
        self._answered = 0

    def _now(self, change: int) -> float:
        """Begin or end a request; return the moment from which the new power holds."""
        self._in_flight += change
        return self._control.set_power(0, self._watts[min(self._in_flight, len(self._watts) - 1)])

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request; ``/fail/N`` with a status 500 from the N-th on, ``/die/N`` by the end of the process."""
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split()[1].decode()
        self._answered += 1
        what, _, number = path.strip("/").partition("/")
        if what in ("die", "fail") and self._answered >= int(number):
            if what == "die":
                os._exit(9)
            writer.write(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            writer.close()
            return
        token_s = float(number) if what == "slow" else self._token_s
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        clock = asyncio.get_running_loop().time
        start_s = self._now(1)
        with contextlib.suppress(ConnectionError):
            due_s = clock()
            for token in range(self._tokens):
                due_s += token_s
                await asyncio.sleep(due_s - clock())
                writer.write(f"token {token}\n".encode())
                await writer.drain()
        print(start_s, self._now(-1), file=self._log, flush=True)
        writer.close()


async def serve(port: int, watts: Sequence[float], tokens: int, token_s: float, processes: bool, log: IO[str]) -> None:
    control = attach()
    if processes:
        control.set_processes(0, [os.getpid()])
    answer = Server(control, watts, tokens, token_s, log).answer
    served = await asyncio.start_server(answer, "127.0.0.1", port, backlog=1024)
    print(served.sockets[0].getsockname()[1], flush=True)
    async with served:
        await served.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="0: a free one, which is printed")
    parser.add_argument("--watts", default="70,300", help="of GPU 0 with 0, 1, … requests in flight")
    parser.add_argument("--tokens", type=int, default=10)
    parser.add_argument("--token-s", type=float, default=0.005)
    parser.add_argument("--log", default=os.devnull, help="a file for the start and the end of each request")
    parser.add_argument("--processes", action="store_true", help="NVML lists this process on GPU 0")
    given = parser.parse_args()
    watts = [float(each) for each in given.watts.split(",")]
    with contextlib.suppress(KeyboardInterrupt), open(given.log, "w", encoding="utf-8") as log:
        asyncio.run(serve(given.port, watts, given.tokens, given.token_s, given.processes, log))


if __name__ == "__main__":
    main()
