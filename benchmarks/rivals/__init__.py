"""`make bench-rivals`: aisle's service beside other ways to serve the same model, on the same core.

`contenders.py` says who takes part and how each is set up, `servers/` has their servers, `rounds.py` measures one,
`figures.py` makes medians and ratios of the rounds, and `page.py` writes docs/performance.md.
"""
