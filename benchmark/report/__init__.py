"""From findings to files. Imports analysis and below."""
