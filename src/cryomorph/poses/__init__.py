"""Pose search and refinement: slice banks, branch and bound, Gauss-Newton."""
