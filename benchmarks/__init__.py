"""What the pages of figures state, measured on this machine: `python -m benchmarks`."""
