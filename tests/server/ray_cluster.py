"""A Ray cluster on this host: ``ray_cluster.py NODES MIB``.

Prints the address, and the id and the process of each node with memory.  Ends at the end of the standard input; each
line names a process of a node that is killed with all that Ray has there.
"""

from __future__ import annotations

import json
import sys

import ray
from ray.cluster_utils import Cluster

count, memory = int(sys.argv[1]), int(sys.argv[2])
small = {"num_cpus": 1, "object_store_memory": 80 << 20}
cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
nodes = [cluster.add_node(**small, resources={"pyvmm_memory": memory}) for _ in range(count)]
keepers = {each.node_id: each.all_processes["raylet"][0].process.pid for each in nodes}
print(json.dumps({"address": cluster.address, "keepers": keepers}), flush=True)
sys.stdin.read()
ray.shutdown()
cluster.shutdown()
