"""What ``--carbon-engine=ray`` itself costs: 10,000 tiny tests on a local cluster of four nodes, and in this process.

    python -m benchmarks.ray_engine [--tests 10000] [--nodes 4] [--json FILE]

Each test measures a window in which nothing happens, on a meter that answers at once, so that what is left is the cost
of the plugin: without Ray in one process, and with it on nodes that share this machine's cores. Nodes that are machines
would be faster. The clock runs from the start of pytest to its end, so the start of Ray counts, too.

Bar: on the cluster, a test takes at most 20 ms longer than in one process. Simulated: the GPUs are numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import made_by, write_results

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from raycluster import RayCluster

MOST_MS = 20.0
MODULES = 100
METER = """
from pytest_carbon import Domain, Gpu, MeterSource, Observation

class Still:
    domains = (Domain("gpu:0", "measured", "a number"),)
    stepped = False
    joules = 0.0
    def read_j(self, domain):
        self.joules += 0.5
        return self.joules
    def observe(self, domain):
        return Observation()
    def gpus(self):
        return (Gpu(0, "still-0", "Still"),)
    def close(self):
        pass

def pytest_carbon_meters(config):
    return {"still": MeterSource("still", Still)}
"""
TEST = """
import pytest

@pytest.mark.parametrize("number", range({count}))
def test_it(carbon, number):
    with carbon.window():
        pass
"""


def run(folder: Path, environ: dict[str, str], *options: str) -> dict[str, Any]:
    """Run the suite; return how long it took, and the time and memory of the process that judges."""
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "still", "--carbon"]
    command += ["--carbon-meter=still", "--carbon-intensity=475", "--carbon-min-time=0.01", "--carbon-warmup=0"]
    command += [f"--carbon-json={report}", *options, "tests"]
    variables = {k: v for k, v in os.environ.items() if k not in ("CI", "PYTEST_ADDOPTS")} | environ
    variables |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "pytest_carbon.plugin"}
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), variables.get("PYTHONPATH"))))
    begun_s = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(printed.decode(errors="replace"))
    measured = json.loads(report.read_text("utf-8"))["tests"]
    names = {test["nodeid"] for test in measured if len(test["measurements"][0]["sessions"]) == 1}
    return {
        "seconds": time.perf_counter() - begun_s,
        "tests": len(measured),
        "measured_once": len(names),
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "memory_mb": usage.ru_maxrss / 1024,
        "report_mb": report.stat().st_size / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "still.py").write_text(METER, "utf-8")
        (folder / "tests").mkdir()
        for module in range(MODULES):
            source = TEST.format(count=arguments.tests // MODULES)
            (folder / "tests" / f"test_{module:02}.py").write_text(source, "utf-8")
        alone = run(folder, {})
        print(f"in one process: {alone['seconds']:.1f} s", flush=True)
        with RayCluster(folder) as cluster:
            for _ in range(arguments.nodes):
                cluster.add(num_gpus=1, num_cpus=1)
            on_ray = run(folder, cluster.environ, f"--carbon-engine=ray:{cluster.address}")
    tests = on_ray["tests"]
    own_ms = 1000 * (on_ray["seconds"] - alone["seconds"]) / tests
    whole_ms = 1000 * on_ray["seconds"] / tests
    met = own_ms <= MOST_MS and on_ray["measured_once"] == alone["measured_once"] == arguments.tests
    print(
        f"on {arguments.nodes} Ray nodes: {on_ray['seconds']:.1f} s, {whole_ms:.1f} ms a test; {own_ms:+.1f} ms each"
        f" against one process (bar: at most {MOST_MS:g}); {on_ray['measured_once']} of {arguments.tests}"
        f" measured once; {on_ray['memory_mb']:.0f} MB in the process that judges"
    )
    if arguments.json:
        figures = {"simulated": True, "nodes": arguments.nodes, "one_process": alone, "ray": on_ray}
        figures |= {"ms_a_test": whole_ms, "own_ms_a_test": own_ms, "most_ms": MOST_MS, "met": met}
        children_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        write_results(arguments.json, "ray_engine", made_by("ray_engine"), figures | {"largest_child_mb": children_mb})
    sys.exit(not met)


if __name__ == "__main__":
    main()
