"""A pod in its machine: the machine, the agent in it, containers and their processes."""
