"""What a process gives up that holds a machine, before its guest runs; docs/security.md says why."""
