"""Fitting by inference rather than by gradient descent."""
