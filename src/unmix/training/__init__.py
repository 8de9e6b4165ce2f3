"""The sweep: start with `loop.py`."""
