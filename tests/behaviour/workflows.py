"""A runner for the steps of actions and workflows of GitHub, as they stand in their files.

``run:`` is executed by bash as GitHub does it; ``uses:`` is what a test says. Expressions are resolved as far as the
files need them: names, strings, ``==``, ``!=``, ``!``, ``&&``, ``||``, ``always()`` and ``contains()``.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
Context = Mapping[str, Any]
Use = Callable[["Job", Mapping[str, str]], Mapping[str, str]]
"""What a ``uses:`` does, given its ``with:``; it returns the outputs."""


def load(name: str) -> Any:
    """Read a file of this repository; the key ``on`` is a truth of YAML 1.1."""
    return yaml.safe_load((ROOT / name).read_text("utf-8"))


_TOKEN = re.compile(r"\s*('(?:[^']|'')*'|&&|\|\||==|!=|[!(),]|[\w.*-]+)")


class _Expression:
    """An expression of GitHub Actions, by recursive descent."""

    def __init__(self, text: str, context: Context) -> None:
        self.tokens, self.context = _TOKEN.findall(text), context
        assert "".join(self.tokens) == re.sub(r"\s+(?=(?:[^']*'[^']*')*[^']*$)", "", text), text

    def take(self, *wanted: str) -> str | None:
        return self.tokens.pop(0) if self.tokens and self.tokens[0] in wanted else None

    def value(self) -> Any:
        found = self.both()
        while self.take("||"):
            other = self.both()
            found = found or other
        return found

    def both(self) -> Any:
        found = self.compared()
        while self.take("&&"):
            other = self.compared()
            found = found and other
        return found

    def compared(self) -> Any:
        found = self.one()
        while sign := self.take("==", "!="):
            other = self.one()
            found = (found == other) == (sign == "==")
        return found

    def one(self) -> Any:
        if self.take("!"):
            return not self.one()
        if self.take("("):
            found = self.value()
            assert self.take(")")
            return found
        word = self.tokens.pop(0)
        if word.startswith("'"):
            return word[1:-1].replace("''", "'")
        if not self.take("("):
            return self.named(word)
        given = []
        while not self.take(")"):
            given.append(self.value())
            self.take(",")
        return {"always": lambda: True, "contains": lambda these, one: one in these}[word](*given)

    def named(self, word: str) -> Any:
        found: Any = self.context
        for part in word.split("."):
            found = list(found or ()) if part == "*" else _part(found, part)
        return "" if found is None else found


def _part(found: Any, name: str) -> Any:
    if isinstance(found, list):
        return [_part(one, name) for one in found]
    return found.get(name) if isinstance(found, Mapping) else None


def evaluate(text: str, context: Context) -> Any:
    """Return the value of what stands between ``${{`` and ``}}``, or in an ``if:``."""
    expression = _Expression(text.strip().removeprefix("${{").removesuffix("}}"), context)
    value = expression.value()
    assert not expression.tokens, text
    return value


def expand(text: object, context: Context) -> str:
    """Resolve the expressions in a text."""
    return re.sub(r"\$\{\{(.*?)\}\}", lambda match: _text(evaluate(match[1], context)), _text(text))


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass
class Step:
    """A step that was run or skipped."""

    name: str
    outcome: str
    log: str = ""


@dataclass
class Job:
    """One job: a folder, the variables of its steps, and what other actions do."""

    folder: Path
    environ: dict[str, str]
    github: dict[str, Any]
    uses: dict[str, Use] = field(default_factory=dict)
    done: list[Step] = field(default_factory=list)
    temp: Path = field(init=False)
    outputs: dict[str, str] = field(default_factory=dict)
    failed: bool = False

    def __post_init__(self) -> None:
        self.temp = Path(self.environ["RUNNER_TEMP"])

    @property
    def log(self) -> str:
        return "".join(step.log for step in self.done)

    def outcomes(self) -> dict[str, str]:
        return {step.name: step.outcome for step in self.done}

    def run(self, job: Mapping[str, Any], matrix: Mapping[str, Any] | None = None) -> Job:
        """Run a job of a workflow, the one of a matrix that has these values."""
        context = {"github": self.github, "runner": {"temp": str(self.temp)}, "matrix": matrix or {}}
        steps = self._steps(job["steps"], context)
        self.outputs = {
            name: expand(text, {**context, "steps": steps}) for name, text in job.get("outputs", {}).items()
        }
        return self

    def act(self, file: str, given: Mapping[str, str]) -> dict[str, str]:
        """Run a composite action and return its outputs."""
        action = load(file)
        assert action["runs"]["using"] == "composite"
        context: dict[str, Any] = {"github": self.github, "runner": {"temp": str(self.temp)}}
        unknown = set(given) - set(action["inputs"])
        assert not unknown, unknown
        inputs = {name: expand(one.get("default", ""), context) for name, one in action["inputs"].items()}
        missing = [name for name, one in action["inputs"].items() if one.get("required") and name not in given]
        assert not missing, missing
        context["inputs"] = {**inputs, **given}
        before, self.failed = self.failed, False
        steps = self._steps(action["runs"]["steps"], context)
        failed, self.failed = self.failed, before
        if failed:
            raise StepFailed
        return {name: expand(one["value"], {**context, "steps": steps}) for name, one in action["outputs"].items()}

    def _steps(self, steps: Sequence[Mapping[str, Any]], context: Context) -> dict[str, Any]:
        known: dict[str, Any] = {}
        for number, step in enumerate(steps):
            name = str(step.get("name") or step.get("id") or step.get("uses") or step["run"].strip())
            here = {**context, "steps": known}
            condition = str(step.get("if", ""))
            wanted = bool(evaluate(condition, here)) if condition else True
            if not wanted or (self.failed and "always()" not in condition):
                self.done.append(Step(name, "skipped"))
                known[str(step.get("id", number))] = {"outcome": "skipped", "outputs": {}}
                continue
            outputs, outcome = self._step(name, step, here)
            known[str(step.get("id", number))] = {"outcome": outcome, "outputs": outputs}
            if outcome == "failure" and not step.get("continue-on-error"):
                self.failed = True
        return known

    def _step(self, name: str, step: Mapping[str, Any], context: Context) -> tuple[dict[str, str], str]:
        if "uses" in step:
            with_ = {key: expand(text, context) for key, text in step.get("with", {}).items()}
            own = Step(name, "success")
            try:
                outputs = dict(self.uses[step["uses"].partition("@")[0]](self, with_))
            except StepFailed:
                outputs, own.outcome = {}, "failure"
            self.done.append(own)
            return outputs, own.outcome
        file, script = self.temp / "output", self.temp / "step.sh"
        file.write_text("")
        script.write_text(step["run"])
        assert "${{" not in step["run"], "text that others write must not become code"
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail"] if "shell" in step else ["bash", "-e"]
        folder = self.folder / expand(step.get("working-directory", "."), context)
        variables = {key: expand(text, context) for key, text in step.get("env", {}).items()}
        ran = subprocess.run(
            [*command, str(script)],
            cwd=folder,
            env={**self.environ, "GITHUB_OUTPUT": str(file), **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
        )
        self.done.append(Step(name, "failure" if ran.returncode else "success", ran.stdout))
        outputs = dict(line.split("=", 1) for line in file.read_text().splitlines())
        return outputs, self.done[-1].outcome


class StepFailed(Exception):
    """What a ``uses:`` raises where the action fails."""
