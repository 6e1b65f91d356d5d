"""Suites of conformance: what the specifications ask of a container runtime, and what users see, beside references.

`python -m tests.conformance` runs them in the lab. A *scene* is played with each runtime and gives an observation; the
*cases* of the scene say what is demanded of it.
"""
