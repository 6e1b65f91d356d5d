"""What a container has on the host: control groups, mounts, namespaces, networks, its face."""
