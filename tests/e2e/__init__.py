"""Real processes of `phantom`, driven by the programs that a user would take."""
