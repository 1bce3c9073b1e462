"""Keep the figures of each run in MLflow: one run of the tests is one run there, with one metric for each figure.

pip install mlflow-skinny sqlalchemy alembic
PYTHONPATH=examples/metrics pytest --carbon -p carbon_mlflow
"""

from __future__ import annotations

import os
import re

import mlflow

EXPERIMENT = "energy"


def pytest_carbon_report(config, result):
    """Log what was measured; what is unknown is not logged."""
    mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db"))
    mlflow.set_experiment(EXPERIMENT)
    metrics = {}
    for test in result.tests:
        for measurement, verdict in test.measurements:
            figures = {
                "energy_j": measurement.energy_j_per_call,
                "emissions_g": measurement.emissions_g_per_call,
                "duration_s": measurement.duration_s_per_call,
                "change": verdict.change,
            }
            name = metric_name(f"{test.nodeid}/{measurement.name}", metrics)
            metrics |= {f"{name}/{what}": value for what, value in figures.items() if value is not None}
    tags = {
        "machine": result.machine.id,
        "commit": result.commit or "unknown",
        "exit status": "incomplete" if result.incomplete else str(result.exit_status),
        "suite": result.suite.status,
    }
    with mlflow.start_run(run_name=result.created, tags=tags) as run:
        mlflow.log_metrics(metrics)
    return [f"{len(metrics)} metrics are in run {run.info.run_id} of MLflow's experiment {EXPERIMENT}"]


def metric_name(test, taken):
    """MLflow takes letters, digits and a few signs, 250 at most, and no name that is an odd path."""
    name = re.sub(r"[^\w.\- :/]|(?<=/)/|\.\.", "_", test)[-200:].strip("/. ")
    while f"{name}/duration_s" in taken:  # another test's, with other signs
        name += "_"
    return name
