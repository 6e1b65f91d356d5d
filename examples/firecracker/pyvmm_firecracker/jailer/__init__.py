"""The jailer: starts the program in a root directory, a control group and namespaces of its own, without rights.

``program.py`` is the command line and the order of the steps, ``root.py`` makes the root directory, ``groups.py`` the
control groups, and ``calls.py`` has the system calls that Python 3.11 lacks.
"""
