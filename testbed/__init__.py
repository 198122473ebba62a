"""A topology file becomes a network, a distributed inference, and a table."""
