"""Autobahn's cases through the proxy and without it: none may go worse through it.

The fuzzing client is kosoku, which runs the cases of the Autobahn test suite on Python 3. `make
test` runs those that are quick, `make autobahn` all.
"""
