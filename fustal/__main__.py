"""`python -m fustal`, the same as `fustal`."""

from fustal.cli import main

main()
