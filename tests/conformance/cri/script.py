"""Where the modules of this suite put their scenes."""

from tests.conformance.suite import Script

SCRIPT = Script()
scene = SCRIPT.scene
