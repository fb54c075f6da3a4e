"""Conventional sequential recommenders to distil, behind one contract."""
