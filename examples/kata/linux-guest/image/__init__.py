"""How the image of the guest is made: the agent and crun."""
