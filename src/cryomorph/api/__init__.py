"""What `import cryomorph` offers: runs, maps and selections as Python objects over the commands' own functions."""
