"""What bytes mean.  Nothing here knows a socket, a clock or an event loop."""
