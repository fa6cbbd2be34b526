"""A whole installation in one file: made while it runs, checked, put into an empty directory."""
