"""What `compare.py` consists of: the cases, how they are measured, and the report."""
