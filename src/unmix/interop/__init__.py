"""Dictionaries of other libraries, a file for each: read into the normal form, or refused by name."""
