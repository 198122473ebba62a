"""What one device does. Needs torch, transformers and the standard library only (ray in `actor.py` alone).

Importing the package is free: nothing heavy is loaded until a module inside it is asked for.
"""
