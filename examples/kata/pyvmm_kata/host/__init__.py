"""What a container has on the host: control groups, mounts, namespaces, routes, its proxy process."""
