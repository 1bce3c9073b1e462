"""Turn a call into a `Measurement`: meters, loop, and lines through counters."""
