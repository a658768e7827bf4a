"""The executable tutorial: chapters to read and run, each a Python file in jupytext's py:percent.

`chapters` finds and runs them, `support` has the few functions that they share, and `notebooks`
writes them as Jupyter notebooks. `pages` turns them and the docstrings into pages.
"""
