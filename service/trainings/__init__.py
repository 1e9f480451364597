"""Trainings that the service starts and watches: each is `flawscribe train` in a child process, with its folder on disk."""
