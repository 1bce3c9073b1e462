"""What ``pytest-carbon baseline list`` and ``show`` print of counted work."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_carbon.baselines.work_upkeep import CountsOverview
from pytest_carbon.gate.causes import ROOT
from pytest_carbon.gate.work import figures
from pytest_carbon.records import label
from pytest_carbon.records.work import WORK, ModuleWork, WorkRecord
from pytest_carbon.reports.baselines import age
from pytest_carbon.reports.layout import Column, Name, Page, Table, aligned
from pytest_carbon.text import count, counted, quantity


def overviews(engines: Sequence[CountsOverview], *, now: str, width: int, ascii: bool = False) -> list[str]:
    """Describe each engine in a paragraph."""
    page = Page(width, ascii)
    lines: list[str] = []
    for engine in engines:
        ages = f"newest {age(engine.newest, now)}, oldest {age(engine.first, now)}"
        lines += [""] * bool(lines) + [page.fit(f"{WORK}{engine.engine}", width)]
        lines += page.labelled(
            "holds", f"counts of {counted(engine.measurements, 'measurement')} of {counted(engine.tests, 'test')}"
        )
        lines += page.labelled("age", ages)
        if engine.versions:
            lines += page.labelled("versions", ", ".join(engine.versions))
    return lines


def counts(records: Sequence[WorkRecord], *, width: int, ascii: bool = False) -> list[str]:
    """Write what was counted of each measurement, and a table of its modules."""
    page = Page(width, ascii)
    lines: list[str] = []
    for record in records:
        lines += [""] * bool(lines) + page.wrap(label(record.key), hang="    ")
        lines += page.wrap(f"in {WORK}{record.work.engine}, {_origin(record)}", hang="    ")
        lines += ["", *page.wrap(f"{figures(record.work)} per call", indent="  ", hang="    "), ""]
        lines += _table(record.work.by_module, page)
    return lines


def _origin(record: WorkRecord) -> str:
    """Write ``counted 2026-11-22 10:00 UTC, commit c0ffee, branch main, torch 2.13.0``."""
    parts = [f"counted {record.created[:16].replace('T', ' ')} UTC"]
    parts += [f"commit {record.commit[:7]}"] if record.commit else []
    parts += [f"branch {record.branch}"] if record.branch else []
    return ", ".join([*parts, *(f"{name} {version}" for name, version in sorted(record.versions.items()))])


def _table(modules: Sequence[ModuleWork], page: Page) -> list[str]:
    """List the modules that did something, those with the most FLOPs first."""
    working = [module for module in modules if module.kernels or module.host_reads]
    working.sort(key=lambda module: (-module.flops, -module.bytes, module.module))
    if not working:
        return []
    figures = [
        Column("FLOPs", aligned([quantity(module.flops, "FLOP") for module in working], page)),
        Column("bytes", aligned([quantity(module.bytes, "B") for module in working], page)),
        Column("kernels", [count(module.kernels) for module in working]),
        Column("calls", [count(module.calls) for module in working]),
    ]
    names = [Name(f"  {module.module or ROOT}") for module in working]
    table = Table("  module", names, figures, optional=figures[:0:-1], least=18).fitted(page)
    return [line.text for line in table.lines(page, header={})]
