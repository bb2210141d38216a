"""`python -m fustal`, the same as `fustal`."""

from fustal.tools.cli import main

main()
