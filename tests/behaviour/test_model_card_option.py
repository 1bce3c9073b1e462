"""``pytest-carbon report REPORT --model-card README.md --model ID``: the diff, the file, and what is refused."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import CarbonRunner
from console import HOST, Ran, carbon, measured, run, write
from study import info

from pytest_carbon.host import output
from pytest_carbon.reports.card.section import BEGIN

CARD = "---\nlicense: mit\n---\n# GPT-2\n"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    write("report.json", run("s1", {"t.py::test_a": replace(measured("s1", 1.0), task=info(model="gpt2"))}))
    Path("README.md").write_text(CARD, encoding="utf-8")
    yield tmp_path
    assert [path.name for path in tmp_path.rglob("*.tmp")] == []


def update(*arguments: str, card: str = "README.md", model: str = "gpt2") -> Ran:
    return carbon("report", "report.json", "--model-card", card, "--model", model, *arguments)


def test_the_diff_is_printed_and_nothing_is_changed() -> None:
    """It is one that ``patch`` applies, to what ``--write`` writes."""
    ran = update()
    assert (ran.ret, ran.err) == (0, "")
    assert Path("README.md").read_text("utf-8") == CARD
    assert ran.lines[:2] == ["--- README.md", "+++ README.md"]
    removed = [line for line in ran.lines[2:] if line.startswith("-")]
    assert removed == []
    if shutil.which("patch"):
        Path("patched.md").write_text(CARD, encoding="utf-8")
        subprocess.run(["patch", "-s", "patched.md"], input=ran.out.encode(), check=True)
        update("--write")
        assert Path("patched.md").read_text("utf-8") == Path("README.md").read_text("utf-8")


def test_write_changes_the_card_and_prints_how() -> None:
    """Again it has nothing to do."""
    ran = update("--write")
    assert (ran.ret, ran.err) == (0, "pytest-carbon: changed README.md\n")
    assert "+## Energy of inference" in ran.lines
    card = Path("README.md").read_text("utf-8")
    assert card.startswith("---\nlicense: mit\nmodel-index:\n- name: gpt2\n")
    assert f"---\n# GPT-2\n\n{BEGIN}\n" in card
    state = os.stat("README.md")
    ran = update("--write")
    assert (ran.ret, ran.out) == (0, "")
    assert ran.err == "pytest-carbon: README.md has these figures already\n"
    assert os.stat("README.md").st_mtime_ns == state.st_mtime_ns


def test_the_files_mode_and_link_stay() -> None:
    """The link's target is changed."""
    Path("cards").mkdir()
    shutil.move("README.md", "cards/gpt2.md")
    Path("cards/gpt2.md").chmod(0o640)
    Path("README.md").symlink_to("cards/gpt2.md")
    assert update("--write").ret == 0
    assert Path("README.md").is_symlink()
    assert BEGIN in Path("cards/gpt2.md").read_text("utf-8")
    assert Path("cards/gpt2.md").stat().st_mode & 0o777 == 0o640


def test_bytes_of_the_card_stay(in_a_folder: Path) -> None:
    """A byte order mark, Windows' line ends, no line end at the end; and the diff shows that."""
    card = b"\xef\xbb\xbf---\r\nlicense: mit   # \xc3\xa9\r\n---\r\n# GPT-2"
    (in_a_folder / "README.md").write_bytes(card)
    ran = update("--write")
    assert ran.ret == 0
    assert "\\ No newline at end of file" in ran.lines
    written = (in_a_folder / "README.md").read_bytes()
    assert written.startswith(card.partition(b"---\r\n#")[0])
    assert b"\r\n---\r\n# GPT-2\r\n\r\n<!-- pytest-carbon:begin -->\r\n" in written
    assert written.count(b"\r\n") == written.count(b"\n")


