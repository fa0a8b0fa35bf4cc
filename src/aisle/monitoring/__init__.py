"""Watching what is served: drift, late labels, and the figures that the verbs tell."""
