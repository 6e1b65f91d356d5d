"""The C data plane on its own, under sanitizers and fuzzers: no Python between a test and the code."""
