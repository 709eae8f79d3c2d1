"""Where rooms' histories are kept beyond the life of the process."""
