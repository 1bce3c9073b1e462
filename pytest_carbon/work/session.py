"""One counting from begin to end: everything that is switched on for it, and the account as a Work."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from pytest_carbon.records import MeasurementWarning
from pytest_carbon.records.work import ModuleWork, OperatorWork, Work
from pytest_carbon.work import elsewhere, hooks
from pytest_carbon.work.ledger import Ledger, Page
from pytest_carbon.work.mode import CountingMode, taken_whole
from pytest_carbon.work.naming import names


class Session:
    """Counts as long as it is entered."""

    def __init__(self) -> None:
        self.compiled = False
        self.generated = hooks.Generated()
        self._passed: Counter[str] = Counter()
        """What passed values between torch and other code, with how often."""
        self._stack = ExitStack()

    def __enter__(self) -> Session:
        with ExitStack() as stack:
            self._ledger = Ledger()
            self._mode = CountingMode(self._ledger)
            stack.enter_context(hooks.uncompiled(self._note_compiled))
            stack.enter_context(whole_attention())
            stack.enter_context(taken_whole(self._mode))
            self._elsewhere = stack.enter_context(elsewhere.watching())
            stack.enter_context(elsewhere.threads_seen())
            stack.enter_context(elsewhere.libraries_seen(self._elsewhere))
            stack.enter_context(hooks.modules(self._ledger, self._elsewhere.saw))
            stack.enter_context(hooks.optimizers(self._ledger))
            stack.enter_context(hooks.reads(self._mode))
            stack.enter_context(hooks.passed(self._passed))
            stack.enter_context(hooks.generation(self._ledger, self.generated))
            stack.enter_context(self._mode)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _note_compiled(self) -> None:
        self.compiled = True

    def warnings(self) -> list[MeasurementWarning]:
        """Return what speaks against the count so far."""
        return self._elsewhere.warnings(self._mode.operators, self._mode.inside_ns / 1e9, self._passed)

    def work(self, calls: int) -> Work | None:
        """Return the mean work of the calls, None where there was none."""
        ledger = self._ledger

        def share(value: int) -> int:
            return round(value / calls) if calls > 1 else value

        named = names(ledger.roots)
        pages: dict[str, list[Page]] = defaultdict(list)
        for page in ledger.all_pages():
            if page.calls or page.cells or page.host_reads:
                name = page.name if page.module is None else named.get(id(page.module), type(page.module).__name__)
                pages[name].append(page)
        modules = []
        for name in sorted(pages):
            group = pages[name]
            classes = _classes(group, share)
            modules.append(
                ModuleWork(
                    name,
                    calls=share(sum(page.calls for page in group)),
                    rows=share(sum(page.rows for page in group)),
                    batch=share(sum(page.batch for page in group)),
                    flops=sum(one.flops for one in classes),
                    bytes=sum(one.bytes for one in classes),
                    kernels=sum(one.kernels for one in classes),
                    host_reads=share(sum(page.host_reads for page in group)),
                    by_class=classes,
                )
            )
        if not any(cell[2] for page in ledger.all_pages() for cell in page.cells.values()):
            return None
        totals: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        for module in modules:
            for one in module.by_class:
                for index, value in enumerate(one[1:]):
                    totals[one.operators][index] += value
        generated = self.generated
        return Work(
            engine=self._engine(),
            flops=sum(module.flops for module in modules),
            bytes=sum(module.bytes for module in modules),
            kernels=sum(module.kernels for module in modules),
            host_reads=sum(module.host_reads for module in modules),
            steps=share(generated.steps) if generated.happened else None,
            tokens_in=share(generated.tokens_in) if generated.happened else None,
            tokens_out=share(generated.tokens_out) if generated.happened else None,
            by_class=tuple(OperatorWork(name, *totals[name]) for name in sorted(totals)),
            by_module=tuple(modules),
            reads={kind: share(ledger.reads[kind]) for kind in sorted(ledger.reads)},
            unknown_ops=tuple(sorted(ledger.unknown)),
        )

    def uneven(self, work: Work, calls: int) -> str | None:
        """Say which sums a window's calls do not divide, where the rounded mean could hide a change."""
        pages = [*self._ledger.all_pages()]
        cells = [cell for page in pages for cell in page.cells.values()]
        sums = {
            "FLOPs": (sum(cell[0] for cell in cells), work.flops, 0.01),
            "bytes": (sum(cell[1] for cell in cells), work.bytes, 0.01),
            "kernels": (sum(cell[2] for cell in cells), work.kernels, 0.1),
            "host reads": (sum(page.host_reads for page in pages), work.host_reads, 0.1),
        }
        said = [
            f"{total:,} {name}"
            for name, (total, mean, most) in sums.items()
            if abs(mean * calls - total) > most * total
        ]
        if not said:
            return None
        return f"{', '.join(said)} in {calls:,} calls do not divide evenly: count them with a window of fewer calls"

    def _engine(self) -> str:
        if self._mode.hollow:
            return "hollow"
        return min(self._ledger.devices - {"meta"}, default="hollow" if self._ledger.devices else "cpu")


def _classes(pages: list[Page], share: Any) -> tuple[OperatorWork, ...]:
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for page in pages:
        for (kind, dtype), cell in page.cells.items():
            total = totals[f"{kind} {str(dtype).removeprefix('torch.')}" if dtype is not None else kind]
            for index, value in enumerate(cell):
                total[index] += value
    return tuple(OperatorWork(name, *(share(value) for value in totals[name])) for name in sorted(totals))


@contextmanager
def whole_attention() -> Iterator[None]:
    """Switch off the fused encoder layer of the CPU, whose parts could not be told apart."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def warming() -> Iterator[None]:
    """Run a call as it will be counted, uncounted: nothing is compiled, and its threads are seen later."""
    with hooks.uncompiled(lambda: None), elsewhere.threads_seen():
        yield
