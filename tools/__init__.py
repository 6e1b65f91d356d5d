"""What the Makefile's targets do. deps.py and step.py run on whatever python3 the machine has (3.9 or newer)."""
