"""A process that carries the frames of every link between two TAP devices, as the link is declared."""
