"""Pages that are run: their files are written, their commands run in order, what they print is what the page shows.

A block of a page is one of these:

- a file, with `<!-- file: NAME -->` in the line above it;
- commands: `sh`, each line must succeed and its output is not shown; or `console`, where `$ ` begins a command and the
  lines below it are its output. A command without output must succeed. A line `...` stands for lines that are left out;
- `<!-- not run: why -->` above it: neither.

`pytest --renew-docs` writes the outputs of the run into the pages.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

GAP = "..."
_BLOCK = re.compile(
    r"(?:^<!-- (?P<note>[^\n]*?) -->\n)?^(?P<indent> *)```(?P<language>\w*)\n(?P<body>.*?)^(?P=indent)```$", re.M | re.S
)
_VOLATILE = (
    (r"\x1b\[[0-9;]*m", ""),
    (r"\d{4}-\d\d-\d\d(T[\d:]+Z)?", "DATE"),
    (r"\b(commit|on) [0-9a-f]{7,10}\b( → [0-9a-f]{7,10}\b)?", r"\1 COMMIT"),
    (r"against=[0-9a-f]{7,10}\b", "against=COMMIT"),
    (r"\bin \d+\.\d+s\b", "in SECONDS"),
    (r"[\w.-]+-(estimated|gpu)\b", r"MACHINE-\1"),
    (r"energy: .*? \(codecarbon [^)]*\)(; estimated: .*? \(codecarbon [^)]*\))?", "energy: WATTS"),
    (r"[\d.,]+( ± [\d.,]+)? ?(nJ|µJ|mJ|J|kJ|µWh|mWh|Wh|W|ns|µs|ms|s|ng|µg|mg|g|kg)\b", "FIGURE"),
    (r"(?<=FIGURE) (?:[+-]\d[\d.,]*%|[\d.,]+×)", " CHANGE"),
    (r"(newest|oldest) [^,\n]* ago", r"\1 AGO"),
    (r"detectable change [\d.,]+%", "detectable change SHARE"),
    (r"\.{1,3} +\[ *\d+%\]", "DOTS"),
    (r"([-=_])\1{3,}", r"\1"),
    (r"\s+", " "),
)
"""What differs from run to run, and what stands for it when two outputs are compared."""


def normal(output: str) -> str:
    """An output without what differs from run to run, on one line, because figures also change where it wraps."""
    for pattern, replacement in _VOLATILE:
        output = re.sub(pattern, replacement, output)
    return output.strip()


def shape(sentence: str) -> str:
    """A sentence without its figures, plurals and names of tests: of two runs it is the same."""
    sentence = re.sub(r"(?:[\w/]+\.py::)?\btest_\w+(?: · \w+)?", "TEST", " ".join(sentence.split()))
    return re.sub(r"\b(\w{3,})s\b", r"\1", re.sub(r"\d+(?:\.\d+)?", "N", sentence))


@dataclass
class Player:
    """Runs a page in a folder, as a user who types what it shows."""

    page: Path
    folder: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    replacing: Mapping[str, str] = field(default_factory=dict)
    """What the page writes, and what stands for it here, such as the URL of a database."""
    before: Mapping[str, Callable[[Player], object]] = field(default_factory=dict)
    """What happens in the project before a command, such as a change of the code."""
    renew: bool = False
    ran: list[str] = field(default_factory=list)
    """The commands that ran."""

    def __post_init__(self) -> None:
        self._state = self.folder.parent / f"{self.folder.name}-state.sh"
        self._state.write_text(f"cd {self.folder}\n", "utf-8")

    def set(self, name: str, value: str | None) -> None:
        """Set a variable for the commands that follow, or remove it."""
        with self._state.open("a", encoding="utf-8") as state:
            state.write(f"unset {name}\n" if value is None else f"export {name}={shlex.quote(value)}\n")

    def play(self) -> None:
        """Run the page; fail at the first command that does something else than the page says."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = self.page.read_text("utf-8")
        pieces, end = [], 0
        for block in _BLOCK.finditer(text):
            body = self._block(block["note"] or "", block["language"], block["body"])
            pieces += [text[end : block.start("body")], body]
            end = block.end("body")
        if self.renew:
            self.page.write_text("".join([*pieces, text[end:]]), "utf-8")

    def _block(self, note: str, language: str, body: str) -> str:
        kind, _, name = note.partition(": ")
        if kind == "not run":
            assert name, f"{self.page}: say why this is not run:\n{body}"
        elif kind == "file":
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self._here(body), "utf-8")
        elif language == "sh":
            for command in body.splitlines():
                self._succeeds(command.strip())
        elif language == "console":
            return "".join(self._console(body))
        else:
            raise AssertionError(f"{self.page}: neither a file nor a command, and no reason not to run it:\n{body}")
        return body

    def _console(self, body: str) -> Iterator[str]:
        for entry in re.split(r"^(?=\$ )", body, flags=re.M)[1:]:
            command, _, shown = entry.partition("\n")
            yield f"{command}\n"
            if not shown.strip():
                self._succeeds(command[2:])
                yield shown
                continue
            _, output = self.run(command[2:])
            try:
                assert_shown(shown, output, f"{self.page.name}: {command}")
            except AssertionError:
                if not self.renew:
                    raise
                shown = renewed(shown, output)
            yield shown

    def _succeeds(self, command: str) -> None:
        status, output = self.run(command)
        assert status == 0, f"{self.page.name}: {command}: exit status {status}\n{output}"

    def _here(self, text: str) -> str:
        for written, real in self.replacing.items():
            text = text.replace(written, real)
        return text

    def run(self, command: str) -> tuple[int, str]:
        """Run a command where the page has come to; return its exit status and what it printed."""
        self.ran.append(command)
        self.before.get(command, lambda player: None)(self)
        script = f". {self._state}\n{self._here(command)}\nstatus=$?\n"
        script += f'{{ export -p; echo "cd $PWD"; }} > {self._state}\nexit $status\n'
        run = subprocess.run(
            ["bash", "-c", script],
            env={**os.environ, **self.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=240,
        )
        output = run.stdout
        for written, real in self.replacing.items():
            output = output.replace(real, written)
        return run.returncode, output.replace(str(self.folder), "~/project")


def _segments(shown: str) -> list[list[str]]:
    """The lines between the gaps."""
    segments: list[list[str]] = [[]]
    for line in shown.splitlines():
        if line == GAP:
            segments.append([])
        elif line.strip() or segments[-1]:
            segments[-1].append(line)
    return segments


def assert_shown(shown: str, output: str, where: str) -> None:
    """Fail if the page shows something else than what was printed."""
    segments = [normal("\n".join(lines)) for lines in _segments(shown)]
    printed = normal(output)
    if len(segments) == 1:
        assert segments[0] == printed, f"{where}\n{output}"
        return
    begin = 0
    for number, segment in enumerate(segments):
        at = printed.find(segment, begin)
        assert at >= 0, f"{where}: this is not printed (any more, or in this place):\n{segment}\n\nprinted:\n{output}"
        assert number or not segment or at == 0, f"{where}: more is printed before\n{segment}"
        begin = at + len(segment)
    assert not segments[-1] or printed.endswith(segments[-1]), f"{where}: more is printed after\n{segments[-1]}"


def renewed(shown: str, output: str) -> str:
    """The output, without the lines that the page leaves out; by the first and last line of each part."""
    lines = [line.rstrip() for line in output.rstrip("\n").splitlines()]
    segments = _segments(shown)
    if len(segments) == 1:
        return "\n".join(lines) + "\n"
    kept, begin = [], 0
    for segment in segments:
        part = [line for line in segment if line.strip()]
        if not part:
            kept.append("")
            continue
        first = next(k for k in range(begin, len(lines)) if _alike(lines[k], part[0]))
        last = next(k for k in range(first, len(lines)) if _alike(lines[k], part[-1]) and k - first >= len(part) // 2)
        kept.append("".join(f"{line}\n" for line in lines[first : last + 1]))
        begin = last + 1
    return f"{GAP}\n".join(kept)


def _alike(printed: str, shown: str) -> bool:
    return normal(printed) == normal(shown)
