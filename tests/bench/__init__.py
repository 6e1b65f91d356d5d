"""The benchmark: pyvmm and Debian's QEMU side by side, in the same lab, in one run (`make bench`).

`python -m tests.bench` on the host prepares everything, starts the lab once without and once with `icount`, and runs
`tests.bench.inside` in it. docs/benchmarks.md says what each row means and how to read it.
"""
