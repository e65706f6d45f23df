"""Checks of a run: what was measured, what is expected, and what follows; `run_checks` lists those of a report."""
