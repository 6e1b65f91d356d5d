"""Makes the classes of the agent's messages when it is imported: once in a process image, or in a program that makes
many containers. Otherwise each monitor would make them while its guest waits."""

from pyvmm_kata.pod.agent_client import AGENT, HEALTH
from pyvmm_kata.protocol import protobuf

for _name in ("ttrpc.Request", "ttrpc.Response"):
    protobuf.message(_name)
for _name in (AGENT, HEALTH):
    protobuf.methods(_name)
