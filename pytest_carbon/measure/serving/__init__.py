"""Models behind a server: load it, find its processes, and find the stretch in which it is steady."""
