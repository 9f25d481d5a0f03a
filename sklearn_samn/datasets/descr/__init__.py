"""Descriptions of the data sets, the ``DESCR`` of what the loaders return."""
