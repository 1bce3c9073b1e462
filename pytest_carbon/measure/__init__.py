"""From a call to a `Measurement`: meters, the loop and the lines fitted to the counters."""
