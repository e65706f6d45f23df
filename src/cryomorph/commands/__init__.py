"""One verb a file: options to result to files."""
