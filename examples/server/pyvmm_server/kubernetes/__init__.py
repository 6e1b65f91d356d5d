"""``pyvmm serve --engine kubernetes``: serves the objects of SIG Apps' agent-sandbox from the sandboxes of nodes.

Each node runs a server.  One of them, chosen by a Lease, binds claims to sandboxes and fills warm pools; each server
starts and ends the sandboxes of its own node.
"""
