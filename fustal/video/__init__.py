"""Video files: what needs the optional extra `video`. Nothing else of the package imports it at its start."""
