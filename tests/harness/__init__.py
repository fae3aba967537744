"""The harness of tests/run: a test is a decorated function, everything it starts dies with it."""

from .suite import Skip, test

__all__ = ["Skip", "test"]
