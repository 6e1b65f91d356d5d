"""What goes over sockets: protocol buffers, ttrpc to containerd and the agent, JSON to the holder of a machine."""
