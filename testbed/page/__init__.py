"""Run folders -> one HTML page that needs no network, and the same figures as files for a paper.

data.py (with setting.py, figures.py) reads raw records alone; a file per figure turns that into plain plotly figures;
page.py puts them together with markup.py, style.py, page.css and page.js. paper.py draws with matplotlib.
"""
