"""This machine, its grid and its repository."""
