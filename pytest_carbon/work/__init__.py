"""A call → the work it does, counted exactly: what it asks of a device, without one.

Only :mod:`counting` is imported without torch; it imports the others once something is counted.
"""
