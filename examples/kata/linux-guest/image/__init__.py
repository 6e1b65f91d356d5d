"""Builds the image of the guest: the agent and crun."""
