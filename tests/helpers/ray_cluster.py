"""A Ray cluster of processes of this machine, in a process of its own: orders arrive by stdin.

`add FOLDER OPTIONS` starts a node and prints its number, `remove NUMBER` kills it. The first line is
the address.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

from tests.helpers import tiny


class Nodes:
    """A cluster: a head that runs no cells, and nodes that are added and removed."""

    def __init__(self) -> None:
        self.mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.ray_cluster"],
            cwd=tiny.PROJECT, env=tiny.environment() | {"TEST_CLUSTER": self.mark}, text=True,
            start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.address = str(self._answer())

    def add(self, path: Path | None = None, folder: Path | None = None, **resources: Any) -> int:
        """Starts a node in a folder, where Python imports from `path` first; returns its number."""
        more = {"PYTHONPATH": f"{path}:{tiny.PROJECT}"} if path else {}
        given = {"num_cpus": 1, "env_vars": more, **resources}
        return int(self._order("add", str(folder or tiny.PROJECT), given))

    def remove(self, number: int) -> None:
        """Kills a node and all that runs on it."""
        self._order("remove", number)

    def close(self) -> None:
        """Ends the cluster."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(60)
        tiny.end(self.process)
        assert self.process.stdout
        self.process.stdout.close()

    def workers(self) -> dict[int, int]:
        """The processes that have torch loaded on its nodes, and the parent of each."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                ours = self.mark.encode() in (folder / "environ").read_bytes()
                serves = b"multiprocessing.forkserver" in (folder / "cmdline").read_bytes()
                fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if ours and serves and fields[0] not in "ZX":
                found[int(folder.name)] = int(fields[1])
        return found

    def _order(self, *order: Any) -> Any:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("="):
                return json.loads(line[1:])
        raise AssertionError("the cluster ended")


def serve() -> None:
    """Starts the head and follows orders until stdin ends."""
    from ray.cluster_utils import Cluster

    def answer(what: object) -> None:
        print(f"={json.dumps(what)}", flush=True)

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    answer(cluster.address)
    nodes: list[Any] = []
    for line in sys.stdin:
        verb, *given = json.loads(line)
        if verb == "add":
            with contextlib.chdir(given[0]):
                nodes.append(cluster.add_node(**given[1]))
            answer(len(nodes) - 1)
        else:
            cluster.remove_node(nodes[given[0]], allow_graceful=False)
            answer(None)
    cluster.shutdown()


if __name__ == "__main__":
    serve()
