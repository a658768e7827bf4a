"""What a target's own compiler says of a config, on a machine that need not have the target.

topology.py     the table of targets, and the devices of one
worker.py       the process that compiles: a compiler may end its process, or hang for minutes
compiling.py    starts the worker, shows that it lives, and returns what it found
cycles.py       where the cycles go, in the program's own terms
fitting.py      what to change where the memory is too small
printing.py     the answer as lines
"""
