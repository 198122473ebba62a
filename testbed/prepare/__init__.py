"""A model made ready for codes: `testbed prepare RECIPE` trains it and its codebooks into a folder that runs name.

recipe.py    the recipe file, read strictly, and written out
source.py    its model: described, and converted
stages.py    what is done, one after the other; work.py: the folder meanwhile, resumed after a kill; progress.py
similarity.py   of embeddings: whether they order sentences as the original's do
card.py      what was done and measured, for people
command.py   `testbed prepare`
folder.py    a finished folder: what a run takes from it, and what it refuses
"""
