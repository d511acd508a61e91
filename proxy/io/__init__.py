"""Where Trio, sockets and ssl begin."""
