"""The page at ``/``: its files, and what it needs beside E2B's interface.

Whoever opens it gives an API key, and all that it does is a request with this key: it has no rights of its own.
"""
