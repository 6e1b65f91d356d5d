"""Everything of a machine that is in another process than its caller: the jail, its helpers, and how they are asked."""
