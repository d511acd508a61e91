"""Years of node life in minutes: Tidegate's pool and its peers' rules in a world made of events.

`python -m bench.simulation`, see `run.py`.  Nothing here opens a socket: what decides on the side
of Tidegate is the real `proxy.pool`, on the side of its peers a model of their documented defaults.
"""
