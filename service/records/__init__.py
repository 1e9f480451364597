"""Records: inspections, their words, reviews and cases in a database, pictures in a folder. store.py opens all of it."""
