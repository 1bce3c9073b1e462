"""What a run looks like to its readers: the terminal, a JSON file."""
