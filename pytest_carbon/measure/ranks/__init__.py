"""The ranks of a run that measure together: what they send each other, who decides and who follows."""
