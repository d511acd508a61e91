"""Stand-ins to try the proxy with: a deepstream node, its client, and the demo that uses both."""
