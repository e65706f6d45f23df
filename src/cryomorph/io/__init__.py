"""Files to numpy and back. Imports no torch and converts nothing but formats."""
