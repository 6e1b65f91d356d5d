"""What a sandbox reaches: rules, and secrets that the host adds to its requests.

A sandbox with rules has a network namespace of its own that leads nowhere.  Its user network (passt) makes connections
there, and all of them arrive at the gateway, a process of the host.  The gateway resolves names and connects to what
the rules allow.  There is no other path: without the gateway, the sandbox reaches nothing.
"""
