"""A call → the work it does, counted exactly: what it asks of a device, without one."""
