"""What coding costs in accuracy, on trained models: the study behind docs/accuracy.md.

    .venv/bin/python -m benchmarks.accuracy [--quick] [--seeds 3] [--work DIR] [--write docs/accuracy.md]

grid.py       what is trained: the shipped recipes, varied
store.py      where results lie, and what they depend on: what is there is not done again
choice.py     at which rates: chosen on inputs held back from training
work.py       one training and what is measured of it, in a process of its own
figures.py    what is measured: tasks under cuts, losses and rivals
theorems.py   the paper's two theorems on real activations
intervals.py  means over seeds and held-out inputs, with their uncertainty
page.py tables.py order.py plots.py   docs/accuracy.md from results alone
"""
