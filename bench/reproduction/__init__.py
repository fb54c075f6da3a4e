"""`delrec-lite reproduce`: makes the reports of bench/results again and compares their figures."""
