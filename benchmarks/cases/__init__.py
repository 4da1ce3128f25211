"""The cases of `trials.py`, as data: what each lays into an empty folder, what it runs there, what must come of it."""
