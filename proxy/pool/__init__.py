"""Which node.  Nothing here knows a socket, a clock or an event loop: time comes in as a number."""