def test_a_run_and_its_card(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """From the test of a task to the card; a test that failed is left out, and said."""
    pytester.makeconftest("""
from battery import draw
from pytest_carbon import TaskInfo

class Translation:
    def reset(self):
        pass
    def __call__(self, joules):
        draw(joules)
    def info(self):
        return TaskInfo(name="translation", model="me/m", dataset="wmt", weights="own", data="given", dtype="bf16",
                        device=None, batch_size=4)

def pytest_carbon_tasks(config):
    return {"translation": Translation}
""")
    pytester.makepyfile(
        test_it="""
def test_it(carbon, carbon_task):
    carbon.run(carbon_task("translation"), (3.6,), calls=1, rounds=2)

def test_fails(carbon, carbon_task):
    carbon.run(carbon_task("translation"), (3.6,), calls=1, rounds=2)
    assert False
"""
    )
    run_carbon()
    pytester.path.joinpath("README.md").write_text(CARD, encoding="utf-8")
    ran = update(model="me/m")
    assert ran.ret == 0, ran.err
    assert "| translation | own inputs (wmt) | 1 × Battery | bf16 | 4 | 1.00" in ran.text
    assert "measured (GPU: a battery)" in ran.text
    assert ran.err == "pytest-carbon: not published: test_it.py::test_fails: its test did not pass (failed)\n"


def test_what_cannot_be_written_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that is missing, a folder, a name too many, no UTF-8, read-only: said, and nothing is changed."""
    missing = update(card="missing.md")
    assert missing.ret == 4
    assert "--model-card=missing.md: cannot be read (No such file or directory); give the path" in missing.err
    assert "--model-card=.: this is not a file; give the path of a model card" in update(card=".").err
    Path("latin.md").write_bytes(b"# caf\xe9\n")
    assert "latin.md: byte 6 is not UTF-8; save the card as UTF-8." in update(card="latin.md").err
    os.link("README.md", "other.md")
    ran = update("--write")
    assert (ran.ret, ran.out) == (4, "")
    assert "this file has 2 names (hard links)" in ran.err
    Path("other.md").unlink()
    monkeypatch.setattr(output, "may_write", lambda path: False)
    assert "--model-card=README.md: this user may not write to it; change its permissions." in update("--write").err
    assert update().ret == 0
    assert Path("README.md").read_text("utf-8") == CARD


def test_a_full_disk_leaves_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pytest_carbon.host.stdlib.os.fsync", full)
    ran = update("--write")
    assert (ran.ret, ran.out) == (4, "")
    assert ran.err == "pytest-carbon: cannot write README.md: No space left on device. Make room there.\n"
    assert Path("README.md").read_text("utf-8") == CARD


def test_many_that_are_not_published_are_counted() -> None:
    """The first ten are named, without what would move the cursor."""
    one = replace(measured("s2", 1.0), task=info(model="gpt2"))
    failed = run("s2", {f"t.py::test_{i}\x1b[2J": one for i in range(30)})
    tests = tuple(replace(test, outcome="failed") for test in failed.tests)
    write("failed.json", replace(failed, tests=tests))
    ran = carbon("report", "report.json", "failed.json", "--model-card", "README.md", "--model", "gpt2")
    lines = ran.err.splitlines()
    assert len(lines) == 11
    assert lines[0] == "pytest-carbon: not published: t.py::test_0\\x1b[2J: its test did not pass (failed)"
    assert lines[-1] == "pytest-carbon: 20 more are not published"


def test_a_broken_card_is_refused_with_its_line() -> None:
    Path("README.md").write_text("---\nlicense: [mit\n---\n", encoding="utf-8")
    ran = update("--write", "--openmetrics", "carbon.prom")
    assert (ran.ret, ran.out) == (4, "")
    assert "README.md, line 2: the metadata cannot be read" in ran.err
    assert not Path("carbon.prom").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--write"], "--write has no effect without --model-card; give the card, such as README.md"),
        (["--training", "t.py::test_a"], "--training has no effect without --model-card"),
        (["--model", "gpt2"], "--model has no effect without --model-card"),
        (["--model-card", "README.md"], "--model-card needs --model=ID"),
        (
            ["--model-card", "README.md", "--model", "gpt2", "--openmetrics", "-"],
            "--openmetrics=-: the changes of --model-card are printed there; give the path of a file",
        ),
    ],
)
def test_options_that_do_not_go_together(arguments: list[str], message: str) -> None:
    ran = carbon("report", "report.json", *arguments)
    assert ran.ret == 2
    assert message in " ".join(ran.err.split())
    assert Path("README.md").read_text("utf-8") == CARD


@pytest.mark.parametrize("flag", ["--html", "--markdown", "--openmetrics"])
def test_a_card_that_another_option_would_write_too(in_a_folder: Path, flag: str) -> None:
    """Also one that is empty, and so could be a file of ours; by another name of it."""
    Path("README.md").write_text("")
    Path("link.md").symlink_to("README.md")
    ran = update("--write", flag, "link.md")
    assert (ran.ret, ran.out) == (4, "")
    assert f"{flag}=link.md: --model-card names the same file; give each one of its own." in ran.err
    assert Path("README.md").read_text("utf-8") == ""


def test_an_unknown_model_is_refused_with_the_one_that_is_meant() -> None:
    ran = update(model="gpt")
    assert ran.ret == 4
    assert ran.err == (
        "pytest-carbon: --model=gpt: the report has no measurement of it. Did you mean gpt2? The report has gpt2.\n"
    )


def test_without_huggingface_hub_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    ran = update()
    assert ran.ret == 4
    assert ran.err == (
        "pytest-carbon: --model-card needs huggingface_hub and PyYAML. Install them: pip install"
        " 'pytest-carbon[report]'.\n"
    )


def test_metrics_and_a_card_at_once() -> None:
    ran = update("--openmetrics", "carbon.prom")
    assert ran.ret == 0
    assert Path("carbon.prom").read_text("utf-8").startswith("# HELP pytest_carbon_")
    assert HOST.id in Path("carbon.prom").read_text("utf-8")
