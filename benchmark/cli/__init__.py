"""The command line: one file for each verb, its arguments beside what it does."""
