"""Checks: what a run is asked before it is believed."""
