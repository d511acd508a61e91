"""What the operator writes: the model, and the way from a TOML file to it."""
