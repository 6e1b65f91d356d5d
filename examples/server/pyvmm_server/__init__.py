"""A server for sandboxes on this host, with the interface of E2B: its clients work unchanged."""
