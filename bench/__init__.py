"""Tidegate side by side with other proxies: `python -m bench`, see `run.py`."""
