"""What a process with a machine gives up before its guest runs; docs/security.md has the reasons."""
