"""A Ray cluster on this host: ``ray_cluster.py NODES MIB``.

Prints the address, and the id and the process of each node with memory.  Ends at the end of the standard input.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import ray
from ray import cluster_utils

count, memory = int(sys.argv[1]), int(sys.argv[2])
small: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 << 20}
library: Any = ray
cluster: Any = cluster_utils.Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
nodes = [cluster.add_node(**small, resources={"pyvmm_memory": memory}) for _ in range(count)]
keepers = {each.node_id: each.all_processes["raylet"][0].process.pid for each in nodes}
print(json.dumps({"address": cluster.address, "keepers": keepers}), flush=True)
sys.stdin.read()
library.shutdown()
cluster.shutdown()
