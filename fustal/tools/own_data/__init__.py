"""A data set of one's own: `fustal init` and `fustal validate`."""
