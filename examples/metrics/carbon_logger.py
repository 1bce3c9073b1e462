"""Pass the figures of each run to a logger of experiments: to any object with ``log(dict)`` and ``finish()``.

PYTHONPATH=examples/metrics pytest --carbon -p carbon_logger

Weights & Biases has such an object; with it, let ``logger`` return
``wandb.init(project="energy", mode="offline", config=about)``.
"""

from __future__ import annotations

import json
import os


class JsonLines:
    """The smallest logger: a line of JSON for each call of ``log``."""

    def __init__(self, path, config):
        self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        self.config = config

    def log(self, figures):
        print(json.dumps({**self.config, **figures}), file=self.file)

    def finish(self):
        self.file.close()


def logger(about):
    return JsonLines(os.environ.get("CARBON_LOG", "carbon-log.jsonl"), about)


def pytest_carbon_report(config, result):
    """Log what was measured, with its verdict; what is unknown is None, and no test is left out."""
    run = logger({"machine": result.machine.id, "commit": result.commit, "created": result.created})
    count = 0
    for test in result.tests:
        for measurement, verdict in test.measurements:
            run.log(
                {
                    "test": test.nodeid,
                    "name": measurement.name,
                    "status": verdict.status,
                    "energy_j": measurement.energy_j_per_call,
                    "emissions_g": measurement.emissions_g_per_call,
                    "change": verdict.change,
                }
            )
            count += 1
    run.finish()
    return [f"{count} measurements were logged"]
