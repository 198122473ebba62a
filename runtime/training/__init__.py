"""Codes that are learned: codebooks and weights trained so that coding does little harm.

Nothing here is imported by a device that runs requests.
"""
