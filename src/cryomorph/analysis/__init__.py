"""Numbers and maps from a run; it writes no file and draws nothing."""
