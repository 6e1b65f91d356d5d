"""A Ray cluster on this host: ``ray_cluster.py NODES MIB PORT``.

Prints the address, and the id and the process of each node with memory.  On the standard input, ``kill`` and ``start``
are for the head's main process, the GCS.  Ends at the end of the standard input.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import ray
from ray import cluster_utils

count, memory, port = map(int, sys.argv[1:])
small: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 << 20}
head: dict[str, Any] = {**small, "include_dashboard": False, **({"gcs_server_port": port} if port else {})}
library: Any = ray
cluster: Any = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
nodes = [cluster.add_node(**small, resources={"pyvmm_memory": memory}) for _ in range(count)]
keepers = {each.node_id: each.all_processes["raylet"][0].process.pid for each in nodes}
print(json.dumps({"address": cluster.address, "keepers": keepers}), flush=True)
for line in sys.stdin:
    {"kill": cluster.head_node.kill_gcs_server, "start": cluster.head_node.start_gcs_server}[line.strip()]()
    print("done", flush=True)
library.shutdown()
cluster.shutdown()
