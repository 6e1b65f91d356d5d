"""Images that are kept on this host, each as one read-only file system that all machines share."""
