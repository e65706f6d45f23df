"""Pages: plots, sections, HTML."""
