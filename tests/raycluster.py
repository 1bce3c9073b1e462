"""A real Ray cluster of several nodes on this machine, in a process of its own; run as a script it is that process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

QUICK = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}
"""A node that was killed is noticed within seconds."""
STORE_BYTES = 100 * 10**6


def why_not() -> str | None:
    return None if find_spec("ray") else "ray is not installed: pytest-carbon[ray]"


def environment(folder: Path) -> dict[str, str]:
    """The variables of every process that imports Ray.

    Ray imports the package amdsmi where it is installed, as zeus wants it, and fails where AMD's library is missing.
    """
    shim = folder / "without-amd"
    shim.mkdir(exist_ok=True)
    (shim / "amdsmi.py").write_text("raise ImportError('there is no AMD GPU')\n", "utf-8")
    path = os.pathsep.join(filter(None, (str(shim), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": path, "RAY_DEDUP_LOGS": "0", "RAY_USAGE_STATS_ENABLED": "0"}


class RayCluster:
    """``with RayCluster(folder) as cluster: cluster.add(num_gpus=1)``; the first node is the head."""

    def __init__(self, folder: Path) -> None:
        self.environ = environment(folder)
        self.address = ""
        self._temporary = tempfile.TemporaryDirectory(prefix="r", dir="/tmp")  # Ray's sockets want short paths
        self._process = subprocess.Popen(
            [sys.executable, __file__, self._temporary.name],
            env=os.environ | self.environ | QUICK,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def _ask(self, **what: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(what), file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        raise AssertionError(f"the cluster's process ended with {self._process.wait()}")

    def add(self, environ: Mapping[str, str] | None = None, **resources: float) -> None:
        """Add a node; ``environ``: its variables."""
        self.address = self._ask(add=resources, environ=dict(environ or {}))

    def kill(self, node: int) -> None:
        """Kill the processes of a node; the head is 0."""
        self._ask(kill=node)

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        finally:
            self._process.kill()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._temporary.cleanup()


def main(folder: str) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    nodes = []
    for line in sys.stdin:
        what = json.loads(line)
        if "kill" in what:
            cluster.remove_node(nodes[what["kill"]], allow_graceful=False)
        else:
            before = {name: os.environ.get(name) for name in what["environ"]}
            os.environ.update(what["environ"])
            first = {"temp_dir": folder, "include_dashboard": False} if not nodes else {}
            nodes.append(cluster.add_node(object_store_memory=STORE_BYTES, **first, **what["add"]))
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
        print(f"answer {json.dumps(cluster.address)}", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
