"""What the notebooks need beside the library: figures (viz) and exercises' checkers (checks).

Read viz/look.py and checks/__init__.py first; the other files there are one chapter each. What a
notebook's first cell runs is set_up.py.
"""
