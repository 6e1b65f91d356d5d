"""Arguments that several tools have, as clients see them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pyvmm_mcp.settings import DEFAULT_TIMEOUT

Name = Annotated[str, Field(description="The sandbox, as create_sandbox or fork names it")]
Path = Annotated[str, Field(description="An absolute path in the sandbox")]
Directory = Annotated[str, Field(description="The directory where it starts; empty: the image's")]
Variables = Annotated[dict[str, str] | None, Field(description="More environment variables")]
Timeout = Annotated[
    float | None,
    Field(
        gt=0,
        description=f"Seconds after which it is killed with all that it has started; {DEFAULT_TIMEOUT:g} unless given",
    ),
]
