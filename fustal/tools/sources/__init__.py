"""Public sources of data sets: `fustal fetch`."""
