"""Phantom beside its peers: the same load, in the same run, on the same machine."""
