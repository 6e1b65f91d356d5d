"""A pod and its machine: the machine, the agent in it, containers and their processes."""
