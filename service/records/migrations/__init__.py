"""Alembic's steps from one schema to the next; database.py runs them at open."""
